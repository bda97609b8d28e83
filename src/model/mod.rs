//! Plain data, no input or output: the words of docs/architecture.md as types.

mod id;
mod lane;

pub use id::{BUCKETS, Id};
pub use lane::Lane;
