//! Devices that leave: they check out, are deleted, or give way to a newcomer that an operator admits.

use serde_json::json;

use super::{Answer, CERTIFICATE, ENROLLMENT_ID, UDID, hold};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::Id;
use crate::ops::activate::PARKED;
use crate::ops::findings;
use crate::ops::tasks::{self, EndCause};
use crate::store::apple::{self, Enrollment};
use crate::store::devices::{self, DeviceRow};
use crate::store::feed::{self, Entry};
use crate::store::{Conn, channels};

/// How a device is managed that tells only its EnrollmentID.
pub const USER_ENROLLMENT: &str = "user_enrollment";

/// What a parked newcomer is found by again.
pub(super) fn parked_key(kind: &str, identifier: &str, user: Option<Id>) -> String {
    format!("{kind}/{identifier}/{}", user.map(|id| id.to_string()).unwrap_or_default())
}

fn key_kind_of(device: &DeviceRow) -> &'static str {
    if device.management_mode == USER_ENROLLMENT { ENROLLMENT_ID } else { UDID }
}

/// The device says that its management was removed: its channels close, its tasks end. Its certificate stays known, so that a farewell
/// that is repeated is answered alike.
pub(super) async fn check_out(conn: &mut Conn, moment: &mut Moment, channels: Vec<Id>, enrollment: Enrollment) -> Result<Answer> {
    let device_id = enrollment.device_id;
    let has_agent = close(conn, moment, channels, enrollment, EndCause::Left).await?;
    if !has_agent {
        devices::set_state(conn, device_id, "unmanaged", moment.now_ms).await?;
        findings::close_all(conn, moment, &[device_id], "left").await?;
    }
    let actor = Some(format!("device:{device_id}"));
    feed::append(conn, moment, &[Entry { kind: "device.left", actor, device_id: Some(device_id), data: json!({}) }]).await?;
    Ok(Answer::Accepted)
}

/// Ends an enrollment; answers whether an agent is left on the device.
async fn close(conn: &mut Conn, moment: &mut Moment, channels: Vec<Id>, enrollment: Enrollment, cause: EndCause) -> Result<bool> {
    let device_id = enrollment.device_id;
    let agent = channels::credentials(conn, device_id).await?.map(|agent| agent.id);
    let ours: Vec<Id> = channels.into_iter().filter(|channel| Some(*channel) != agent).collect();
    apple::leave(conn, device_id).await?;
    let gone = Enrollment { state: "left".into(), unlock_token: None, bootstrap_token: None, lost_mode: None, ..enrollment };
    apple::put(conn, &gone).await?;
    tasks::end_open(conn, moment, &ours, cause).await?;
    Ok(agent.is_some())
}

/// A parked newcomer was admitted: the device that has its UDID leaves, and the newcomer comes in by its next Authenticate.
pub async fn admitted(conn: &mut Conn, moment: &mut Moment, newcomer: &DeviceRow) -> Result<()> {
    let Some(identifier) = &newcomer.udid else { return Ok(()) };
    let kind = key_kind_of(newcomer);
    if let Some(former) = devices::by_key(conn, kind, identifier).await?.filter(|former| *former != newcomer.id) {
        if let (channels, Some(enrollment)) = hold(conn, former).await? {
            devices::drop_key(conn, CERTIFICATE, &enrollment.certificate_hash, former).await?;
            close(conn, moment, channels, enrollment, EndCause::ReEnrolled).await?;
        }
        devices::set_state(conn, former, "unmanaged", moment.now_ms).await?;
        findings::close_all(conn, moment, &[former], "replaced").await?;
        let data = json!({"by": newcomer.id});
        feed::append(conn, moment, &[Entry { kind: "device.replaced", actor: None, device_id: Some(former), data }]).await?;
    }
    devices::move_key(conn, kind, identifier, newcomer.id).await?;
    devices::drop_key(conn, PARKED, &parked_key(kind, identifier, newcomer.user_id), newcomer.id).await
}

/// Frees what a deleted device was found by.
pub async fn forget(conn: &mut Conn, device: &DeviceRow) -> Result<()> {
    if let Some(enrollment) = apple::get(conn, device.id).await? {
        for hash in [Some(&enrollment.certificate_hash), enrollment.former_certificate_hash.as_ref()].into_iter().flatten() {
            devices::drop_key(conn, CERTIFICATE, hash, device.id).await?;
        }
        apple::declarative::forget(conn, device.id).await?;
        apple::delete(conn, device.id).await?;
    }
    let Some(identifier) = &device.udid else { return Ok(()) };
    let kind = key_kind_of(device);
    devices::drop_key(conn, kind, identifier, device.id).await?;
    devices::drop_key(conn, PARKED, &parked_key(kind, identifier, device.user_id), device.id).await
}
