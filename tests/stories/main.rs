//! Stories: each module drives a part of Muster through its front door.
#![expect(clippy::unwrap_used, reason = "a story that cannot go on has failed")]

mod admission;
mod api_description;
mod apns;
mod apns_devices;
mod apns_sender;
mod apple;
mod apply;
mod approval;
mod audit;
mod away;
mod backup;
mod bad_input;
mod canary;
mod command_line;
mod console;
mod contacts;
mod day;
mod disk_full;
mod distributed;
mod documents;
mod fcm;
mod funnel;
mod http2;
mod killed;
mod last_admin;
mod mail;
mod mended;
mod metrics;
mod offboarding;
mod policies;
mod push_credentials;
mod reasons;
mod settings;
mod several;
mod shapes;
mod simulate;
mod storm;
mod structure;
mod support;
mod the_loop;
#[cfg(feature = "otel")]
mod traces;
mod unauthorized;
mod webhook_reach;
mod webhooks;
