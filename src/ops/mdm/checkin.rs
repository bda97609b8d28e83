//! Check-in messages after the first: they need the certificate that Authenticate pinned.

use serde_json::json;

use super::authenticate::{UNKNOWN_CERTIFICATE, authenticate};
use super::{Answer, Arrival, Rules, declarative, device_of, hold, leave};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::{Id, Lane};
use crate::ops::settle;
use crate::protocol::apple::CheckinMessage;
use crate::protocol::apple::checkin::{Secret, TokenUpdate};
use crate::protocol::apple::command::xml;
use crate::protocol::apple::declarative::Asked;
use crate::seal::Seal;
use crate::store::apple::{self, Address, Enrollment, NewChannel};
use crate::store::feed::{self, Entry};
use crate::store::wakes::{self, Raise};
use crate::store::{Conn, devices};

/// Applies one message in the caller's transaction.
pub async fn checkin(conn: &mut Conn, moment: &mut Moment, seal: &Seal, rules: Rules, arrival: &Arrival) -> Result<Answer> {
    let checkin = &arrival.checkin;
    match &checkin.message {
        CheckinMessage::Authenticate(said) => return authenticate(conn, moment, rules, arrival, said).await,
        CheckinMessage::GetToken => return Ok(Answer::Unsupported("this server gives no such tokens")),
        _ => {}
    }
    let Some(device_id) = device_of(conn, &checkin.from).await? else { return Ok(UNKNOWN_CERTIFICATE) };
    let (channels, Some(enrollment)) = hold(conn, device_id).await? else { return Ok(UNKNOWN_CERTIFICATE) };
    if !enrollment.admits(&arrival.credential.hash) {
        return Ok(UNKNOWN_CERTIFICATE);
    }
    let is_device = checkin.from.is_device();
    match &checkin.message {
        CheckinMessage::UserAuthenticate { answers } => Ok(user_authenticate(rules, &enrollment, *answers)),
        // A second farewell says nothing new.
        CheckinMessage::CheckOut if enrollment.state == "left" => Ok(Answer::Accepted),
        _ if enrollment.state == "left" => Ok(Answer::Refused("enrollment_over", "this enrollment has ended; enroll again")),
        CheckinMessage::TokenUpdate(update) if is_device => token_update(conn, moment, seal, rules, arrival, enrollment, update).await,
        CheckinMessage::TokenUpdate(update) => user_token_update(conn, moment, seal, arrival, enrollment, update).await,
        CheckinMessage::CheckOut if is_device => leave::check_out(conn, moment, channels, enrollment).await,
        CheckinMessage::SetBootstrapToken(token) if is_device => set_bootstrap(conn, moment, seal, enrollment, token.as_ref()).await,
        CheckinMessage::GetBootstrapToken if is_device => Ok(get_bootstrap(seal, &enrollment)),
        CheckinMessage::DeclarativeManagement { endpoint, data } => match Asked::of(endpoint) {
            Some(Asked::Status) if enrollment.state == "enrolled" => {
                declarative::report(conn, moment, seal, device_id, &checkin.from, data.as_deref().unwrap_or_default()).await
            }
            Some(asked) => declarative::mint_and_read(conn, moment, seal, &checkin.from, &arrival.credential.hash, &asked).await,
            None => Ok(Answer::Unsupported("there is no such endpoint of declarative management")),
        },
        _ => Ok(Answer::Unsupported("this is no message of a user")),
    }
}

/// A secret of a device is sealed under this name.
pub fn secret_name(device: Id, what: &str) -> String {
    format!("device/{device}/{what}")
}

/// The PushMagic of a channel is sealed under this name.
pub fn magic_name(channel: Id) -> String {
    format!("channel/{channel}/push_magic")
}

/// The device can be nudged from now on. The first such message of an enrollment completes it.
async fn token_update(
    conn: &mut Conn,
    moment: &mut Moment,
    seal: &Seal,
    rules: Rules,
    arrival: &Arrival,
    enrollment: Enrollment,
    update: &TokenUpdate,
) -> Result<Answer> {
    let device_id = enrollment.device_id;
    let Some(channel) = apple::channel_of(conn, device_id, "").await? else { return Ok(UNKNOWN_CERTIFICATE) };
    let is_first = enrollment.state == "pending";
    // Until now the certificate before stood beside the pinned one; the one that speaks now is the one.
    let certificate_hash = arrival.credential.hash.clone();
    let unlock_token = match &update.unlock_token {
        Some(Secret(token)) => Some(seal.seal(moment, &secret_name(device_id, "unlock_token"), token)),
        // It is sent once; a later message without it says nothing about it.
        None => enrollment.unlock_token.clone(),
    };
    let row = Enrollment {
        state: "enrolled".into(),
        certificate_hash: certificate_hash.clone(),
        former_certificate_hash: None,
        topic: update.topic.clone(),
        unlock_token,
        awaiting_configuration: i64::from(update.awaiting_configuration),
        enrolled_at_ms: enrollment.enrolled_at_ms.filter(|_| !is_first).or(Some(moment.now_ms)),
        ..enrollment
    };
    apple::put(conn, &row).await?;
    apple::pin(conn, device_id, &certificate_hash, None).await?;
    let magic = seal.seal(moment, &magic_name(channel), &update.push_magic.0);
    apple::address(conn, channel, &Address { token: update.token.clone(), topic: update.topic.clone(), magic }, moment.now_ms).await?;
    devices::set_state(conn, device_id, "active", moment.now_ms).await?;
    if is_first {
        settle::devices(conn, moment, &[device_id], Lane::Change).await?;
        if rules.refresh_every_s > 0 {
            // There is something to ask it: the first nudge calls it in.
            wakes::raise(conn, &[Raise { channel_id: channel, lane: Lane::Change }], moment.now_ms).await?;
        }
        let data = json!({"udid": row.identifier, "remote": arrival.remote});
        let actor = Some(format!("device:{device_id}"));
        feed::append(conn, moment, &[Entry { kind: "device.enrolled", actor, device_id: Some(device_id), data }]).await?;
    }
    Ok(Answer::Accepted)
}

/// A user of the device has a channel from now on.
async fn user_token_update(
    conn: &mut Conn,
    moment: &mut Moment,
    seal: &Seal,
    arrival: &Arrival,
    enrollment: Enrollment,
    update: &TokenUpdate,
) -> Result<Answer> {
    let device_id = enrollment.device_id;
    let Some(device) = devices::get(conn, device_id).await? else { return Ok(UNKNOWN_CERTIFICATE) };
    let new = NewChannel {
        id: moment.id_beside(device_id),
        device_id,
        platform: device.platform,
        certificate_hash: enrollment.certificate_hash.clone(),
        former_hash: None,
        enrollment_token_id: enrollment.token_id,
    };
    let channel = apple::put_user(conn, &new, &arrival.checkin.from.user, moment.now_ms).await?;
    let magic = seal.seal(moment, &magic_name(channel), &update.push_magic.0);
    apple::address(conn, channel, &Address { token: update.token.clone(), topic: update.topic.clone(), magic }, moment.now_ms).await?;
    apple::awaits(conn, channel, update.awaiting_configuration).await?;
    if update.awaiting_configuration {
        // It is let go as soon as it comes.
        wakes::raise(conn, &[Raise { channel_id: channel, lane: Lane::Change }], moment.now_ms).await?;
    }
    if channel == new.id {
        settle::devices(conn, moment, &[device_id], Lane::Change).await?;
        let data = json!({"user": arrival.checkin.from.user, "short_name": arrival.checkin.from.short_name});
        let actor = Some(format!("device:{device_id}"));
        feed::append(conn, moment, &[Entry { kind: "device.user_enrolled", actor, device_id: Some(device_id), data }]).await?;
    }
    Ok(Answer::Accepted)
}

/// A user with a network account: managed without a password of this server's, where such users are managed at all. An empty challenge says
/// that none is asked for; what a Mac answers to it all the same is taken.
fn user_authenticate(rules: Rules, enrollment: &Enrollment, answers: bool) -> Answer {
    if !rules.network_users || enrollment.state != "enrolled" {
        return Answer::NotManaged;
    }
    if answers {
        return Answer::Accepted;
    }
    let challenge = [("DigestChallenge".to_owned(), plist::Value::String(String::new()))];
    Answer::Plist(xml(&plist::Value::Dictionary(challenge.into_iter().collect())))
}

async fn set_bootstrap(
    conn: &mut Conn,
    moment: &mut Moment,
    seal: &Seal,
    enrollment: Enrollment,
    token: Option<&Secret>,
) -> Result<Answer> {
    let name = secret_name(enrollment.device_id, "bootstrap_token");
    let bootstrap_token = token.map(|Secret(token)| seal.seal(moment, &name, token));
    apple::put(conn, &Enrollment { bootstrap_token, ..enrollment }).await?;
    Ok(Answer::Accepted)
}

fn get_bootstrap(seal: &Seal, enrollment: &Enrollment) -> Answer {
    let name = secret_name(enrollment.device_id, "bootstrap_token");
    let Some(token) = enrollment.bootstrap_token.as_ref().and_then(|sealed| seal.open(&name, sealed).ok()) else { return Answer::Accepted };
    let mut answer = plist::Dictionary::new();
    answer.insert("BootstrapToken".into(), plist::Value::Data(token));
    Answer::Plist(xml(&plist::Value::Dictionary(answer)))
}
