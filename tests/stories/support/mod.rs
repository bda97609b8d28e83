//! What the stories share.

pub mod apns;
pub mod apple;
pub mod browser;
pub mod command;
pub mod cut;
pub mod device;
pub mod outpost;
pub mod postgres;
pub mod process;
pub mod push;
pub mod scep;
pub mod server;
pub mod shell;
pub mod tls;
