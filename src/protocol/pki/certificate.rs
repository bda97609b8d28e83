//! X.509 certificates (RFC 5280): read as far as they are looked at, and made.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::asn1::{GeneralizedTime, ObjectIdentifier, UtcTime};
use der::{DateTime, Decode, Encode};
use sha2::{Digest, Sha256};

use super::key::Key;
use super::tlv::{self, Reader, SEQUENCE};
use super::{PkiError, Result, name, oids, signature};
use crate::clock::Moment;

/// Certificates of a PEM file at most.
const CHAIN_MAX: usize = 16;
const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
const AUTHORITY_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.35");
/// Clocks of devices lag.
const BACKDATED_MS: i64 = 600_000;

/// A certificate. Two are the same where their bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    parts: Parts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    /// The signed part, whole.
    tbs: Vec<u8>,
    /// Without sign octet handling: as it stands.
    serial: Vec<u8>,
    issuer: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    from_ms: i64,
    until_ms: i64,
    is_ca: bool,
    uses: Uses,
    key_id: Option<Vec<u8>>,
    /// The content of the AlgorithmIdentifier.
    algorithm: Vec<u8>,
    signature: Vec<u8>,
}

/// What a certificate says that its key is for; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Uses {
    signs: Option<bool>,
    authenticates_clients: Option<bool>,
}

/// What a certificate is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Issues others.
    Ca,
    /// Speaks for a CA: opens requests and signs answers.
    Transport,
    /// Is a device's identity.
    Device,
}

/// What is to be certified.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub purpose: Purpose,
    pub common_name: &'a str,
    /// DER.
    pub spki: &'a [u8],
    /// How long it lives from now; never longer than its issuer.
    pub life_ms: i64,
}

impl Certificate {
    /// Reads DER; nothing may follow.
    pub fn from_der(der: &[u8]) -> Result<Certificate> {
        let mut whole = Reader::new(der);
        let mut outer = whole.inside(SEQUENCE)?;
        whole.end()?;
        let tbs = outer.read()?;
        let algorithm = outer.take(SEQUENCE)?.to_vec();
        let signature = bits(outer.take(tlv::BIT_STRING)?)?.to_vec();
        outer.end()?;
        let mut inner = Reader::new(tbs.raw).inside(SEQUENCE)?;
        inner.take_if(tlv::CONTEXT_0)?;
        let serial = inner.take(tlv::INTEGER)?.to_vec();
        inner.take(SEQUENCE)?;
        let issuer = inner.read()?.raw.to_vec();
        let mut validity = inner.inside(SEQUENCE)?;
        let (from_ms, until_ms) = (time(&mut validity)?, time(&mut validity)?);
        let subject = inner.read()?.raw.to_vec();
        let spki = inner.read()?.raw.to_vec();
        let (mut is_ca, mut uses, mut key_id) = (false, Uses::default(), None);
        while !inner.is_empty() {
            let part = inner.read()?;
            if part.tag == 0xa3 {
                let mut extensions = Reader::new(part.body).inside(SEQUENCE)?;
                while !extensions.is_empty() {
                    let mut extension = extensions.inside(SEQUENCE)?;
                    let name = extension.oid()?;
                    extension.take_if(tlv::BOOLEAN)?;
                    let mut value = Reader::new(extension.take(tlv::OCTET_STRING)?);
                    match name {
                        BASIC_CONSTRAINTS => {
                            is_ca = value.inside(SEQUENCE)?.take_if(tlv::BOOLEAN)?.is_some_and(|flag| flag == [0xff]);
                        }
                        // The number of unused bits, then digitalSignature as the first bit.
                        KEY_USAGE => uses.signs = Some(value.take(tlv::BIT_STRING)?.get(1).is_some_and(|bits| bits & 0x80 != 0)),
                        EXTENDED_KEY_USAGE => {
                            let (mut usages, mut found) = (value.inside(SEQUENCE)?, false);
                            while !usages.is_empty() {
                                // Whatever else stands there, however it is written, is something else.
                                let usage = usages.read()?.body;
                                found |= [oids::CLIENT_AUTH, oids::ANY_USAGE].iter().any(|client| client.as_bytes() == usage);
                            }
                            uses.authenticates_clients = Some(found);
                        }
                        SUBJECT_KEY => key_id = Some(value.take(tlv::OCTET_STRING)?.to_vec()),
                        _ => {}
                    }
                }
            }
        }
        let tbs = tbs.raw.to_vec();
        Ok(Certificate {
            der: der.to_vec(),
            parts: Parts { tbs, serial, issuer, subject, spki, from_ms, until_ms, is_ca, uses, key_id, algorithm, signature },
        })
    }

    /// All certificates of a PEM text, in their order; at least one.
    pub fn chain_from_pem(pem: &str) -> Result<Vec<Certificate>> {
        let mut found = Vec::new();
        for part in pem.split("-----BEGIN CERTIFICATE-----").skip(1) {
            let (body, _) = part.split_once("-----END CERTIFICATE-----").ok_or(PkiError::Malformed("PEM"))?;
            let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
            let der = STANDARD.decode(body).map_err(|_| PkiError::Malformed("PEM"))?;
            found.push(Certificate::from_der(&der)?);
            if found.len() > CHAIN_MAX {
                return Err(PkiError::TooLarge);
            }
        }
        if found.is_empty() { Err(PkiError::Malformed("there is no certificate")) } else { Ok(found) }
    }

    pub fn to_pem(&self) -> String {
        let text = STANDARD.encode(&self.der);
        let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of its DER.
    pub fn fingerprint(&self) -> Vec<u8> {
        Sha256::digest(&self.der).to_vec()
    }

    /// SHA-256 of its DER, lower-case hex.
    pub fn hash(&self) -> String {
        hex(&self.fingerprint())
    }

    /// The content of the serial number's INTEGER.
    pub fn serial(&self) -> &[u8] {
        &self.parts.serial
    }

    /// The serial number, lower-case hex.
    pub fn serial_hex(&self) -> String {
        hex(&self.parts.serial)
    }

    /// The issuer's name, DER.
    pub fn issuer(&self) -> &[u8] {
        &self.parts.issuer
    }

    /// The subject's name, DER.
    pub fn subject(&self) -> &[u8] {
        &self.parts.subject
    }

    /// The SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.parts.spki
    }

    /// The subject key identifier.
    pub fn key_id(&self) -> Option<&[u8]> {
        self.parts.key_id.as_deref()
    }

    pub fn is_ca(&self) -> bool {
        self.parts.is_ca
    }

    /// True where it may be a client's: no CA's, and its key usages, where it names any, allow that (RFC 5280, 4.2.1.3 and 4.2.1.12).
    pub fn is_for_clients(&self) -> bool {
        let Uses { signs, authenticates_clients } = self.parts.uses;
        !self.parts.is_ca && signs != Some(false) && authenticates_clients != Some(false)
    }

    /// Unix milliseconds.
    pub fn from_ms(&self) -> i64 {
        self.parts.from_ms
    }

    /// Unix milliseconds.
    pub fn until_ms(&self) -> i64 {
        self.parts.until_ms
    }

    pub fn is_valid_at(&self, now_ms: i64) -> bool {
        (self.parts.from_ms..=self.parts.until_ms).contains(&now_ms)
    }

    /// True where `issuer` is a CA that signed it.
    pub fn is_issued_by(&self, issuer: &Certificate) -> bool {
        let parts = &self.parts;
        issuer.parts.is_ca
            && parts.issuer == issuer.parts.subject
            && signature::verify(&issuer.parts.spki, &parts.algorithm, &parts.tbs, &parts.signature).is_ok()
    }

    /// Makes a certificate of `issuer`; of itself where there is none.
    pub fn issue(moment: &mut Moment, issuer: Option<&Certificate>, key: &Key, wanted: &Wanted<'_>) -> Result<Certificate> {
        let ends_ms = wanted.life_ms.saturating_add(moment.now_ms);
        let until_ms = issuer.map_or(ends_ms, |issuer| ends_ms.min(issuer.until_ms()));
        let subject = name::of(&[(name::ORGANISATION, "Muster"), (name::COMMON_NAME, wanted.common_name)]);
        let issuer_name = issuer.map_or(subject.as_slice(), Certificate::subject);
        let mut serial = moment.secret()[..16].to_vec();
        // Positive, and of the length that it says.
        serial[0] = serial[0] & 0x3f | 0x40;
        let algorithm = algorithm(key);
        let own_id = key_id_of(wanted.spki)?;
        let issuer_id = match issuer {
            Some(issuer) => issuer.key_id().map(<[u8]>::to_vec),
            None => Some(own_id.clone()),
        };
        let validity = tlv::wrap(SEQUENCE, &[&encoded(moment.now_ms - BACKDATED_MS)?, &encoded(until_ms)?]);
        let extensions = extensions(wanted.purpose, &own_id, issuer_id.as_deref());
        let tbs = tlv::wrap(
            SEQUENCE,
            &[
                &tlv::wrap(tlv::CONTEXT_0, &[&tlv::small(2)]),
                &tlv::wrap(tlv::INTEGER, &[&serial]),
                &algorithm,
                issuer_name,
                &validity,
                &subject,
                wanted.spki,
                &tlv::wrap(0xa3, &[&tlv::wrap(SEQUENCE, &[&extensions])]),
            ],
        );
        let signature = key.sign(&tbs)?;
        let signature = tlv::wrap(tlv::BIT_STRING, &[&[0], &signature]);
        Certificate::from_der(&tlv::wrap(SEQUENCE, &[&tbs, &algorithm, &signature]))
    }
}

/// The AlgorithmIdentifier of what a key signs: RSA has NULL for parameters, ECDSA has none.
pub fn algorithm(key: &Key) -> Vec<u8> {
    let null = tlv::wrap(tlv::NULL, &[]);
    tlv::algorithm(key.algorithm(), if matches!(key, Key::Rsa(_)) { &null } else { &[] })
}

/// The content of a BIT STRING of whole octets.
pub(super) fn bits(body: &[u8]) -> Result<&[u8]> {
    match body {
        [0, octets @ ..] => Ok(octets),
        _ => Err(PkiError::Malformed("a bit string that ends within an octet")),
    }
}

fn extensions(purpose: Purpose, own_id: &[u8], issuer_id: Option<&[u8]>) -> Vec<u8> {
    let yes = tlv::wrap(tlv::BOOLEAN, &[&[0xff]]);
    let extension = |name, is_critical: bool, value: &[u8]| {
        let critical: &[u8] = if is_critical { &yes } else { &[] };
        tlv::wrap(SEQUENCE, &[&tlv::oid(name), critical, &tlv::wrap(tlv::OCTET_STRING, &[value])])
    };
    // A CA issues leaves alone.
    let constraints = if purpose == Purpose::Ca { tlv::wrap(SEQUENCE, &[&yes, &tlv::small(0)]) } else { tlv::wrap(SEQUENCE, &[]) };
    // keyCertSign and cRLSign, or digitalSignature and keyEncipherment: the number of unused bits stands first.
    let usage: [u8; 2] = if purpose == Purpose::Ca { [1, 0x06] } else { [5, 0xa0] };
    let mut all = extension(BASIC_CONSTRAINTS, true, &constraints);
    all.extend(extension(KEY_USAGE, true, &tlv::wrap(tlv::BIT_STRING, &[&usage])));
    if purpose == Purpose::Device {
        all.extend(extension(EXTENDED_KEY_USAGE, false, &tlv::wrap(SEQUENCE, &[&tlv::oid(oids::CLIENT_AUTH)])));
    }
    all.extend(extension(SUBJECT_KEY, false, &tlv::wrap(tlv::OCTET_STRING, &[own_id])));
    if let Some(id) = issuer_id {
        all.extend(extension(AUTHORITY_KEY, false, &tlv::wrap(SEQUENCE, &[&tlv::wrap(tlv::CONTEXT_0_PRIMITIVE, &[id])])));
    }
    all
}

/// 160 bits of the key's SHA-256 (RFC 7093, method 1).
fn key_id_of(spki: &[u8]) -> Result<Vec<u8>> {
    let mut outer = Reader::new(spki).inside(SEQUENCE)?;
    outer.take(SEQUENCE)?;
    Ok(Sha256::digest(bits(outer.take(tlv::BIT_STRING)?)?)[..20].to_vec())
}

/// A Time as Unix milliseconds.
fn time(reader: &mut Reader<'_>) -> Result<i64> {
    let bad = |_| PkiError::Malformed("a time");
    let value = reader.read()?;
    let since = if value.tag == tlv::UTC_TIME {
        UtcTime::from_der(value.raw).map_err(bad)?.to_unix_duration()
    } else {
        GeneralizedTime::from_der(value.raw).map_err(bad)?.to_unix_duration()
    };
    Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A Time: UTCTime until 2049, as RFC 5280 demands.
pub fn encoded(ms: i64) -> Result<Vec<u8>> {
    let bad = |_| PkiError::Malformed("a time");
    let date = DateTime::from_unix_duration(std::time::Duration::from_secs(u64::try_from(ms / 1000).unwrap_or(0))).map_err(bad)?;
    match UtcTime::from_date_time(date) {
        Ok(time) => time.to_der().map_err(bad),
        Err(_) => GeneralizedTime::from_date_time(date).to_der().map_err(bad),
    }
}

/// Lower-case hex, as hashes and serial numbers are stored.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
