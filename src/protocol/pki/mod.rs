//! Certificates, requests and keys: what the device CA and CMS are made of (RFC 5280, RFC 2986, X.690).

pub mod ber;
pub mod certificate;
pub mod chain;
pub mod key;
pub mod name;
pub mod oids;
pub mod request;
pub mod signature;
pub mod tlv;

pub use certificate::{Certificate, Purpose};
pub use key::Key;

/// Why bytes are no certificate, no message, or not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error("larger or deeper than allowed")]
    TooLarge,
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    #[error("the signature is wrong")]
    Signature,
    /// One answer for every way in which decrypting fails: which one it was would help an attacker.
    #[error("the message does not decrypt")]
    Undecryptable,
    #[error("the key is unusable: {0}")]
    Key(&'static str),
}

/// A result of this module and of [`crate::protocol::cms`].
pub type Result<T> = std::result::Result<T, PkiError>;
