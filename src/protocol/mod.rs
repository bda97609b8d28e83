//! Bytes to types and back, pure.

pub mod agent;
pub mod apple;
pub mod cms;
pub mod pki;
pub mod service_token;
