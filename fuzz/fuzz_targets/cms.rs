//! Signed and enveloped messages in BER and DER, as they come in `Mdm-Signature`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster::protocol::cms::{Enveloped, SignedData};
use muster::protocol::pki::{Certificate, ber};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signed) = SignedData::parse(bytes) {
        signed.verify(Some(b"a body")).ok();
        signed.verify(None).ok();
    }
    Enveloped::parse(bytes).ok();
    Certificate::from_der(bytes).ok();
    // What was made definite is left as it is.
    if let Ok(der) = ber::to_der(bytes) {
        assert_eq!(ber::to_der(&der).as_deref(), Ok(der.as_slice()));
    }
});
