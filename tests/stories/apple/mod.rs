//! Apple devices.

mod bad_input;
pub mod commands;
mod enrollment;
mod nudged;
mod simulated;
mod tokens;
