//! Where nudges are under way: beside everything else.

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::TaskTracker;

/// Threads that speak to the providers: more than the wire of one machine keeps busy.
const THREADS_MAX: usize = 4;

/// Nudges under way. Thousands may be at once, on threads of their own: whatever wakes on the server's, a statement's answer foremost, would
/// have to wait behind them.
pub(super) struct Flights {
    under_way: TaskTracker,
    threads: Handle,
    own: Option<Runtime>,
}

impl Flights {
    /// On threads of their own, or on the server's where the machine has none left.
    pub(super) fn aside() -> Flights {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        match Builder::new_multi_thread().worker_threads(threads).thread_name("nudges").enable_all().build() {
            Ok(own) => Flights { under_way: TaskTracker::new(), threads: own.handle().clone(), own: Some(own) },
            Err(error) => {
                tracing::warn!(%error, "the nudges get no threads of their own");
                Flights::here()
            }
        }
    }

    /// On the caller's threads.
    pub(super) fn here() -> Flights {
        Flights { under_way: TaskTracker::new(), threads: Handle::current(), own: None }
    }

    pub(super) fn spawn(&self, flight: impl Future<Output = ()> + Send + 'static) {
        self.under_way.spawn_on(flight, &self.threads);
    }

    /// Waits until all have landed.
    pub(super) async fn landed(&self) {
        self.under_way.close();
        self.under_way.wait().await;
    }
}

impl Drop for Flights {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            // Waiting for its threads is nothing that a thread of the server may do.
            own.shutdown_background();
        }
    }
}
