//! The block ciphers that envelopes use, all in CBC mode with PKCS#7 padding. DES and 3DES are there because clients choose them
//! whatever they are told; what they protect is a request that is good once.

use aes::{Aes128, Aes256};
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use cbc::{Decryptor, Encryptor};
use der::asn1::ObjectIdentifier;
use des::{Des, TdesEde3};

use super::pki::{PkiError, Result, oids};

/// A cipher of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    Des,
    Des3,
    Aes128,
    Aes256,
}

impl Cipher {
    pub const ALL: [Cipher; 4] = [Cipher::Des, Cipher::Des3, Cipher::Aes128, Cipher::Aes256];

    /// The cipher that an identifier names.
    pub fn of(oid: ObjectIdentifier) -> Option<Cipher> {
        Cipher::ALL.into_iter().find(|cipher| cipher.oid() == oid)
    }

    pub fn oid(self) -> ObjectIdentifier {
        match self {
            Cipher::Des => oids::DES_CBC,
            Cipher::Des3 => oids::DES3_CBC,
            Cipher::Aes128 => oids::AES128_CBC,
            Cipher::Aes256 => oids::AES256_CBC,
        }
    }

    pub fn key_bytes(self) -> usize {
        match self {
            Cipher::Des => 8,
            Cipher::Des3 => 24,
            Cipher::Aes128 => 16,
            Cipher::Aes256 => 32,
        }
    }

    /// A block, and the initialisation vector.
    pub fn block_bytes(self) -> usize {
        if matches!(self, Cipher::Des | Cipher::Des3) { 8 } else { 16 }
    }

    pub fn encrypt(self, key: &[u8], iv: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let bad = |_| PkiError::Key("its length is not the cipher's");
        Ok(match self {
            Cipher::Des => Encryptor::<Des>::new_from_slices(key, iv).map_err(bad)?.encrypt_padded_vec_mut::<Pkcs7>(plain),
            Cipher::Des3 => Encryptor::<TdesEde3>::new_from_slices(key, iv).map_err(bad)?.encrypt_padded_vec_mut::<Pkcs7>(plain),
            Cipher::Aes128 => Encryptor::<Aes128>::new_from_slices(key, iv).map_err(bad)?.encrypt_padded_vec_mut::<Pkcs7>(plain),
            Cipher::Aes256 => Encryptor::<Aes256>::new_from_slices(key, iv).map_err(bad)?.encrypt_padded_vec_mut::<Pkcs7>(plain),
        })
    }

    pub fn decrypt(self, key: &[u8], iv: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let opened = match self {
            Cipher::Des => Decryptor::<Des>::new_from_slices(key, iv).map(|c| c.decrypt_padded_vec_mut::<Pkcs7>(sealed)),
            Cipher::Des3 => Decryptor::<TdesEde3>::new_from_slices(key, iv).map(|c| c.decrypt_padded_vec_mut::<Pkcs7>(sealed)),
            Cipher::Aes128 => Decryptor::<Aes128>::new_from_slices(key, iv).map(|c| c.decrypt_padded_vec_mut::<Pkcs7>(sealed)),
            Cipher::Aes256 => Decryptor::<Aes256>::new_from_slices(key, iv).map(|c| c.decrypt_padded_vec_mut::<Pkcs7>(sealed)),
        };
        opened.map_err(|_| PkiError::Undecryptable)?.map_err(|_| PkiError::Undecryptable)
    }
}
