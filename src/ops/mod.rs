//! One function for each thing that can happen: it takes a transaction, the moment and its input. No HTTP, no push.

pub mod alarms;
pub mod events;
pub mod findings;
