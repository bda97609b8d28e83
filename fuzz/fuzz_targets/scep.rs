//! Messages of SCEP, the queries that carry them, and the requests inside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster::protocol::apple::scep::{Asked, message_of};
use muster::protocol::cms::Whose;
use muster::protocol::pki::request::Request;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(asked) = Asked::read(bytes) {
        asked.envelope().ok();
    }
    if let Some(message) = message_of(bytes) {
        Asked::read(&message).ok();
    }
    Request::from_der(bytes).ok();
    Whose::from_der(bytes).ok();
});
