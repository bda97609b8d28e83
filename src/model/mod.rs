//! Plain data, no input or output: the words of docs/architecture.md as types.

mod actor;
mod callers;
mod denial;
mod fault;
pub mod feed_kind;
mod id;
pub mod json;
pub mod kind;
mod lane;
pub mod nullable;
mod precondition;
pub mod reach;
pub mod schedule;
pub mod secrets;
pub mod text;
pub mod token;

pub use actor::{Actor, Role};
pub use callers::Callers;
pub use denial::Denial;
pub use fault::{Fault, below};
pub use id::{BUCKETS, Id};
pub use lane::Lane;
pub use precondition::{Precondition, Tags};

/// A set of more channels than this goes in lane `bulk`, whatever was asked.
pub const BULK_ABOVE: usize = 1000;
