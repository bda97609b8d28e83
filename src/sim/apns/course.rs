//! The ordinary course of a push: credentials, form, delivery; and what a fault puts in its place.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;

use super::board::Kept;
use super::connection::Link;
use super::faults::{self, Canned, Fault};
use super::{CAPTURES_MAX, Captured, Inner, request, token};

/// What becomes of a stream.
pub(super) enum Outcome {
    /// An answer, with its `apns-id`.
    Answer(Canned, String),
    ResetAfterHeaders(u16),
    ResetStream(u32),
    Close,
    Reset,
    Silence,
}

impl Inner {
    /// Handles one push whose body is complete.
    pub(super) async fn handle(&self, link: &Link, stream: u32, head: &Parts, body: &[u8]) -> Outcome {
        self.record(link, head, body);
        let delay_ms = self.delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        }
        let token = request::token_of(head.uri.path()).unwrap_or_default();
        let topic = request::text(&head.headers, "apns-topic").or(link.certificate_topic.as_deref()).unwrap_or_default();
        let fault = faults::next(&self.faults, &token, topic);
        if let Some(outcome) = self.suffer(fault, link, stream, head).await {
            return outcome;
        }
        let canned = self.judge(link, head, body).unwrap_or_else(|refusal| refusal);
        Outcome::Answer(canned, self.apns_id(head))
    }

    /// Lets a fault happen; `None` goes on with the ordinary course.
    async fn suffer(&self, fault: Option<Fault>, link: &Link, stream: u32, head: &Parts) -> Option<Outcome> {
        match fault? {
            Fault::Answer(canned) => Some(Outcome::Answer(canned, self.apns_id(head))),
            Fault::ResetAfterHeaders(status) => Some(Outcome::ResetAfterHeaders(status)),
            Fault::ResetStream(code) => Some(Outcome::ResetStream(code)),
            Fault::GoAway { processed, code, reason } => {
                let debug = reason.map(|reason| serde_json::json!({ "reason": reason }).to_string()).unwrap_or_default();
                link.go_away(if processed { stream } else { stream.saturating_sub(2) }, code, debug.as_bytes());
                (!processed).then_some(Outcome::Silence)
            }
            Fault::Close => Some(Outcome::Close),
            Fault::Reset => Some(Outcome::Reset),
            Fault::Hang => Some(Outcome::Silence),
            Fault::Slow(by_ms) => {
                tokio::time::sleep(Duration::from_millis(by_ms)).await;
                None
            }
            Fault::Stall => {
                link.slip.window(0);
                None
            }
        }
    }

    fn judge(&self, link: &Link, head: &Parts, body: &[u8]) -> Result<Canned, Canned> {
        let now_ms = self.clock.now_ms();
        let own_topic = link.certificate_topic.as_deref();
        let push = request::read(head, body, own_topic)?;
        match own_topic {
            Some(own) if own == push.topic && push.mdm => {}
            Some(_) => return Err(Canned::reason(400, "TopicDisallowed")),
            None => {
                let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
                let mut seen = link.seen.lock().unwrap_or_else(PoisonError::into_inner);
                let topics = token::check(request::text(&head.headers, "authorization"), &keys, &mut seen, now_ms)?;
                if push.mdm || !topics.contains(&push.topic) {
                    return Err(Canned::reason(400, "TopicDisallowed"));
                }
            }
        }
        let kept = self.board().deliver(push, now_ms);
        match kept {
            Kept::UnknownToken => return Err(Canned::reason(400, "BadDeviceToken")),
            Kept::OtherTopic => return Err(Canned::reason(400, "DeviceTokenNotForTopic")),
            Kept::Unregistered(at_ms) => return Err(Canned::unregistered(at_ms)),
            Kept::Delivered => self.counts.delivered.fetch_add(1, Ordering::Relaxed),
            Kept::Stored => self.counts.stored.fetch_add(1, Ordering::Relaxed),
        };
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        Ok(Canned { status: 200, retry_after: None, content_type: "", body: Bytes::new() })
    }

    /// The request's own id, or a fresh one.
    fn apns_id(&self, head: &Parts) -> String {
        let own = request::text(&head.headers, "apns-id").filter(|id| !id.is_empty());
        own.map_or_else(|| self.chance.lock().unwrap_or_else(PoisonError::into_inner).id().to_string(), str::to_owned)
    }

    fn record(&self, link: &Link, head: &Parts, body: &[u8]) {
        if !self.capturing.load(Ordering::Relaxed) {
            return;
        }
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let captured = Captured {
            method: head.method.to_string(),
            path: head.uri.path().to_owned(),
            certificate_topic: link.certificate_topic.clone(),
            headers: headers.collect(),
            body: Bytes::copy_from_slice(body),
            at_ms: self.clock.now_ms(),
        };
        let mut captures = self.captures.lock().unwrap_or_else(PoisonError::into_inner);
        if captures.len() < CAPTURES_MAX {
            captures.push(captured);
        }
    }
}
