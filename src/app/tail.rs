//! The end of the feed, read once for each process and handed to every stream.

use std::sync::Arc;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::store::feed::FeedRow;

/// Streams open at once in a process.
pub const STREAMS_MAX: usize = 200;
/// Entries that a stream may be behind before it is told to reconnect.
const BEHIND_MAX: usize = 4096;

/// Where streams wait for new entries. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tail {
    sender: broadcast::Sender<Arc<FeedRow>>,
    places: Arc<Semaphore>,
    bell: Arc<Notify>,
    ended: CancellationToken,
}

/// One stream's place at the tail; dropping it frees the place.
#[derive(Debug)]
pub struct Watch {
    /// Entries from the moment of [`Tail::watch`] on, in order.
    pub entries: broadcast::Receiver<Arc<FeedRow>>,
    /// The process stops: streams end so that their clients go elsewhere.
    pub ended: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Default for Tail {
    fn default() -> Tail {
        Tail {
            sender: broadcast::Sender::new(BEHIND_MAX),
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
            bell: Arc::default(),
            ended: CancellationToken::new(),
        }
    }
}

impl Tail {
    /// A place at the tail, or `None` where all are taken.
    pub fn watch(&self) -> Option<Watch> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(Watch { entries: self.sender.subscribe(), ended: self.ended.clone(), _place: place })
    }

    /// Hands an entry to all streams there are.
    pub fn tell(&self, entry: FeedRow) {
        // An error means that nobody listens.
        self.sender.send(Arc::new(entry)).ok();
    }

    /// Rung when this process has numbered entries.
    pub fn bell(&self) -> &Notify {
        &self.bell
    }

    /// Says that there is something to read.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Ends all streams.
    pub fn end(&self) {
        self.ended.cancel();
    }
}
