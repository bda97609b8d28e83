//! Contacts and activations, gathered and committed in groups.

pub mod group;
