//! What the stories share.

pub mod push;
