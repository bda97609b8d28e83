//! Requests for identities: read, weighed, and answered once, however often they come.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::authority::Authority;
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Id, token};
use crate::ops::mdm::{self, CERTIFICATE};
use crate::protocol::apple::scep::{Asked, FailInfo, Kind};
use crate::protocol::cms::{Cipher, Whose};
use crate::protocol::pki::certificate::hex;
use crate::protocol::pki::request::Request;
use crate::protocol::pki::signature::PublicKey;
use crate::protocol::pki::{self, Certificate, PkiError};
use crate::store::certificates::{self, Certificate as Row};
use crate::store::feed::{self, Entry};
use crate::store::{Conn, apple, devices};

/// Smaller RSA keys are not certified.
const RSA_BITS_MIN: usize = 2048;
/// Certificates of one serial number that are looked at; it has 128 random bits.
const OF_SERIAL_MAX: i64 = 4;

/// A request that was understood, with the certificate that it gets if it may have one.
#[derive(Clone, Debug)]
pub struct Wish {
    pub asked: Asked,
    pub cipher: Cipher,
    /// Says which request it is.
    hash: String,
    challenge: Option<String>,
    certificate: Certificate,
}

/// A request for a certificate that was issued before.
#[derive(Clone, Debug)]
pub struct Search {
    pub asked: Asked,
    pub cipher: Cipher,
    whose: Whose,
}

/// What becomes of a message that is SCEP.
#[derive(Clone, Debug)]
pub enum Read {
    Wish(Box<Wish>),
    Search(Box<Search>),
    /// No database is needed to say no.
    Refused(Box<Asked>, FailInfo),
}

/// Reads a message and makes the certificate that it asks for, which nobody has before [`decide`] says so. Takes milliseconds. An error is
/// for what is no SCEP message at all.
pub fn read(moment: &mut Moment, authority: &Authority, bytes: &[u8]) -> pki::Result<Read> {
    let asked = Asked::read(bytes)?;
    let understood = match asked.kind {
        Kind::First | Kind::Renewal | Kind::Update => wish(moment, authority, &asked),
        Kind::GetCert => search(moment, authority, &asked),
        // There is no transaction that it could be about.
        Kind::Poll => Err(FailInfo::BadCertId),
        Kind::GetCrl | Kind::Other => Err(FailInfo::BadRequest),
    };
    Ok(understood.unwrap_or_else(|why| Read::Refused(Box::new(asked), why)))
}

/// What the envelope of a message holds, and its cipher.
fn opened(moment: &mut Moment, authority: &Authority, asked: &Asked) -> std::result::Result<(Vec<u8>, Cipher), FailInfo> {
    let envelope = asked.envelope().map_err(|error| match error {
        PkiError::Unsupported(_) => FailInfo::BadAlg,
        _ => FailInfo::BadMessageCheck,
    })?;
    let transport = &authority.transport;
    // Whatever is wrong up to here and with the request inside is answered alike: it says nothing about how far decrypting came.
    let plain = envelope.open(moment, transport.certificate(), &transport.key).map_err(|_| FailInfo::BadMessageCheck)?;
    Ok((plain, envelope.cipher()))
}

fn search(moment: &mut Moment, authority: &Authority, asked: &Asked) -> std::result::Result<Read, FailInfo> {
    let (plain, cipher) = opened(moment, authority, asked)?;
    let whose = Whose::from_der(&plain).map_err(|_| FailInfo::BadMessageCheck)?;
    Ok(Read::Search(Box::new(Search { asked: asked.clone(), cipher, whose })))
}

fn wish(moment: &mut Moment, authority: &Authority, asked: &Asked) -> std::result::Result<Read, FailInfo> {
    let (plain, cipher) = opened(moment, authority, asked)?;
    let request = Request::from_der(&plain).map_err(|_| FailInfo::BadMessageCheck)?;
    let key = PublicKey::from_spki(&request.spki).map_err(|_| FailInfo::BadAlg)?;
    if key.rsa_bits().is_some_and(|bits| bits < RSA_BITS_MIN) {
        return Err(FailInfo::BadAlg);
    }
    let mut hash = Sha256::new();
    for part in [&asked.transaction, asked.signer.der(), &plain] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let hash = hex(&hash.finalize());
    let certificate = authority.certify(moment, &request.spki).map_err(|_| FailInfo::BadRequest)?;
    Ok(Read::Wish(Box::new(Wish { asked: asked.clone(), cipher, hash, challenge: request.challenge, certificate })))
}

/// The certificate that is looked for. It is given to the device alone whose it is or was, which signs with one that it has: anybody else is
/// told that there is none.
pub async fn find(conn: &mut Conn, moment: &Moment, search: &Search) -> Result<std::result::Result<Certificate, FailInfo>> {
    let signer = &search.asked.signer;
    let is_known = certificates::find(conn, &signer.hash()).await?.is_some_and(|known| known.revoked_at_ms.is_none());
    let device = devices::by_key(conn, CERTIFICATE, &signer.hash()).await?.filter(|_| is_known && signer.is_valid_at(moment.now_ms));
    let Whose::IssuerAndSerial(_, serial) = &search.whose else { return Ok(Err(FailInfo::BadCertId)) };
    let Some(device) = device else { return Ok(Err(FailInfo::BadCertId)) };
    for row in certificates::of_serial(conn, &hex(serial), OF_SERIAL_MAX).await? {
        let Ok(certificate) = again(&row) else { continue };
        if search.whose.is(&certificate) && devices::by_key(conn, CERTIFICATE, &row.hash).await? == Some(device) {
            return Ok(Ok(certificate));
        }
    }
    Ok(Err(FailInfo::BadCertId))
}

/// The certificate that answers a wish, or why there is none. The same request gets the same certificate again.
pub async fn decide(conn: &mut Conn, moment: &mut Moment, wish: &Wish) -> Result<std::result::Result<Certificate, FailInfo>> {
    if let Some(before) = certificates::answered(conn, &wish.hash).await? {
        return Ok(again(&before));
    }
    let from = match &wish.challenge {
        Some(challenge) => by_challenge(conn, moment, challenge).await?,
        None if wish.asked.kind.renews() => by_certificate(conn, moment, &wish.asked.signer, &wish.certificate).await?,
        None => Err(FailInfo::BadRequest),
    };
    let (token_id, device_id) = match from {
        Ok(from) => from,
        // Somebody else may have had the challenge a moment ago: the same request on another connection.
        Err(why) => return Ok(certificates::answered(conn, &wish.hash).await?.map_or(Err(why), |before| again(&before))),
    };
    let row = row(&wish.certificate, &wish.hash, (token_id, device_id), moment.now_ms);
    if !certificates::insert(conn, &row).await? {
        return Ok(certificates::answered(conn, &wish.hash).await?.map_or(Err(FailInfo::BadRequest), |before| again(&before)));
    }
    let data = json!({"serial": row.serial, "enrollment_token": token_id, "expires_at_ms": row.expires_at_ms});
    feed::append(conn, moment, &[Entry { kind: "certificate.issued", actor: None, device_id, data }]).await?;
    Ok(Ok(wish.certificate.clone()))
}

fn again(before: &Row) -> std::result::Result<Certificate, FailInfo> {
    let der = STANDARD.decode(&before.der).ok().filter(|_| before.revoked_at_ms.is_none());
    der.and_then(|der| Certificate::from_der(&der).ok()).ok_or(FailInfo::BadRequest)
}

fn row(certificate: &Certificate, request_hash: &str, (token_id, device_id): (Option<Id>, Option<Id>), now_ms: i64) -> Row {
    Row {
        hash: certificate.hash(),
        der: STANDARD.encode(certificate.der()),
        request_hash: request_hash.to_owned(),
        serial: certificate.serial_hex(),
        token_id,
        device_id,
        issued_at_ms: now_ms,
        expires_at_ms: certificate.until_ms(),
        revoked_at_ms: None,
    }
}

/// Of which enrollment token and device a certificate is.
type From = std::result::Result<(Option<Id>, Option<Id>), FailInfo>;

async fn by_challenge(conn: &mut Conn, moment: &Moment, challenge: &str) -> Result<From> {
    let taken = certificates::take_challenge(conn, &token::hash(challenge), moment.now_ms).await?;
    Ok(taken.map(|taken| (taken.token_id, taken.device_id)).ok_or(FailInfo::BadRequest))
}

/// A device asks with the identity that it has. The new one opens its enrollment from now on beside the present one: a device that is not
/// told to by a profile switches without a word.
async fn by_certificate(conn: &mut Conn, moment: &Moment, signer: &Certificate, new: &Certificate) -> Result<From> {
    let hash = signer.hash();
    let Some(known) = certificates::find(conn, &hash).await?.filter(|known| known.revoked_at_ms.is_none()) else {
        return Ok(Err(FailInfo::BadCertId));
    };
    if !signer.is_valid_at(moment.now_ms) {
        return Ok(Err(FailInfo::BadTime));
    }
    let Some(device_id) = devices::by_key(conn, CERTIFICATE, &hash).await? else { return Ok(Err(FailInfo::BadCertId)) };
    let (_, enrollment) = mdm::hold(conn, device_id).await?;
    let is_denied = devices::get(conn, device_id).await?.is_none_or(|device| device.denied.is_some());
    let Some(enrollment) = enrollment.filter(|enrollment| enrollment.state == "enrolled" && enrollment.admits(&hash) && !is_denied) else {
        return Ok(Err(FailInfo::BadCertId));
    };
    let (new_hash, renew_at_ms) = (new.hash(), mdm::renew_at_ms(moment.now_ms, new.until_ms()));
    if devices::claim_key(conn, CERTIFICATE, &new_hash, device_id).await?.is_some() {
        return Ok(Err(FailInfo::BadCertId));
    }
    let row = apple::Enrollment {
        certificate_hash: hash.clone(),
        former_certificate_hash: Some(new_hash.clone()),
        renew_at_ms: Some(renew_at_ms),
        ..enrollment
    };
    apple::put(conn, &row).await?;
    apple::pin(conn, device_id, &hash, Some(&new_hash)).await?;
    Ok(Ok((known.token_id, Some(device_id))))
}

/// Uses a challenge up and keeps a certificate that is issued against it; false where the challenge is not good.
pub async fn issued(conn: &mut Conn, moment: &Moment, challenge: &str, certificate: &Certificate) -> Result<bool> {
    let Ok(from) = by_challenge(conn, moment, challenge).await? else { return Ok(false) };
    certificates::insert(conn, &row(certificate, &certificate.hash(), from, moment.now_ms)).await
}
