//! Muster: a push-notification MDM policy server.

pub mod clock;
pub mod model;
pub mod push;
