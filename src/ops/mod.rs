//! What can happen, one function each: it takes a transaction, the moment and its input. Knows neither HTTP nor push.

pub mod activate;
pub mod alarms;
pub mod audit;
pub mod ca;
pub mod canary;
pub mod credentials;
pub mod devices;
pub mod events;
pub mod explain;
pub mod facts;
pub mod findings;
pub mod jobs;
pub mod labels;
pub mod mail;
pub mod mdm;
pub mod operators;
pub mod policies;
pub mod service_tokens;
pub mod settle;
pub mod tasks;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
pub mod users;
pub mod webhooks;
