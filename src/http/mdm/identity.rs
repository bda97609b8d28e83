//! Whose certificate a request carries. Identity belongs to the request, not to the connection.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::refusal::Refusal;
use crate::app::App;
use crate::intake::authority;
use crate::intake::checkins::Credential;
use crate::protocol::apple::CheckinMessage;

/// The certificate with which a request was made.
#[derive(Clone, Debug)]
pub struct Presented {
    /// SHA-256 of its DER, lower-case hex.
    pub hash: String,
    der: Vec<u8>,
}

/// The certificate of a request: out of the header of a trusted proxy.
pub fn presented(app: &App, peer: IpAddr, headers: &HeaderMap, _body: &[u8]) -> Result<Presented, Refusal> {
    let none = || Refusal::new(StatusCode::FORBIDDEN, "the request carries no certificate of a device");
    let name = app.config.mdm.proxy_client_cert_header.as_ref().ok_or_else(none)?;
    if !app.config.trusted_proxies.contains(&peer) {
        return Err(none());
    }
    let value = headers.get(name).and_then(|value| value.to_str().ok()).ok_or_else(none)?;
    let der = certificate(value).ok_or_else(|| Refusal::new(StatusCode::FORBIDDEN, "the proxy's header holds no certificate"))?;
    Ok(Presented { hash: Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect(), der })
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
