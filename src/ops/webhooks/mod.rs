//! Webhooks are made, signed for, disabled, enabled and taken away.

mod reach;

pub use reach::{Unreachable, addresses, parse};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::model::{Actor, Id, Role, feed_kind, text};
use crate::ops::alarms;
use crate::seal::Seal;
use crate::store::feed::{self, Entry};
use crate::store::webhooks::{self, WebhookRow};
use crate::store::{Conn, meta};

/// After a rotation the former secret signs too for so long.
pub const OVERLAP_MS: i64 = 24 * 3_600_000;
const WEBHOOKS_MAX: i64 = 100;
const URL_CHARS_MAX: usize = 2048;
const KINDS_MAX: usize = 50;
const KIND_CHARS_MAX: usize = 64;
/// Dead letters that one order sends again.
const REDELIVERED_MAX: i64 = 10_000;
/// The kind of the alarm of an endpoint that was disabled.
const ALARM: &str = "webhook_disabled";
const SECRET_PREFIX: &str = "whsec_";

/// A secret that was just made, for the one answer that shows it.
#[derive(Clone)]
pub struct Made {
    pub id: Id,
    /// `whsec_` and base64 of the key of the signatures.
    pub secret: String,
}

/// Makes a webhook that is told what happens from now on. The caller has asked [`addresses`] whether the URL may be called.
pub async fn create(conn: &mut Conn, moment: &mut Moment, actor: &Actor, seal: &Seal, url: &str, kinds: &[String]) -> Result<Made> {
    actor.require(Role::Admin)?;
    let url = text::named("/url", url, URL_CHARS_MAX)?;
    let kinds = checked(kinds)?;
    if webhooks::count(conn).await? >= WEBHOOKS_MAX {
        return Err(Error::refused("webhooks_exhausted", format!("there are {WEBHOOKS_MAX} webhooks; take one away first")));
    }
    let (id, key) = (moment.id(), moment.secret());
    let row = WebhookRow {
        id,
        url: url.clone(),
        kinds: json!(kinds).to_string(),
        state: "enabled".into(),
        disabled_reason: None,
        secret: seal.seal(moment, &sealed_name(id), &key),
        former_secret: None,
        former_until_ms: None,
        read_to: feed::range(conn).await?.1,
        due_at_ms: 0,
        failing_since_ms: None,
        created_by: actor.name.clone(),
        created_at_ms: moment.now_ms,
    };
    webhooks::insert(conn, &row).await?;
    let host = parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
    tell(
        conn,
        moment,
        Some(actor),
        "webhook.created",
        json!({"id": id, "host": host, "kinds": kinds, "before": null, "after": {"host": host, "kinds": kinds}}),
    )
    .await?;
    Ok(Made { id, secret: shown(&key) })
}

/// Kinds of the feed, whole (`task.done`), as a first word (`task`) or as a prefix (`task.*`); none stands for all. What no entry has would
/// never be told of.
fn checked(kinds: &[String]) -> Result<Vec<String>> {
    if kinds.len() > KINDS_MAX {
        return Err(Error::invalid("/kinds", format!("at most {KINDS_MAX}")));
    }
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_');
    let mut taken = Vec::with_capacity(kinds.len());
    for (n, kind) in kinds.iter().enumerate() {
        let pointer = format!("/kinds/{n}");
        let kind = text::named(&pointer, kind, KIND_CHARS_MAX)?;
        if kind != "*" && !kind.strip_suffix(".*").unwrap_or(&kind).chars().all(known) {
            return Err(Error::invalid(pointer, "take a kind of the feed (`task.done`) or a prefix (`task.*`)"));
        }
        if !feed_kind::means_any(&kind) {
            let detail = format!("the feed has no kind {kind:?}; the nearest is {:?}", feed_kind::nearest(&kind));
            return Err(Error::invalid(pointer, detail));
        }
        taken.push(kind);
    }
    Ok(taken)
}

/// True where an endpoint with these kinds (a JSON list) is told of entries of `kind`.
pub fn wants(kinds: &str, kind: &str) -> bool {
    let kinds: Vec<String> = serde_json::from_str(kinds).unwrap_or_default();
    kinds.is_empty() || kinds.iter().any(|wanted| feed_kind::is_meant(wanted, kind))
}

/// The address as this actor may see it: what stands behind the host may be a secret of the receiver's, which a viewer has no use for.
pub fn url_for(actor: &Actor, url: &str) -> String {
    if actor.role >= Role::Operator {
        return url.to_owned();
    }
    parse(url).map_or_else(|_| String::new(), |url| format!("{}/...", url.origin().ascii_serialization()))
}

/// Takes a webhook away.
pub async fn delete(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<()> {
    actor.require(Role::Admin)?;
    let before = webhooks::get(conn, id).await?.map(|row| json!({"state": row.state, "kinds": row.kinds}));
    if !webhooks::delete(conn, id).await? {
        return Err(Error::NotFound("webhook"));
    }
    alarms::close(conn, moment, ALARM, &id.to_string()).await?;
    tell(conn, moment, Some(actor), "webhook.deleted", json!({"id": id, "before": before, "after": null})).await
}

/// Makes a new secret; the former one signs beside it for [`OVERLAP_MS`].
pub async fn rotate(conn: &mut Conn, moment: &mut Moment, actor: &Actor, seal: &Seal, id: Id) -> Result<Made> {
    actor.require(Role::Admin)?;
    let key = moment.secret();
    let sealed = seal.seal(moment, &sealed_name(id), &key);
    if !webhooks::rotate(conn, id, &sealed, moment.now_ms + OVERLAP_MS).await? {
        return Err(Error::NotFound("webhook"));
    }
    tell(conn, moment, Some(actor), "webhook.rotated", json!({"id": id, "before": {"secret": "***"}, "after": {"secret": "***"}})).await?;
    Ok(Made { id, secret: shown(&key) })
}

/// Enables a webhook again; what waited meanwhile is delivered in its order.
pub async fn enable(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id) -> Result<WebhookRow> {
    actor.require(Role::Admin)?;
    let before = webhooks::get(conn, id).await?.map(|row| json!({"state": row.state}));
    if !webhooks::enable(conn, id).await? {
        return Err(Error::NotFound("webhook"));
    }
    alarms::close(conn, moment, ALARM, &id.to_string()).await?;
    tell(conn, moment, Some(actor), "webhook.enabled", json!({"id": id, "before": before, "after": {"state": "enabled"}})).await?;
    webhooks::get(conn, id).await?.ok_or(Error::NotFound("webhook"))
}

/// The server disables a webhook, with an alarm.
pub async fn disable(conn: &mut Conn, moment: &mut Moment, row: &WebhookRow, reason: &str) -> Result<()> {
    if webhooks::disable(conn, row.id, reason).await? {
        let host = parse(&row.url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
        alarms::open(conn, moment, ALARM, &row.id.to_string(), &format!("the webhook to {host} is disabled: {reason}")).await?;
        tell(conn, moment, None, "webhook.disabled", json!({"id": row.id, "reason": reason})).await?;
    }
    Ok(())
}

/// Which deliveries to send again.
#[derive(Clone, Copy, Debug)]
pub enum Again {
    One(Id),
    /// All dead letters, the oldest ten thousand of them at most.
    Dead,
}

/// Sends finished deliveries again, each in its place of the order; answers how many.
pub async fn redeliver(conn: &mut Conn, moment: &mut Moment, actor: &Actor, id: Id, which: Again) -> Result<u64> {
    actor.require(Role::Operator)?;
    webhooks::get(conn, id).await?.ok_or(Error::NotFound("webhook"))?;
    let delivery = match which {
        Again::One(delivery) if webhooks::has_delivery(conn, id, delivery).await? => Some(delivery),
        Again::One(_) => return Err(Error::NotFound("delivery")),
        Again::Dead => None,
    };
    let count = webhooks::redeliver(conn, id, delivery, REDELIVERED_MAX).await?;
    tell(conn, moment, Some(actor), "webhook.redelivered", json!({"id": id, "delivery": delivery, "count": count})).await?;
    Ok(count)
}

/// The name of the lease of the one process that delivers to an endpoint.
pub fn lease(id: Id) -> String {
    format!("webhook/{id}")
}

/// Takes or renews the lease of an endpoint.
pub async fn hold(conn: &mut Conn, id: Id, process: &str, now_ms: i64, lease_ms: i64) -> Result<bool> {
    meta::take_lease(conn, &lease(id), process, now_ms, now_ms + lease_ms).await
}

/// The `webhook-signature` of Standard Webhooks: one `v1,` for each secret that stands, between spaces. Empty where none opens.
pub fn signature(seal: &Seal, row: &WebhookRow, message_id: &str, timestamp_s: i64, body: &str, now_ms: i64) -> String {
    let former = row.former_secret.as_ref().filter(|_| row.former_until_ms.is_some_and(|until_ms| until_ms > now_ms));
    let signatures = [Some(&row.secret), former].into_iter().flatten().filter_map(|sealed| {
        let key = seal.open(&sealed_name(row.id), sealed).ok()?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
        mac.update(format!("{message_id}.{timestamp_s}.{body}").as_bytes());
        Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

fn sealed_name(id: Id) -> String {
    format!("webhook/{id}")
}

fn shown(key: &[u8; 32]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(key))
}

async fn tell(conn: &mut Conn, moment: &mut Moment, actor: Option<&Actor>, kind: &'static str, data: Value) -> Result<()> {
    feed::append(conn, moment, &[Entry { kind, actor: actor.map(|actor| actor.name.clone()), device_id: None, data }]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_whole_first_words_or_prefixes() {
        assert!(wants("[]", "task.done") && wants("[\"*\"]", "task.done"));
        for kinds in ["[\"task\"]", "[\"task.*\"]", "[\"task.done\"]", "[\"user.*\",\"task.d*\"]"] {
            assert!(wants(kinds, "task.done"), "{kinds}");
            assert!(!wants(kinds, "tasks.done") && !wants(kinds, "taskdone"), "{kinds}");
        }
        assert!(!wants("[\"task.failed\"]", "task.done") && !wants("[\"task.don\"]", "task.done"));
        assert!(checked(&["task.*".into(), "*".into(), "event.usb_debugging_changed".into()]).is_ok());
        assert!(checked(&["Task Done".into()]).is_err() && checked(&["".into()]).is_err());
        let refused = checked(&["task".into(), "task.finished".into()]).unwrap_err();
        let Error::Invalid(faults) = refused else { panic!("{refused:?}") };
        assert_eq!((faults.len(), faults[0].pointer.as_str()), (1, "/kinds/1"));
        assert!(faults[0].detail.contains("task.failed"), "{}", faults[0].detail);
    }
}
