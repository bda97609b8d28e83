//! Authenticate: an enrollment begins, or begins anew.

use serde_json::json;

use super::admit::{self, Entrance};
use super::{Answer, Arrival, CERTIFICATE, Credential, Rules, device_of, hold, key_kind};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Denial, Id};
use crate::ops::tasks::{self, EndCause};
use crate::protocol::apple::checkin::{Authenticate, platform_of};
use crate::store::Conn;
use crate::store::apple::{self, Enrollment, NewChannel};
use crate::store::devices::{self, DeviceRow};
use crate::store::feed::{self, Entry};

pub(super) const UNKNOWN_CERTIFICATE: Answer =
    Answer::Refused("certificate_unknown", "this certificate opens no enrollment of this device");
const OTHERS_CERTIFICATE: Answer = Answer::Refused("certificate_taken", "this certificate is another device's");
const UNAUTHORIZED: Answer = Answer::Refused("device_unauthorized", "this device may not enroll; an operator can authorize it");

/// Admits a device or refuses it; a refusal is told in the audit.
pub async fn authenticate(conn: &mut Conn, moment: &mut Moment, rules: Rules, arrival: &Arrival, said: &Authenticate) -> Result<Answer> {
    let answer = decide(conn, moment, rules, arrival, said).await?;
    let outcome = match answer {
        Answer::Refused(code, _) => code,
        _ => "admitted",
    };
    metrics::counter!("muster_activations_total", "outcome" => outcome).increment(1);
    if let Answer::Refused(code, _) = &answer {
        let data =
            json!({"code": code, "udid": arrival.checkin.from.id, "serial": said.serial, "model": said.model, "remote": arrival.remote});
        let actor = Some(format!("remote:{}", arrival.remote));
        feed::append(conn, moment, &[Entry { kind: "activation.refused", actor, device_id: None, data }]).await?;
    }
    Ok(answer)
}

async fn decide(conn: &mut Conn, moment: &mut Moment, rules: Rules, arrival: &Arrival, said: &Authenticate) -> Result<Answer> {
    let Arrival { checkin, credential, .. } = arrival;
    if !checkin.from.is_device() {
        return Ok(Answer::Unsupported("only a device enrolls; its users follow by TokenUpdate"));
    }
    let lets_in = credential.issued.is_some() || (credential.is_vouched_for && !rules.known_certificate);
    if !lets_in && device_by(conn, credential).await?.is_none() {
        return Ok(UNKNOWN_CERTIFICATE);
    }
    // Users and tokens come before everything else in the order of the locks.
    let entrance = match admit::entrance(conn, moment, credential).await? {
        Ok(entrance) => entrance,
        Err(refused) => return Ok(refused),
    };
    let bound = device_by(conn, credential).await?;
    let Some(known) = device_of(conn, &checkin.from).await? else {
        if bound.is_some() {
            return Ok(OTHERS_CERTIFICATE);
        }
        return admit::newcomer(conn, moment, rules, arrival, said, entrance).await;
    };
    if bound.is_some_and(|bound| bound != known) {
        return Ok(OTHERS_CERTIFICATE);
    }
    let Some(device) = devices::get(conn, known).await? else {
        devices::drop_key(conn, key_kind(&checkin.from), &checkin.from.id, known).await?;
        return admit::newcomer(conn, moment, rules, arrival, said, entrance).await;
    };
    if device.denied.as_deref().and_then(Denial::named).is_some_and(Denial::bars_hardware) {
        return Ok(UNAUTHORIZED);
    }
    returning(conn, moment, rules, arrival, said, entrance, device, bound.is_some()).await
}

/// A device that is known comes again. `same_certificate` says that it does so with the identity it had.
#[expect(clippy::too_many_arguments, reason = "everything that the decision weighs")]
async fn returning(
    conn: &mut Conn,
    moment: &mut Moment,
    rules: Rules,
    arrival: &Arrival,
    said: &Authenticate,
    entrance: Entrance,
    device: DeviceRow,
    same_certificate: bool,
) -> Result<Answer> {
    let (_, before) = hold(conn, device.id).await?;
    let is_renewal = arrival.credential.issued.is_some_and(|issued| issued.renews == Some(device.id));
    if is_renewal && let Some(before) = before {
        renewed(conn, moment, arrival, said, before).await?;
        return Ok(Answer::Accepted);
    }
    let is_enrolled = before.as_ref().is_some_and(|before| before.state == "enrolled");
    let same_token = match (&entrance.token, &before) {
        (Some(token), Some(before)) => before.token_id == Some(token.id) || token.device_id == Some(device.id),
        (Some(token), None) => token.device_id == Some(device.id) || device.state == "expected",
        (None, before) => before.is_none() || !is_enrolled,
    };
    let same_user = entrance.user.as_ref().is_none_or(|user| device.user_id.is_none_or(|id| id == user.id));
    let may = same_certificate || (same_user && (same_token || rules.reenrollment || !is_enrolled));
    if !may {
        return admit::park(conn, moment, arrival, said, &entrance).await;
    }
    // An enrollment that had ended, or an admitted newcomer, comes in by a token with a use of it.
    let needs_use = !same_certificate && (before.is_none() || !same_token);
    if let Err(refused) = admit::come_in(conn, moment, rules, arrival, &entrance, &device, needs_use).await? {
        return Ok(refused);
    }
    begin(conn, moment, arrival, said, entrance, device).await?;
    Ok(Answer::Accepted)
}

/// The identity was renewed: queue, tokens and everything else stay. The order to renew is proved by it.
async fn renewed(conn: &mut Conn, moment: &mut Moment, arrival: &Arrival, said: &Authenticate, before: Enrollment) -> Result<()> {
    let device_id = before.device_id;
    let hash = arrival.credential.hash.clone();
    let is_new = before.certificate_hash != hash;
    let former = if is_new { Some(before.certificate_hash.clone()) } else { before.former_certificate_hash.clone() };
    let renew_at_ms = arrival.credential.issued.map(|issued| issued.renew_at_ms);
    let (certificate_hash, former_certificate_hash) = (hash.clone(), former.clone());
    let row = Enrollment { certificate_hash, former_certificate_hash, renew_at_ms, topic: said.topic.clone(), ..before };
    apple::put(conn, &row).await?;
    apple::pin(conn, device_id, &hash, former.as_deref()).await?;
    devices::move_key(conn, CERTIFICATE, &hash, device_id).await?;
    tell(conn, moment, "device.identity_renewed", device_id, arrival).await
}

/// An enrollment begins: what was before it ends. Nothing is sent to the device before its TokenUpdate.
pub(super) async fn begin(
    conn: &mut Conn,
    moment: &mut Moment,
    arrival: &Arrival,
    said: &Authenticate,
    entrance: Entrance,
    mut device: DeviceRow,
) -> Result<()> {
    let Arrival { checkin: crate::protocol::apple::Checkin { from, .. }, credential, .. } = arrival;
    let (channels, before) = hold(conn, device.id).await?;
    let former = before.as_ref().map(|before| before.certificate_hash.clone()).filter(|former| *former != credential.hash);
    let token_id = entrance.token.as_ref().map(|token| token.id).or(before.as_ref().and_then(|before| before.token_id));
    device.platform = platform_of(&said.product).into();
    device.serial = said.serial.clone().or(device.serial);
    device.model = if said.product.is_empty() { device.model } else { said.product.clone() };
    device.os_version = if said.os_version.is_empty() { device.os_version } else { said.os_version.clone() };
    device.udid = Some(from.id.clone());
    device.user_id = entrance.user.as_ref().map(|user| user.id).or(device.user_id);
    device.management_mode = admit::mode_of(from).into();
    devices::update(conn, &device).await?;
    crate::ops::devices::reindex_by_id(conn, device.id).await?;
    devices::move_key(conn, CERTIFICATE, &credential.hash, device.id).await?;
    let channel = NewChannel {
        id: moment.id_beside(device.id),
        device_id: device.id,
        platform: device.platform.clone(),
        certificate_hash: credential.hash.clone(),
        former_hash: former.clone(),
        enrollment_token_id: token_id,
    };
    apple::reset(conn, &channel, moment.now_ms).await?;
    apple::end_users(conn, device.id).await?;
    let row = Enrollment {
        device_id: device.id,
        identifier: from.id.clone(),
        state: "pending".into(),
        token_id,
        certificate_hash: credential.hash.clone(),
        former_certificate_hash: former,
        renew_at_ms: credential.issued.map(|issued| issued.renew_at_ms),
        topic: said.topic.clone(),
        unlock_token: before.and_then(|before| before.unlock_token),
        bootstrap_token: None,
        awaiting_configuration: 0,
        authenticated_at_ms: moment.now_ms,
        enrolled_at_ms: None,
        refresh_started_ms: None,
        refresh_step: 0,
        refreshed_at_ms: None,
        lost_mode: None,
    };
    apple::put(conn, &row).await?;
    let agents = crate::store::channels::credentials(conn, device.id).await?.map(|agent| agent.id);
    let ours: Vec<Id> = channels.into_iter().filter(|channel| Some(*channel) != agents).collect();
    if !ours.is_empty() {
        tasks::end_open(conn, moment, &ours, EndCause::ReEnrolled).await?;
    }
    tell(conn, moment, "device.authenticated", device.id, arrival).await
}

async fn tell(conn: &mut Conn, moment: &mut Moment, kind: &'static str, device: Id, arrival: &Arrival) -> Result<()> {
    let data = json!({"udid": arrival.checkin.from.id, "remote": arrival.remote});
    feed::append(conn, moment, &[Entry { kind, actor: Some(format!("device:{device}")), device_id: Some(device), data }]).await
}

/// The device that has this certificate.
async fn device_by(conn: &mut Conn, credential: &Credential) -> Result<Option<Id>> {
    devices::by_key(conn, CERTIFICATE, &credential.hash).await
}
