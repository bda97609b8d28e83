//! The other side: simulated phones and stand-ins for the push providers and a mail server. They know the wire, not our senders.

use std::time::Duration;

pub mod apns;
pub mod apple;
pub mod fcm;
pub mod fleet;
pub mod phone;
mod plans;
pub mod smtp;
pub mod swarm;
pub mod uplink;

/// Less than the 15 s after which the server ends an idle connection: none is used in the instant in which it does.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// A client of the server, as a phone or whoever plays an operator has it: a request ends within `timeout`.
pub fn client(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder().timeout(timeout).pool_idle_timeout(IDLE_MAX)
}

/// How far a simulated device has come.
pub trait Journey: std::fmt::Debug + Send + Sync {
    /// True for one that was admitted, was nudged, and did everything that it can be told to do.
    fn completed_the_loop(&self) -> bool;
}
