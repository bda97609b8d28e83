//! APNs through the real server and its senders: each fault that APNs is known for, and what becomes of the nudges.

mod answers;
mod apart;
mod clocks;
mod connections;
mod credentials;
mod files;
mod outage;
mod streams;
mod table;
