//! Bytes to types and back, pure.

pub mod agent;
pub mod apple;
