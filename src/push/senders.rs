//! The senders of a process. Those of MDM topics come while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use super::Sender;

/// Looked at anew by every pass of a worker; nothing is ever taken away.
#[derive(Debug, Default)]
pub struct Senders(RwLock<Vec<Arc<Sender>>>);

impl Senders {
    /// The senders of now, in the order in which they came.
    pub fn all(&self) -> Vec<Arc<Sender>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sender of this name.
    pub fn named(&self, name: &str) -> Option<Arc<Sender>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().find(|sender| sender.name() == name).cloned()
    }

    /// Adds a sender, unless one of its name is there; answers the one that is.
    pub fn add(&self, sender: Sender) -> Arc<Sender> {
        let mut senders = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = senders.iter().find(|known| known.name() == sender.name()) {
            return known.clone();
        }
        let sender = Arc::new(sender);
        senders.push(sender.clone());
        sender
    }
}

impl From<Vec<Arc<Sender>>> for Senders {
    fn from(senders: Vec<Arc<Sender>>) -> Senders {
        Senders(RwLock::new(senders))
    }
}
