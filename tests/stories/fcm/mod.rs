//! FCM: the sender against the stand-in (what goes over the wire, and what becomes of each answer), and the whole server in `server`.

mod answers;
mod outage;
mod overtaking;
mod server;
mod storage;
mod tls;
mod token;
mod wire;
