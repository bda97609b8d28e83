//! The FCM sender against the stand-in: what goes over the wire, and what becomes of each answer.

mod answers;
mod outage;
mod storage;
mod tls;
mod token;
mod wire;
