//! Muster: a push-notification MDM policy server.

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod files;
pub mod http;
pub mod intake;
pub mod model;
pub mod ops;
pub mod outpost;
pub mod policy;
pub mod protocol;
pub mod push;
pub mod seal;
pub mod server;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod work;
