//! The identities of devices: who may be issued one, and what was issued.

pub mod authority;
pub mod issue;

use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::model::token::Secret;
use crate::store::Conn;
use crate::store::certificates::{self, Challenge};

pub use authority::{Authority, Pair};
pub use issue::issued;

/// How long the challenge of a profile is good.
const CHALLENGE_MS: i64 = 3_600_000;

/// Makes a one-time challenge for the profile of an enrollment token.
pub async fn challenge(conn: &mut Conn, moment: &mut Moment, token_id: Id) -> Result<Secret> {
    let (secret, row) = unkept_challenge(moment, Some(token_id), None);
    certificates::put_challenge(conn, &row).await?;
    Ok(secret)
}

/// The same for the renewal of a device's identity too, with the row that the caller keeps of it.
pub fn unkept_challenge(moment: &mut Moment, token_id: Option<Id>, renews: Option<Id>) -> (Secret, Challenge) {
    let secret = Secret::plain(&moment.secret());
    let now_ms = moment.now_ms;
    let row = Challenge { hash: secret.hash(), token_id, device_id: renews, created_at_ms: now_ms, expires_at_ms: now_ms + CHALLENGE_MS };
    (secret, row)
}
