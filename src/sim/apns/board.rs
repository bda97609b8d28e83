//! What APNs keeps: which token belongs to which topic, which devices are connected, and the last push for those that are not.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::request::Accepted;

/// Tokens kept; one more is answered as a bad one.
const TOKENS_MAX: usize = 4_000_000;

/// A push as a device gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The device token in lower-case hex.
    pub token: Arc<str>,
    pub topic: Arc<str>,
    /// The push magic of an MDM push; `None` for a background push to an app.
    pub magic: Option<String>,
    /// Unix milliseconds at which APNs accepted it.
    pub accepted_at_ms: i64,
}

/// What became of an accepted push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Delivered,
    Stored,
    UnknownToken,
    OtherTopic,
    /// Unix milliseconds since when the token is no more.
    Unregistered(i64),
}

#[derive(Default)]
pub(super) struct Board {
    devices: HashMap<Arc<str>, Device>,
}

struct Device {
    topic: Arc<str>,
    unregistered_at_ms: Option<i64>,
    online: Option<mpsc::Sender<Push>>,
    /// APNs keeps one push for each device and topic: the last.
    stored: Option<(i64, Push)>,
}

impl Board {
    pub(super) fn register(&mut self, token: &str, topic: &str) {
        if self.devices.len() < TOKENS_MAX || self.devices.contains_key(token) {
            let device = Device { topic: topic.into(), unregistered_at_ms: None, online: None, stored: None };
            self.devices.insert(token.into(), device);
        }
    }

    pub(super) fn unregister(&mut self, token: &str, now_ms: i64) -> bool {
        let Some(device) = self.devices.get_mut(token) else { return false };
        *device = Device { topic: device.topic.clone(), unregistered_at_ms: Some(now_ms), online: None, stored: None };
        true
    }

    /// Connects a device and hands it what is stored for it and not expired.
    pub(super) fn connect(&mut self, token: &str, online: mpsc::Sender<Push>, now_ms: i64) -> bool {
        let Some(device) = self.devices.get_mut(token) else { return false };
        if let Some((expires_at_ms, push)) = device.stored.take()
            && now_ms < expires_at_ms
            && let Err(back) = online.try_send(push)
        {
            device.stored = Some((expires_at_ms, back.into_inner()));
        }
        device.online = Some(online);
        true
    }

    pub(super) fn deliver(&mut self, push: Accepted, now_ms: i64) -> Kept {
        let Some((token, _)) = self.devices.get_key_value(push.token.as_str()) else { return Kept::UnknownToken };
        let token = token.clone();
        let Some(device) = self.devices.get_mut(&token) else { return Kept::UnknownToken };
        if let Some(at_ms) = device.unregistered_at_ms {
            return Kept::Unregistered(at_ms);
        }
        if *device.topic != push.topic {
            return Kept::OtherTopic;
        }
        let arrives = Push { token, topic: device.topic.clone(), magic: push.magic, accepted_at_ms: now_ms };
        if let Some(online) = &device.online {
            match online.try_send(arrives.clone()) {
                Ok(()) => return Kept::Delivered,
                Err(mpsc::error::TrySendError::Closed(_)) => device.online = None,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        // 0 means one attempt, and nothing is kept.
        if push.expires_at_s == 0 {
            return Kept::Delivered;
        }
        device.stored = Some((push.expires_at_s.saturating_mul(1_000), arrives));
        Kept::Stored
    }

    pub(super) fn stored(&self, token: &str, now_ms: i64) -> bool {
        let stored = self.devices.get(token).and_then(|device| device.stored.as_ref());
        stored.is_some_and(|(expires_at_ms, _)| now_ms < *expires_at_ms)
    }
}
