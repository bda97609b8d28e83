//! What FCM keeps: registrations, the phones that are connected, and one message per collapse key for those that are not.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::message::Accepted;

/// Registrations kept; one more is answered as if it had been unregistered at once.
const ADDRESSES_MAX: usize = 4_000_000;
/// Messages kept for one address: FCM drops all beyond 100 that do not collapse.
const STORED_MAX: usize = 100;

/// A push as a phone gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    /// The address that it was sent to.
    pub address: Arc<str>,
    pub data: BTreeMap<String, String>,
    pub high: bool,
    /// Unix milliseconds at which FCM accepted it.
    pub accepted_at_ms: i64,
}

/// That a phone was called, as [`super::StandIn::tap`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The address that the message was sent to.
    pub address: Arc<str>,
    /// Unix milliseconds at which FCM accepted it.
    pub accepted_at_ms: i64,
}

/// What became of an accepted message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Delivered,
    Stored,
    UnknownAddress,
    OtherProject,
}

#[derive(Default)]
pub(super) struct Board {
    devices: HashMap<Arc<str>, Device>,
    tap: Option<mpsc::Sender<Called>>,
}

struct Device {
    project: Arc<str>,
    app: Option<String>,
    phone: Option<mpsc::Sender<Push>>,
    stored: Vec<Stored>,
}

struct Stored {
    collapse_key: Option<String>,
    expires_at_ms: i64,
    push: Push,
}

impl Board {
    pub(super) fn register(&mut self, address: &str, project: &Arc<str>, app: Option<String>) {
        if self.devices.len() < ADDRESSES_MAX || self.devices.contains_key(address) {
            let device = Device { project: project.clone(), app, phone: None, stored: Vec::new() };
            self.devices.insert(address.into(), device);
        }
    }

    pub(super) fn unregister(&mut self, address: &str) -> bool {
        self.devices.remove(address).is_some()
    }

    /// The same installation under a new address; what was stored for the old one is lost, as with FCM.
    pub(super) fn rotate(&mut self, from: &str, to: &str) -> bool {
        let Some(device) = self.devices.remove(from) else { return false };
        self.devices.insert(to.into(), Device { phone: None, stored: Vec::new(), ..device });
        true
    }

    /// Connects a phone and hands it what is stored for it and not expired.
    pub(super) fn connect(&mut self, address: &str, phone: mpsc::Sender<Push>, now_ms: i64) -> bool {
        let Some(device) = self.devices.get_mut(address) else { return false };
        device.stored.retain(|stored| now_ms < stored.expires_at_ms && phone.try_send(stored.push.clone()).is_err());
        device.phone = Some(phone);
        true
    }

    /// Tells `called` of every message from now on that is handed to a phone or kept for it.
    pub(super) fn tap(&mut self, called: mpsc::Sender<Called>) {
        self.tap = Some(called);
    }

    /// Whether a message to `address` would be taken, without keeping it.
    pub(super) fn look(&self, address: &str, project: &str) -> Kept {
        match self.devices.get(address) {
            None => Kept::UnknownAddress,
            Some(device) if *device.project != *project => Kept::OtherProject,
            Some(_) => Kept::Stored,
        }
    }

    pub(super) fn deliver(&mut self, message: Accepted, project: &str, now_ms: i64) -> Kept {
        let Some((address, _)) = self.devices.get_key_value(message.address.as_str()) else { return Kept::UnknownAddress };
        let address = address.clone();
        let push = Push { address: address.clone(), data: message.data, high: message.high, accepted_at_ms: now_ms };
        let Some(device) = self.devices.get_mut(message.address.as_str()) else { return Kept::UnknownAddress };
        if *device.project != *project {
            return Kept::OtherProject;
        }
        // A message for another package is accepted and reaches nobody.
        if let (Some(app), Some(package)) = (&device.app, &message.package)
            && app != package
        {
            return Kept::Delivered;
        }
        if let Some(tap) = &self.tap
            && let Err(mpsc::error::TrySendError::Closed(_)) = tap.try_send(Called { address: address.clone(), accepted_at_ms: now_ms })
        {
            self.tap = None;
        }
        if let Some(phone) = &device.phone {
            match phone.try_send(push.clone()) {
                Ok(()) => return Kept::Delivered,
                Err(mpsc::error::TrySendError::Closed(_)) => device.phone = None,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        if message.ttl_ms == 0 {
            return Kept::Delivered;
        }
        device.stored.retain(|stored| {
            now_ms < stored.expires_at_ms && (message.collapse_key.is_none() || stored.collapse_key != message.collapse_key)
        });
        if device.stored.len() >= STORED_MAX {
            device.stored.clear();
        }
        device.stored.push(Stored { collapse_key: message.collapse_key, expires_at_ms: now_ms + message.ttl_ms, push });
        Kept::Stored
    }

    pub(super) fn stored(&self, address: &str, now_ms: i64) -> usize {
        self.devices.get(address).map_or(0, |device| device.stored.iter().filter(|stored| now_ms < stored.expires_at_ms).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_tells_of_every_phone_that_is_called_until_nobody_listens() {
        let mut board = Board::default();
        let project: Arc<str> = "own".into();
        board.register("one", &project, None);
        board.register("two", &project, Some("other.app".into()));
        let message = |address: &str| Accepted {
            address: address.into(),
            data: BTreeMap::new(),
            high: false,
            collapse_key: None,
            ttl_ms: 1_000,
            package: Some("our.app".into()),
            validate_only: false,
        };
        let (tap, mut called) = mpsc::channel(1);
        board.tap(tap);
        assert_eq!(board.deliver(message("two"), "own", 5), Kept::Delivered);
        assert!(called.try_recv().is_err(), "a message for another app calls nobody");
        assert_eq!(board.deliver(message("one"), "own", 6), Kept::Stored);
        assert_eq!(board.deliver(message("one"), "own", 7), Kept::Stored, "a full tap stops no message");
        assert_eq!(called.try_recv(), Ok(Called { address: "one".into(), accepted_at_ms: 6 }));
        drop(called);
        board.deliver(message("one"), "own", 8);
        assert!(board.tap.is_none());
    }
}
