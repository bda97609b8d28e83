//! Declarative management: what a device is told to be, and what it says it is. Pure.

pub mod content;
pub mod manifest;
pub mod report;
pub mod status;
pub mod subscriptions;

pub use content::Content;
pub use manifest::{Asked, Declaration, Kind, Manifest};
pub use report::Report;
pub use status::{Proof, Status};
