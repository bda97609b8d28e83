//! EnvelopedData (RFC 5652, 6) for one kind of recipient: RSA key transport with PKCS#1 v1.5.

use rsa::pkcs8::DecodePublicKey;
use rsa::{Pkcs1v15Encrypt, RsaPublicKey};

use super::cipher::Cipher;
use super::pki::key::{Chance, Key};
use super::pki::tlv::{self, Reader, SEQUENCE};
use super::pki::{Certificate, PkiError, Result, ber, oids};
use super::{Whose, content_info, issuer_and_serial, wrapped};
use crate::clock::Moment;

/// Recipients of a message at most.
const RECIPIENTS_MAX: usize = 16;

/// A message for whoever has the key of one of its recipients.
#[derive(Clone, Debug)]
pub struct Enveloped {
    recipients: Vec<Recipient>,
    cipher: Cipher,
    iv: Vec<u8>,
    sealed: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Recipient {
    whose: Whose,
    key: Vec<u8>,
}

impl Enveloped {
    /// Reads a ContentInfo, BER.
    pub fn parse(bytes: &[u8]) -> Result<Enveloped> {
        let der = ber::to_der(bytes)?;
        let mut data = content_info(&der, oids::ENVELOPED_DATA)?;
        data.take(tlv::INTEGER)?;
        data.take_if(tlv::CONTEXT_0)?;
        let mut infos = data.inside(tlv::SET)?;
        let mut recipients = Vec::new();
        while !infos.is_empty() {
            let info = infos.read()?;
            if recipients.len() == RECIPIENTS_MAX {
                return Err(PkiError::TooLarge);
            }
            // Other kinds of recipients have other tags, and are others.
            if info.tag == SEQUENCE {
                let mut info = Reader::new(info.body);
                info.take(tlv::INTEGER)?;
                let whose = Whose::read(&mut info)?;
                let transport = info.inside(SEQUENCE)?.oid()?;
                let key = info.take(tlv::OCTET_STRING)?.to_vec();
                if transport == oids::RSA {
                    recipients.push(Recipient { whose, key });
                }
            }
        }
        let mut content = data.inside(SEQUENCE)?;
        content.oid()?;
        let mut algorithm = content.inside(SEQUENCE)?;
        let cipher = Cipher::of(algorithm.oid()?).ok_or(PkiError::Unsupported("the cipher"))?;
        let iv = algorithm.take(tlv::OCTET_STRING)?.to_vec();
        let part = content.read()?;
        let sealed = match part.tag {
            tlv::CONTEXT_0_PRIMITIVE => part.body.to_vec(),
            // A string in pieces, which the tag hides from the transcoder.
            tlv::CONTEXT_0 => ber::joined(part.body)?,
            _ => return Err(PkiError::Malformed("an envelope without content")),
        };
        Ok(Enveloped { recipients, cipher, iv, sealed })
    }

    /// The cipher that its sender chose.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Opens it with the key of `recipient`. Whatever goes wrong is [`PkiError::Undecryptable`]: a key that does not open is replaced by a
    /// random one, so that an answer says nothing about the padding inside RSA (RFC 3218).
    pub fn open(&self, moment: &mut Moment, recipient: &Certificate, key: &Key) -> Result<Vec<u8>> {
        let mine = self.recipients.iter().find(|one| one.whose.is(recipient)).ok_or(PkiError::Undecryptable)?;
        let instead = moment.secret()[..self.cipher.key_bytes()].to_vec();
        let opened = key.decrypt(moment, &mine.key).ok().filter(|opened| opened.len() == instead.len());
        self.cipher.decrypt(&opened.unwrap_or(instead), &self.iv, &self.sealed)
    }

    /// Encrypts to the RSA key of `recipient`; a ContentInfo, DER.
    pub fn seal(moment: &mut Moment, recipient: &Certificate, cipher: Cipher, content: &[u8]) -> Result<Vec<u8>> {
        let public = RsaPublicKey::from_public_key_der(recipient.spki()).map_err(|_| PkiError::Key("only RSA keys are encrypted to"))?;
        let content_key = moment.secret()[..cipher.key_bytes()].to_vec();
        let iv = moment.secret()[..cipher.block_bytes()].to_vec();
        let sealed = cipher.encrypt(&content_key, &iv, content)?;
        let transported =
            public.encrypt(&mut Chance(moment), Pkcs1v15Encrypt, &content_key).map_err(|_| PkiError::Key("it does not encrypt"))?;
        let null = tlv::wrap(tlv::NULL, &[]);
        let to = tlv::wrap(
            SEQUENCE,
            &[
                &tlv::small(0),
                &issuer_and_serial(recipient),
                &tlv::algorithm(oids::RSA, &null),
                &tlv::wrap(tlv::OCTET_STRING, &[&transported]),
            ],
        );
        let algorithm = tlv::algorithm(cipher.oid(), &tlv::wrap(tlv::OCTET_STRING, &[&iv]));
        let inner = tlv::wrap(SEQUENCE, &[&tlv::oid(oids::DATA), &algorithm, &tlv::wrap(tlv::CONTEXT_0_PRIMITIVE, &[&sealed])]);
        let data = tlv::wrap(SEQUENCE, &[&tlv::small(0), &tlv::wrap(tlv::SET, &[&to]), &inner]);
        Ok(wrapped(oids::ENVELOPED_DATA, &data))
    }
}
