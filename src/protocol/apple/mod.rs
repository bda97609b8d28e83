//! Apple's MDM protocol: bytes to types and back. Unknown keys are ignored, as devices send undocumented ones.

mod binary;
pub mod checkin;
pub mod command;
pub mod configuration;
pub mod connect;
pub mod declarative;
pub mod facts;
pub mod message;
pub mod profile;
pub mod reading;
pub mod requests;
mod sayable;
pub mod scep;
mod xml;

pub use checkin::{Checkin, CheckinMessage};
pub use connect::{Report, Status};
pub use message::{Enrollee, Message};
pub use reading::PlistError;

/// The body of a check-in message at most.
pub const CHECKIN_BYTES_MAX: usize = 1024 * 1024;
/// The body of a report at most: lists of apps and certificates are long.
pub const CONNECT_BYTES_MAX: usize = 10 * 1024 * 1024;
