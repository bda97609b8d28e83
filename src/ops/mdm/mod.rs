//! What Apple devices do: they enroll, tell where they can be nudged, leave; and how tasks become commands.

mod admit;
mod authenticate;
pub mod checkin;
pub mod command_id;
pub mod declarative;
mod leave;
pub mod lost;
pub mod own;
pub mod plan;
pub mod profiles;
pub mod raw;
pub mod topics;

pub use authenticate::authenticate;
pub use checkin::checkin;
pub use leave::{USER_ENROLLMENT, admitted, forget};

use crate::error::Result;
use crate::model::Id;
use crate::protocol::apple::{Checkin, Enrollee};
use crate::store::apple::{self, Enrollment};
use crate::store::{Conn, certificates, channels_lock, devices};

/// The key under which a device with a UDID is found.
pub const UDID: &str = "udid";
/// The key under which a device is found that tells only its EnrollmentID.
pub const ENROLLMENT_ID: &str = "enrollment_id";

/// The certificate that a device speaks with, by its hash: one certificate serves one device.
pub const CERTIFICATE: &str = "certificate";

/// What the settings say about Apple devices.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Devices that a user may have unless the user's own limit says otherwise; 0 for any number.
    pub devices_per_user: i64,
    /// False where any certificate of the device CA lets a new device in.
    pub known_certificate: bool,
    /// True where a known device may enroll again under another token.
    pub reenrollment: bool,
    /// The server asks a device about itself when the last answers are older; 0 for never.
    pub refresh_every_s: i64,
    /// True where users with network accounts are managed.
    pub network_users: bool,
}

/// The certificate with which a device speaks.
#[derive(Clone, Debug)]
pub struct Credential {
    /// SHA-256 of its DER, lower-case hex.
    pub hash: String,
    /// What is known of it, where this server issued it.
    pub issued: Option<Issued>,
    /// True where it chains to the device CA and is good now, though this server does not know that it was issued.
    pub is_vouched_for: bool,
}

/// For whom this server issued a certificate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Issued {
    /// The enrollment token whose profile carried the challenge.
    pub token_id: Option<Id>,
    /// The device whose identity it renews.
    pub renews: Option<Id>,
    /// When it is to be renewed: after two thirds of its life, or 30 days before its end.
    pub renew_at_ms: i64,
}

/// So long before its end a certificate is renewed at the latest.
const RENEW_BEFORE_MS: i64 = 30 * 86_400_000;

/// When a certificate is to be renewed.
pub(super) fn renew_at_ms(issued_at_ms: i64, expires_at_ms: i64) -> i64 {
    (issued_at_ms + (expires_at_ms - issued_at_ms) * 2 / 3).min(expires_at_ms - RENEW_BEFORE_MS)
}

impl Credential {
    /// The credential of a certificate, with what is known of it. One that was revoked is as good as unknown.
    pub async fn of(conn: &mut Conn, hash: String) -> Result<Credential> {
        let known = certificates::find(conn, &hash).await?.filter(|known| known.revoked_at_ms.is_none());
        let issued = known.map(|known| {
            let renew_at_ms = renew_at_ms(known.issued_at_ms, known.expires_at_ms);
            Issued { token_id: known.token_id, renews: known.device_id, renew_at_ms }
        });
        Ok(Credential { hash, issued, is_vouched_for: false })
    }
}

/// A check-in message as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub checkin: Checkin,
    pub credential: Credential,
    /// The peer's address, for the token's record.
    pub remote: String,
}

/// What a check-in is answered. A refusal is an outcome, not an error: what it leaves behind is committed.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// 200 without a body.
    Accepted,
    /// 200 with a property list.
    Plist(Vec<u8>),
    /// 200 with JSON.
    Json(Vec<u8>),
    /// 404: the device is not assigned this declaration, upon which it drops it.
    NotAssigned,
    /// 410: the user is not managed.
    NotManaged,
    /// 400: not a message for this server.
    Unsupported(&'static str),
    /// 403: code and sentence.
    Refused(&'static str, &'static str),
}

/// The kind of the key under which an enrollee's device is found.
pub fn key_kind(from: &Enrollee) -> &'static str {
    if from.is_user_enrollment { ENROLLMENT_ID } else { UDID }
}

/// Locks the channels of a device and then its enrollment, which is answered with them: check-ins of one device wait for each other and
/// for its contacts.
pub(super) async fn hold(conn: &mut Conn, device: Id) -> Result<(Vec<Id>, Option<Enrollment>)> {
    let channels = devices::channels_of(conn, &[device]).await?;
    channels_lock(conn, &channels).await?;
    Ok((channels, apple::locked(conn, device).await?))
}

/// The device of an enrollee.
pub async fn device_of(conn: &mut Conn, from: &Enrollee) -> Result<Option<Id>> {
    devices::by_key(conn, key_kind(from), &from.id).await
}
