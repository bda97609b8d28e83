//! Digests, and signatures checked against a public key: RSA with PKCS#1 v1.5, and ECDSA on P-256 and P-384.
//!
//! `ring` checks them, several times as fast as what is written in Rust alone. It takes no RSA key below 2048 bits and not every pair of a
//! curve and a digest; what it refuses is checked again by the other, whose word is the last.

use der::asn1::ObjectIdentifier;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use ring::signature as fast;
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
pub struct PublicKey {
    kind: Kind,
    /// What its BIT STRING holds: an RSAPublicKey, or a point.
    bits: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Kind {
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
        let kind = match algorithm.oid()? {
            oids::RSA => RsaPublicKey::from_public_key_der(spki).map(Kind::Rsa).map_err(|_| bad)?,
            oids::EC => match algorithm.oid()? {
                oids::EC_P256 => p256::ecdsa::VerifyingKey::from_public_key_der(spki).map(Kind::P256).map_err(|_| bad)?,
                oids::EC_P384 => p384::ecdsa::VerifyingKey::from_public_key_der(spki).map(Kind::P384).map_err(|_| bad)?,
                _ => return Err(PkiError::Unsupported("the curve")),
            },
            _ => return Err(PkiError::Unsupported("the kind of key")),
        };
        // The readers above have seen that no bits are unused.
        let bits = outer.take(tlv::BIT_STRING)?.get(1..).unwrap_or_default().to_vec();
        Ok(PublicKey { kind, bits })
    }

    /// The length of an RSA modulus; `None` for other keys.
    pub fn rsa_bits(&self) -> Option<usize> {
        match &self.kind {
            Kind::Rsa(key) => Some(key.n().bits()),
            _ => None,
        }
    }

    /// Checks a signature over `message`.
    pub fn verify(&self, digest: Digest, message: &[u8], signature: &[u8]) -> Result<()> {
        let is_good = self.is_good_fast(digest, message, signature) || self.is_good(digest, message, signature);
        if is_good { Ok(()) } else { Err(PkiError::Signature) }
    }

    /// What `ring` says; false also where it does not take such a key or signature.
    fn is_good_fast(&self, digest: Digest, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn fast::VerificationAlgorithm = match (&self.kind, digest) {
            (Kind::Rsa(_), Digest::Sha1) => &fast::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
            (Kind::Rsa(_), Digest::Sha256) => &fast::RSA_PKCS1_2048_8192_SHA256,
            (Kind::Rsa(_), Digest::Sha384) => &fast::RSA_PKCS1_2048_8192_SHA384,
            (Kind::Rsa(_), Digest::Sha512) => &fast::RSA_PKCS1_2048_8192_SHA512,
            (Kind::P256(_), Digest::Sha256) => &fast::ECDSA_P256_SHA256_ASN1,
            (Kind::P256(_), Digest::Sha384) => &fast::ECDSA_P256_SHA384_ASN1,
            (Kind::P384(_), Digest::Sha256) => &fast::ECDSA_P384_SHA256_ASN1,
            (Kind::P384(_), Digest::Sha384) => &fast::ECDSA_P384_SHA384_ASN1,
            _ => return false,
        };
        fast::UnparsedPublicKey::new(algorithm, &self.bits).verify(message, signature).is_ok()
    }

    /// The same in Rust alone, for every key and digest that we take.
    fn is_good(&self, digest: Digest, message: &[u8], signature: &[u8]) -> bool {
        let hash = digest.hash(message);
        match &self.kind {
            Kind::Rsa(key) => key.verify(digest.padding(), &hash, signature).is_ok(),
            Kind::P256(key) => {
                p256::ecdsa::Signature::from_der(signature).is_ok_and(|signature| key.verify_prehash(&hash, &signature).is_ok())
            }
            Kind::P384(key) => {
                p384::ecdsa::Signature::from_der(signature).is_ok_and(|signature| key.verify_prehash(&hash, &signature).is_ok())
            }
        }
    }
}

/// Checks a signature whose algorithm stands in an AlgorithmIdentifier that names its digest, as in certificates and requests.
pub fn verify(spki: &[u8], algorithm: &[u8], message: &[u8], signature: &[u8]) -> Result<()> {
    let digest = digest_of(Reader::new(algorithm).oid()?)?.ok_or(PkiError::Unsupported("a signature without a digest"))?;
    PublicKey::from_spki(spki)?.verify(digest, message, signature)
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::hazmat::PrehashSigner;
    use rsa::RsaPrivateKey;
    use rsa::pkcs8::EncodePublicKey;

    use super::*;
    use crate::clock::Moment;
    use crate::protocol::pki::key::Chance;

    const DIGESTS: [Digest; 4] = [Digest::Sha1, Digest::Sha256, Digest::Sha384, Digest::Sha512];
    const MESSAGE: &[u8] = b"what was signed";

    /// One key of each kind that we take, and how it signs a hash.
    type Signs = Box<dyn Fn(Digest, &[u8]) -> Vec<u8>>;

    fn keys() -> Vec<(&'static str, PublicKey, Signs)> {
        let mut moment = Moment::fixed(1, 0);
        let mut keys: Vec<(&'static str, PublicKey, Signs)> = Vec::new();
        for (name, bits) in [("RSA 1024", 1024), ("RSA 2048", 2048), ("RSA 3072", 3072)] {
            let key = RsaPrivateKey::new(&mut Chance(&mut moment), bits).unwrap();
            let spki = key.to_public_key().to_public_key_der().unwrap();
            let signs = move |digest: Digest, hash: &[u8]| key.sign(digest.padding(), hash).unwrap();
            keys.push((name, PublicKey::from_spki(spki.as_bytes()).unwrap(), Box::new(signs)));
        }
        let p256 = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let spki = p256.verifying_key().to_public_key_der().unwrap();
        keys.push((
            "P-256",
            PublicKey::from_spki(spki.as_bytes()).unwrap(),
            Box::new(move |_, hash| {
                PrehashSigner::<p256::ecdsa::Signature>::sign_prehash(&p256, hash).unwrap().to_der().as_bytes().to_vec()
            }),
        ));
        let p384 = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
        let spki = p384.verifying_key().to_public_key_der().unwrap();
        keys.push((
            "P-384",
            PublicKey::from_spki(spki.as_bytes()).unwrap(),
            Box::new(move |_, hash| {
                PrehashSigner::<p384::ecdsa::Signature>::sign_prehash(&p384, hash).unwrap().to_der().as_bytes().to_vec()
            }),
        ));
        keys
    }

    #[test]
    fn both_ways_of_checking_agree_and_what_only_one_takes_is_good_as_well() {
        let mut fast = 0;
        for (name, key, sign) in keys() {
            for digest in DIGESTS {
                // A curve's own signer takes no hash that is shorter than half of it.
                if matches!((&key.kind, digest), (Kind::P384(_), Digest::Sha1)) {
                    continue;
                }
                let signature = sign(digest, &digest.hash(MESSAGE));
                assert!(key.is_good(digest, MESSAGE, &signature), "{name} {digest:?}");
                assert_eq!(key.verify(digest, MESSAGE, &signature), Ok(()), "{name} {digest:?}");
                fast += usize::from(key.is_good_fast(digest, MESSAGE, &signature));
                for at in [0, signature.len() / 2, signature.len() - 1] {
                    let mut other = signature.clone();
                    other[at] ^= 1;
                    assert!(!key.is_good(digest, MESSAGE, &other) && !key.is_good_fast(digest, MESSAGE, &other), "{name} {digest:?} {at}");
                }
                let longer = [signature.as_slice(), &[0]].concat();
                for (message, signature) in [(&b"another"[..], &signature), (MESSAGE, &longer)] {
                    assert!(!key.is_good_fast(digest, message, signature), "{name} {digest:?}");
                    assert_eq!(key.verify(digest, message, signature), Err(PkiError::Signature), "{name} {digest:?}");
                }
            }
        }
        // RSA of 2048 and 3072 bits with four digests each, the two curves with two.
        assert_eq!(fast, 2 * 4 + 2 * 2);
    }
}
