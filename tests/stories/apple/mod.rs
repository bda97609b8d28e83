//! Apple devices.

mod assets;
mod bad_input;
pub mod commands;
mod declarative;
mod enrollment;
mod identity;
mod joining;
pub mod merging;
mod nudged;
mod outcomes;
mod recorded;
mod scep;
mod scep_refusals;
mod simulated;
mod tokens;
mod topics;
