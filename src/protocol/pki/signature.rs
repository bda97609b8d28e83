//! Digests, and signatures checked against a public key: RSA with PKCS#1 v1.5, and ECDSA on P-256 and P-384.

use der::asn1::ObjectIdentifier;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::pkcs8::DecodePublicKey;
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha2::Digest as _;

use super::tlv::{self, Reader};
use super::{PkiError, Result, oids};

/// A hash function that a message may use. SHA-1 is what older devices sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Digest {
    /// The digest that an identifier names.
    pub fn of(oid: ObjectIdentifier) -> Option<Digest> {
        [Digest::Sha1, Digest::Sha256, Digest::Sha384, Digest::Sha512].into_iter().find(|digest| digest.oid() == oid)
    }

    pub fn oid(self) -> ObjectIdentifier {
        match self {
            Digest::Sha1 => oids::SHA1,
            Digest::Sha256 => oids::SHA256,
            Digest::Sha384 => oids::SHA384,
            Digest::Sha512 => oids::SHA512,
        }
    }

    pub fn hash(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Digest::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
            Digest::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Digest::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Digest::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        }
    }

    fn length(self) -> usize {
        match self {
            Digest::Sha1 => 20,
            Digest::Sha256 => 32,
            Digest::Sha384 => 48,
            Digest::Sha512 => 64,
        }
    }

    /// How a digest stands in an RSA signature (RFC 8017, 9.2): the DigestInfo up to the hash itself.
    pub(super) fn padding(self) -> Pkcs1v15Sign {
        let hash = vec![0; self.length()];
        let whole =
            tlv::wrap(tlv::SEQUENCE, &[&tlv::algorithm(self.oid(), &tlv::wrap(tlv::NULL, &[])), &tlv::wrap(tlv::OCTET_STRING, &[&hash])]);
        let prefix = whole[..whole.len() - self.length()].into();
        Pkcs1v15Sign { hash_len: Some(self.length()), prefix }
    }
}

/// The digest that a signature algorithm names by itself, `None` where it leaves it to another field; an error for what is not supported.
pub fn digest_of(algorithm: ObjectIdentifier) -> Result<Option<Digest>> {
    Ok(match algorithm {
        oids::RSA | oids::EC => None,
        oids::RSA_SHA1 | oids::ECDSA_SHA1 => Some(Digest::Sha1),
        oids::RSA_SHA256 | oids::ECDSA_SHA256 => Some(Digest::Sha256),
        oids::RSA_SHA384 | oids::ECDSA_SHA384 => Some(Digest::Sha384),
        oids::RSA_SHA512 | oids::ECDSA_SHA512 => Some(Digest::Sha512),
        _ => return Err(PkiError::Unsupported("the signature algorithm")),
    })
}

/// A public key that can check signatures.
#[derive(Clone, Debug)]
pub enum PublicKey {
    Rsa(RsaPublicKey),
    P256(p256::ecdsa::VerifyingKey),
    P384(p384::ecdsa::VerifyingKey),
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo, DER. RSA moduli have at most 4096 bits.
    pub fn from_spki(spki: &[u8]) -> Result<PublicKey> {
        let bad = PkiError::Malformed("a public key");
        let mut outer = Reader::new(spki).inside(tlv::SEQUENCE)?;
        let mut algorithm = outer.inside(tlv::SEQUENCE)?;
        match algorithm.oid()? {
            oids::RSA => RsaPublicKey::from_public_key_der(spki).map(PublicKey::Rsa).map_err(|_| bad),
            oids::EC => match algorithm.oid()? {
                oids::EC_P256 => p256::ecdsa::VerifyingKey::from_public_key_der(spki).map(PublicKey::P256).map_err(|_| bad),
                oids::EC_P384 => p384::ecdsa::VerifyingKey::from_public_key_der(spki).map(PublicKey::P384).map_err(|_| bad),
                _ => Err(PkiError::Unsupported("the curve")),
            },
            _ => Err(PkiError::Unsupported("the kind of key")),
        }
    }

    /// The length of an RSA modulus; `None` for other keys.
    pub fn rsa_bits(&self) -> Option<usize> {
        match self {
            PublicKey::Rsa(key) => Some(key.n().bits()),
            _ => None,
        }
    }

    /// Checks a signature over `message`.
    pub fn verify(&self, digest: Digest, message: &[u8], signature: &[u8]) -> Result<()> {
        let hash = digest.hash(message);
        let is_good = match self {
            PublicKey::Rsa(key) => key.verify(digest.padding(), &hash, signature).is_ok(),
            PublicKey::P256(key) => {
                p256::ecdsa::Signature::from_der(signature).is_ok_and(|signature| key.verify_prehash(&hash, &signature).is_ok())
            }
            PublicKey::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).is_ok_and(|signature| key.verify_prehash(&hash, &signature).is_ok())
            }
        };
        if is_good { Ok(()) } else { Err(PkiError::Signature) }
    }
}

/// Checks a signature whose algorithm stands in an AlgorithmIdentifier that names its digest, as in certificates and requests.
pub fn verify(spki: &[u8], algorithm: &[u8], message: &[u8], signature: &[u8]) -> Result<()> {
    let digest = digest_of(Reader::new(algorithm).oid()?)?.ok_or(PkiError::Unsupported("a signature without a digest"))?;
    PublicKey::from_spki(spki)?.verify(digest, message, signature)
}
