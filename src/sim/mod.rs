//! The other side: simulated phones and stand-ins for the push providers. They know the wire, not our senders.

pub mod apns;
pub mod apple;
pub mod fcm;
pub mod fleet;
pub mod phone;
mod plans;
