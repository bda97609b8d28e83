//! Apple devices.

mod assets;
mod bad_input;
mod called;
pub mod commands;
mod declarative;
mod enrollment;
mod identity;
mod joining;
mod killed;
pub mod merging;
mod nudged;
mod outcomes;
mod profiles;
mod recorded;
mod scep;
mod scep_refusals;
mod simulated;
mod scep_messages;
mod tokens;
mod topics;
