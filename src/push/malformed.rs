//! Requests that the provider calls wrong: those of one phone may be a matter of that phone, those of several are ours.

use crate::model::Id;

/// Requests to so many phones, with none accepted in between, stop the sender.
const PHONES_MAX: usize = 5;

/// Whose requests were called wrong since the last that was accepted.
#[derive(Debug, Default)]
pub(super) struct Malformed(Vec<Id>);

impl Malformed {
    /// Notes one; true where so many phones are concerned that the request itself must be wrong.
    pub(super) fn add(&mut self, channel: Id) -> bool {
        if self.0.len() < PHONES_MAX && !self.0.contains(&channel) {
            self.0.push(channel);
        }
        self.0.len() >= PHONES_MAX
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_phone_stops_nobody_however_often_and_five_do() {
        let phone = |n: u8| Id::v7(0, [n; 10]);
        let mut malformed = Malformed::default();
        assert!((0..100).all(|_| !malformed.add(phone(1))));
        assert!((2..5).all(|n| !malformed.add(phone(n))));
        assert!(malformed.add(phone(5)) && malformed.add(phone(6)));
        malformed.clear();
        assert!(!malformed.add(phone(7)));
    }
}
