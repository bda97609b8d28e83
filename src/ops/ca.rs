//! The identities of devices: who may be issued one, and what was issued.

use crate::clock::Moment;
use crate::config::Config;
use crate::error::Result;
use crate::model::Id;
use crate::model::token::{self, Secret};
use crate::protocol::apple::profile::Enrollment;
use crate::store::Conn;
use crate::store::certificates::{self, Certificate, Challenge};

/// How long the challenge of a profile is good.
const CHALLENGE_MS: i64 = 3_600_000;

/// Makes a one-time challenge, for the profile of an enrollment token or for the renewal of a device's identity.
pub async fn challenge(conn: &mut Conn, moment: &mut Moment, token_id: Option<Id>, renews: Option<Id>) -> Result<Secret> {
    let secret = Secret::plain(&moment.secret());
    let now_ms = moment.now_ms;
    let row = Challenge { hash: secret.hash(), token_id, device_id: renews, created_at_ms: now_ms, expires_at_ms: now_ms + CHALLENGE_MS };
    certificates::put_challenge(conn, &row).await?;
    Ok(secret)
}

/// The enrollment profile for a topic, around a challenge.
pub fn profile(config: &Config, topic: &str, challenge: &str) -> Vec<u8> {
    let enrollment = Enrollment {
        public_url: config.public_url.trim_end_matches('/'),
        topic,
        challenge,
        roots: &[],
        ca_fingerprint: None,
        sign_message: config.mdm.sign_message,
    };
    enrollment.to_xml()
}

/// Uses a challenge up and keeps the certificate that is issued against it; false where the challenge is not good.
pub async fn issued(conn: &mut Conn, moment: &Moment, challenge: &str, hash: &str, serial: &str, expires_at_ms: i64) -> Result<bool> {
    let Some(challenge) = certificates::take_challenge(conn, &token::hash(challenge), moment.now_ms).await? else { return Ok(false) };
    let certificate = Certificate {
        hash: hash.to_owned(),
        serial: serial.to_owned(),
        token_id: challenge.token_id,
        device_id: challenge.device_id,
        issued_at_ms: moment.now_ms,
        expires_at_ms,
        revoked_at_ms: None,
    };
    certificates::insert(conn, &certificate).await?;
    Ok(true)
}
