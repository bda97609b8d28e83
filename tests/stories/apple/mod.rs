//! Apple devices.

mod assets;
mod bad_input;
pub mod called;
pub mod commands;
mod declarative;
mod enrollment;
mod guarded;
mod identity;
mod joining;
mod killed;
mod kinds_of_enrollment;
mod lost;
pub mod merging;
mod nudged;
mod outcomes;
mod profiles;
mod recorded;
mod scep;
mod scep_messages;
mod scep_refusals;
mod simulated;
mod tokens;
mod topics;
