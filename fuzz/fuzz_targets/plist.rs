//! Property lists, XML and binary, and what check-ins and reports are made of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster::protocol::apple::{Checkin, Message, Report, facts};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::parse(bytes) else { return };
    Checkin::of(&message).ok();
    if let Ok(report) = Report::of(message) {
        facts::of(&report);
    }
});
