//! The senders of a process. Those of MDM topics come while it runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sha2::{Digest, Sha256};

use super::Sender;

/// Looked at anew by every pass of a worker; nothing is ever taken away.
#[derive(Debug, Default)]
pub struct Senders {
    list: RwLock<Vec<Arc<Sender>>>,
    /// The versions of the credentials that operators brought to this process, by the names under which they are kept.
    brought: Mutex<HashMap<String, i64>>,
    /// Held by whoever puts a credential to use or takes one away, from the look at what is stored to the end.
    turn: tokio::sync::Mutex<()>,
    /// SHA-256 of the credentials that were last read from files, by their settings.
    read: Mutex<HashMap<&'static str, [u8; 32]>>,
}

impl Senders {
    /// The senders of now, in the order in which they came.
    pub fn all(&self) -> Vec<Arc<Sender>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sender of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Sender>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).iter().find(|sender| sender.name() == name).cloned()
    }

    /// Adds a sender, unless one of its name is there; answers the one that is.
    pub fn add(&self, sender: Sender) -> Arc<Sender> {
        let mut senders = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = senders.iter().find(|known| known.name() == sender.name()) {
            return known.clone();
        }
        let sender = Arc::new(sender);
        senders.push(sender.clone());
        sender
    }

    /// Waits until nobody else exchanges credentials in this process.
    pub async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Notes that this version of a credential was put to use as it was brought.
    pub fn was_brought(&self, kept_as: &str, version: i64) {
        self.lock_brought().insert(kept_as.to_owned(), version);
    }

    /// True where some version of it was.
    pub fn is_brought(&self, kept_as: &str) -> bool {
        self.lock_brought().contains_key(kept_as)
    }

    /// True where it was: whoever follows what is stored need not begin with it once more.
    pub fn is_in_use(&self, kept_as: &str, version: i64) -> bool {
        self.lock_brought().get(kept_as) == Some(&version)
    }

    /// Notes that this credential was read from the file of a setting.
    pub fn was_read(&self, setting: &'static str, json: &[u8]) {
        self.lock_read().insert(setting, Sha256::digest(json).into());
    }

    /// True where it is the one that was read last.
    pub fn is_read(&self, setting: &str, json: &[u8]) -> bool {
        self.lock_read().get(setting).is_some_and(|print| *print == <[u8; 32]>::from(Sha256::digest(json)))
    }

    /// Forgets what was read from the file of a setting: what is there is looked at anew.
    pub fn read_again(&self, setting: &str) {
        self.lock_read().remove(setting);
    }

    fn lock_read(&self) -> MutexGuard<'_, HashMap<&'static str, [u8; 32]>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_brought(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Vec<Arc<Sender>>> for Senders {
    fn from(senders: Vec<Arc<Sender>>) -> Senders {
        Senders { list: RwLock::new(senders), ..Senders::default() }
    }
}
