//! How often somebody may try to sign in.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::{Error, Result};
use crate::intake::refusals::network_of;

/// Tries a minute, for each name and for each address (of IPv6: each network).
const TRIES_PER_MINUTE: NonZeroU32 = match NonZeroU32::new(5) {
    Some(tries) => tries,
    None => NonZeroU32::MIN,
};
/// Names or addresses remembered; beyond it those that are free again are forgotten, and then everybody waits.
const REMEMBERED_MAX: usize = 10_000;
const RETRY_AFTER_S: i64 = 60;

/// Counts the tries of this process.
#[derive(Debug)]
pub struct Throttle {
    names: DefaultKeyedRateLimiter<String>,
    addresses: DefaultKeyedRateLimiter<String>,
}

impl Default for Throttle {
    fn default() -> Throttle {
        let quota = Quota::per_minute(TRIES_PER_MINUTE);
        Throttle { names: RateLimiter::keyed(quota), addresses: RateLimiter::keyed(quota) }
    }
}

impl Throttle {
    /// Counts a try; refuses where there were too many.
    pub fn count(&self, address: IpAddr, name: &str) -> Result<()> {
        // The address first: one address cannot fill the memory with names.
        let free = room(&self.addresses) && self.addresses.check_key(&network_of(&address.to_string())).is_ok();
        if free && room(&self.names) && self.names.check_key(&name.to_lowercase()).is_ok() {
            return Ok(());
        }
        let members = serde_json::Map::from_iter([("retry_after_s".to_owned(), RETRY_AFTER_S.into())]);
        Err(Error::refused_with("too_many_tries", "too many tries; wait a minute", members))
    }

    /// Counts a try by address alone, one that failed: a link that is good is no guess.
    pub fn count_address(&self, address: IpAddr) -> Result<()> {
        self.count(address, &format!("address {address}"))
    }
}

fn room<K: Clone + Eq + std::hash::Hash>(limiter: &DefaultKeyedRateLimiter<K>) -> bool {
    if limiter.len() >= REMEMBERED_MAX {
        limiter.retain_recent();
    }
    limiter.len() < REMEMBERED_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_tries_a_minute_by_name_and_by_address() {
        let throttle = Throttle::default();
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        for n in 0..5 {
            throttle.count(address(n), "anna").unwrap();
        }
        assert!(throttle.count(address(9), "Anna").is_err(), "the sixth try for a name, from wherever");
        for n in 0..4 {
            throttle.count(address(9), &format!("name {n}")).unwrap();
        }
        assert!(throttle.count(address(9), "another").is_err(), "the sixth try from an address, for whomever");
        let host = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
        assert!((0..5).all(|n| throttle.count_address(host(n)).is_ok()));
        assert!(throttle.count_address(host(9)).is_err(), "another address of the same network");
    }
}
