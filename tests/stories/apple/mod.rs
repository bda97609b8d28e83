//! Apple devices.

mod commands;
