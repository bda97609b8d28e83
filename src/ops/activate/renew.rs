//! An earlier device token is the credential.

use super::{Activation, After, Newcomer, No, Rules, UNAUTHORIZED, Verdict, Visitor, admit, email_of, enabled, hardware_key, push_of};
use crate::clock::Moment;
use crate::error::Result;
use crate::model::token::{Secret, parse_device_token, same};
use crate::model::{Denial, Id};
use crate::store::channels::Credentials;
use crate::store::{Conn, channels, devices, users};

/// Gives a fresh device token, which stands beside the one that came until it is used. No re-enrollment: tasks and numbering go on.
pub(super) async fn renew(
    conn: &mut Conn,
    moment: &mut Moment,
    newcomer: &Newcomer,
    rules: Rules,
    bearer: &Secret,
    after: &mut After,
) -> Result<Verdict> {
    let unknown = No("token_unknown", "the server does not know this device token; activate with an enrollment token");
    let Some((named, hash)) = parse_device_token(bearer.reveal()) else { return Ok(Err(unknown)) };
    let (device_id, channel) = match channels::credentials(conn, named).await? {
        Some(channel) => (named, channel),
        None => match of_merged(conn, named).await? {
            Some(found) => found,
            None => return Ok(Err(unknown)),
        },
    };
    let known = [&channel.token_hash, &channel.fresh_token_hash];
    if !known.into_iter().flatten().any(|known| same(known, &hash)) {
        return Ok(Err(unknown));
    }
    let Some(device) = devices::get(conn, device_id).await? else { return Ok(Err(unknown)) };
    let carrier = match device.user_id {
        Some(id) => users::get(conn, id).await?,
        None => None,
    };
    let user = match email_of(newcomer) {
        Some(email) => users::by_email(conn, &email).await?,
        None => carrier,
    };
    let user = match enabled(user) {
        Ok(user) => user,
        Err(no) => return Ok(Err(no)),
    };
    if device.denied.as_deref().and_then(Denial::named).is_some() {
        return Ok(Err(UNAUTHORIZED));
    }
    let key = hardware_key(newcomer);
    let same_hardware = devices::by_key(conn, super::HARDWARE, &key).await? == Some(device_id);
    if !same_hardware || device.user_id != Some(user.id) {
        // The token has been carried to another phone, or is shown for another person.
        return admit::park(conn, moment, &Visitor { newcomer, rules, key, token: None, user }).await;
    }
    let secret = Secret::device_token(device_id, &moment.secret());
    let push = newcomer.request.push.as_ref().map(push_of);
    channels::renew(conn, channel.id, &hash, &secret.hash(), push.as_ref(), moment.now_ms).await?;
    admit::describe(conn, moment, newcomer, device, &user, "device.token_renewed", after).await?;
    Ok(Ok(Activation::Admitted {
        device_id,
        device_token: secret,
        next_sync_in_s: admit::next_sync_in_s(moment, channel.id),
        renewed: true,
    }))
}

/// The device that the one which a token names has become a part of, with the channel that came from it.
async fn of_merged(conn: &mut Conn, named: Id) -> Result<Option<(Id, Credentials)>> {
    let Some(into) = devices::merged_into(conn, named).await? else { return Ok(None) };
    Ok(channels::credentials(conn, into).await?.map(|channel| (into, channel)))
}
