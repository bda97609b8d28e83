//! Status reports, one after the other, and what they prove.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster::protocol::apple::declarative::Report;
use muster::protocol::apple::declarative::{Asked, Manifest, Status};

fuzz_target!(|bytes: &[u8]| {
    let mut status = Status::default();
    for part in bytes.split(|byte| *byte == 0) {
        if let Ok(report) = Report::read(part) {
            status.take(report);
        }
        if let Ok(endpoint) = std::str::from_utf8(part) {
            Asked::of(endpoint);
        }
    }
    status.facts();
    status.supported();
    status.prove(&Manifest::default(), &Manifest::default());
    // What is kept is read again as it was.
    let text = status.to_json().to_string();
    assert_eq!(Status::from_json(&text).to_json().to_string(), text);
});
