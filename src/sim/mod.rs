//! The other side: simulated phones and stand-ins for the push providers and a mail server. They know the wire, not our senders.

pub mod apns;
pub mod apple;
pub mod fcm;
pub mod fleet;
pub mod phone;
mod plans;
pub mod smtp;
pub mod swarm;
pub mod uplink;

/// How far a simulated device has come.
pub trait Journey: std::fmt::Debug + Send + Sync {
    /// True for one that was admitted, was nudged, and did everything that it can be told to do.
    fn completed_the_loop(&self) -> bool;
}
