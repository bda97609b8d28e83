//! Who calls the devices, as far as it must be known to say when a device is called next.

/// The senders that have a credential, and when those try again that stand still at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// Their names between spaces, ` fcm apns_app `: as statements look for one.
    pub names: String,
    /// Name and Unix milliseconds of each that is paused or at fault.
    pub reopens: Vec<(String, i64)>,
}

impl Callers {
    /// When a channel of `sender` is called that is due at `due_ms`: what waits for a sender that stands still waits for it to go on.
    pub fn calls_at_ms(&self, sender: &str, due_ms: i64) -> i64 {
        self.reopens.iter().filter(|(name, _)| name == sender).map(|(_, at_ms)| *at_ms).fold(due_ms, i64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_for_a_sender_that_stands_still_is_put_off() {
        let callers = Callers { names: " fcm apns_app ".into(), reopens: vec![("fcm".into(), 100)] };
        assert_eq!((callers.calls_at_ms("fcm", 7), callers.calls_at_ms("fcm", 700)), (100, 700));
        assert_eq!((callers.calls_at_ms("apns_app", 7), callers.calls_at_ms("", 7)), (7, 7));
    }
}
