//! Apple devices.

mod bad_input;
mod commands;
mod enrollment;
mod nudged;
mod simulated;
mod tokens;
