//! Apple devices.

mod bad_input;
mod commands;
mod enrollment;
mod simulated;
mod tokens;
