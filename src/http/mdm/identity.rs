//! Whose certificate a request carries. Identity belongs to the request, not to the connection: what signs the message itself decides, then
//! what a trusted proxy says, then the TLS handshake.

use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::READ_AT_ONCE_BYTES_MAX;
use super::refusal::Refusal;
use crate::app::App;
use crate::http::serve::PeerCertificate;
use crate::intake::authority;
use crate::intake::checkins::Credential;
use crate::protocol::apple::CheckinMessage;
use crate::protocol::cms::SignedData;

/// The header of a message's detached signature: base64 of a SignedData, BER.
const SIGNATURE: &str = "mdm-signature";
/// A signature at most; devices send two to four kilobytes.
const SIGNATURE_BYTES_MAX: usize = 16 * 1024;

/// The certificate with which a request was made.
#[derive(Clone, Debug)]
pub struct Presented {
    /// SHA-256 of its DER, lower-case hex.
    pub hash: String,
    der: Vec<u8>,
}

impl Presented {
    fn of(der: Vec<u8>) -> Presented {
        Presented { hash: Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect(), der }
    }
}

/// The certificate of a request whose body came as these bytes. A wrong signature is not made good by anything else.
pub async fn presented(app: &App, peer: IpAddr, parts: &Parts, body: &Bytes) -> Result<Presented, Refusal> {
    if let Some(signature) = parts.headers.get(SIGNATURE) {
        let signature = signature.as_bytes().to_vec();
        return signer(signature, body.clone()).await.map(Presented::of);
    }
    if let Some(der) = handed_on(app, peer, &parts.headers)? {
        return Ok(Presented::of(der));
    }
    let shown = parts.extensions.get::<PeerCertificate>();
    let shown = shown.ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "the request carries no certificate of a device"))?;
    Ok(Presented::of(shown.0.to_vec()))
}

/// The certificate whose key signed the body.
async fn signer(signature: Vec<u8>, body: Bytes) -> Result<Vec<u8>, Refusal> {
    if signature.len() > SIGNATURE_BYTES_MAX {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "Mdm-Signature may have at most 16 KiB"));
    }
    let is_long = body.len() > READ_AT_ONCE_BYTES_MAX;
    let verify = move || {
        let message = STANDARD.decode(&signature).map_err(|_| "Mdm-Signature is no base64".to_owned())?;
        let verified = SignedData::parse(&message).and_then(|signed| signed.verify(Some(&body)));
        verified.map(|verified| verified.certificate.der().to_vec()).map_err(|error| format!("Mdm-Signature: {error}"))
    };
    // A long list is hashed beside the loop that serves everybody.
    let verified =
        if is_long { tokio::task::spawn_blocking(verify).await.unwrap_or_else(|_| Err("it could not be read".into())) } else { verify() };
    verified.map_err(|why| Refusal::new(StatusCode::FORBIDDEN, why))
}

/// The certificate in the header of a trusted proxy.
fn handed_on(app: &App, peer: IpAddr, headers: &HeaderMap) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(name) = app.config.mdm.proxy_client_cert_header.as_ref().filter(|_| app.config.trusted_proxies.contains(&peer)) else {
        return Ok(None);
    };
    let Some(value) = headers.get(name) else { return Ok(None) };
    let der = value.to_str().ok().and_then(certificate);
    der.map(Some).ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "the proxy's header holds no certificate"))
}

/// What is known of a certificate. Only a device that enrolls may show one that is not known: it must then chain to the device CA. Every
/// other message needs the pinned one, whoever issued it and whenever it ended: a device whose certificate ran out must be able to renew it.
pub async fn credential(app: &App, message: &CheckinMessage, presented: Presented) -> Result<Credential, Refusal> {
    let credential = Credential::of(&mut app.db.read().await?, presented.hash).await?;
    let is_new = credential.issued.is_none() && matches!(message, CheckinMessage::Authenticate(_));
    let is_vouched_for = is_new && authority::vouches_for(app, &presented.der).await?;
    Ok(Credential { is_vouched_for, ..credential })
}

/// RFC 9440 (`:base64:`), or a PEM with URL escapes, in which `+` stands for a space only if the armour does.
fn certificate(value: &str) -> Option<Vec<u8>> {
    let value = value.trim();
    if let Some(inner) = value.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')) {
        return STANDARD.decode(inner).ok();
    }
    let value = if value.contains("BEGIN+CERTIFICATE") { value.replace('+', " ") } else { value.to_owned() };
    let pem = unescaped(&value)?;
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    let body: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    STANDARD.decode(body).ok()
}

fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let hex = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}
