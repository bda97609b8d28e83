//! Apple devices.

mod bad_input;
pub mod commands;
mod declarative;
mod enrollment;
mod identity;
mod joining;
mod nudged;
mod scep;
mod scep_refusals;
mod simulated;
mod tokens;
