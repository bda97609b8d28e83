//! Refused activations of strangers: told one by one at a normal rate, summed up beyond it. Anybody on the network can knock with a wrong
//! token, a thousand times a second; the audit must stay readable, and the database must not fill.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Refusals of one address told one by one in a minute.
const TOLD_PER_MINUTE: u32 = 20;
const WINDOW_MS: i64 = 60_000;
/// Addresses remembered; beyond it all further ones are counted as one.
const REMEMBERED_MAX: usize = 10_000;
/// Summaries made at a time; the quietest of more are joined in the last.
const SUMMARIES_MAX: usize = 50;
/// The name under which addresses are counted together.
const OTHERS: &str = "others";

/// The counts of this process.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<String, Kept>>);

#[derive(Debug)]
struct Kept {
    window_ms: i64,
    told: u32,
    since_ms: i64,
    untold: BTreeMap<&'static str, i64>,
}

/// Refusals of one address that were not told one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The address, the network of an IPv6 address (/64), or `others`.
    pub remote: String,
    /// The first of them, Unix milliseconds.
    pub since_ms: i64,
    /// How many, by code.
    pub codes: BTreeMap<&'static str, i64>,
}

impl Summary {
    pub fn count(&self) -> i64 {
        self.codes.values().sum()
    }
}

impl Refusals {
    /// True where this refusal is to be told by itself; else it is counted for the summary.
    pub fn tell(&self, remote: &str, code: &'static str, now_ms: i64) -> bool {
        let mut kept = self.lock();
        let mut key = network_of(remote);
        if kept.len() >= REMEMBERED_MAX && !kept.contains_key(&key) {
            kept.retain(|_, kept| !kept.untold.is_empty() || now_ms - kept.window_ms < WINDOW_MS);
            if kept.len() >= REMEMBERED_MAX {
                key = OTHERS.to_owned();
            }
        }
        let one = kept.entry(key).or_insert_with(|| Kept { window_ms: now_ms, told: 0, since_ms: now_ms, untold: BTreeMap::new() });
        if now_ms - one.window_ms >= WINDOW_MS {
            (one.window_ms, one.told) = (now_ms, 0);
        }
        if one.told < TOLD_PER_MINUTE {
            one.told += 1;
            return true;
        }
        if one.untold.is_empty() {
            one.since_ms = now_ms;
        }
        *one.untold.entry(code).or_default() += 1;
        false
    }

    /// Takes the summaries of what has gathered for a minute, or of everything, the loudest first.
    pub fn take(&self, now_ms: i64, everything: bool) -> Vec<Summary> {
        let mut kept = self.lock();
        let mut summaries = Vec::new();
        for (remote, one) in kept.iter_mut() {
            if !one.untold.is_empty() && (everything || now_ms - one.since_ms >= WINDOW_MS) {
                summaries.push(Summary { remote: remote.clone(), since_ms: one.since_ms, codes: std::mem::take(&mut one.untold) });
            }
        }
        kept.retain(|_, kept| !kept.untold.is_empty() || now_ms - kept.window_ms < WINDOW_MS);
        summaries.sort_by_key(|summary| (-summary.count(), summary.remote.clone()));
        if summaries.len() > SUMMARIES_MAX {
            let quiet = summaries.split_off(SUMMARIES_MAX - 1);
            let mut rest = Summary { remote: OTHERS.to_owned(), since_ms: now_ms, codes: BTreeMap::new() };
            for summary in quiet {
                rest.since_ms = rest.since_ms.min(summary.since_ms);
                summary.codes.into_iter().for_each(|(code, n)| *rest.codes.entry(code).or_default() += n);
            }
            summaries.push(rest);
        }
        summaries
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By what a client is counted: its address, or its network (/64) of IPv6, because who has one address there has all 2^64.
pub fn network_of(remote: &str) -> String {
    match remote.parse() {
        Ok(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        _ => remote.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_normal_rate_is_told_one_by_one_and_a_flood_is_summed_up_by_address_and_code() {
        let refusals = Refusals::default();
        let flood = (0..1000).filter(|n| refusals.tell("192.0.2.1", if n % 2 == 0 { "token_unknown" } else { "user_unknown" }, *n)).count();
        assert_eq!(flood, 20);
        assert!((0..20).all(|n| refusals.tell("192.0.2.2", "token_unknown", n)), "another address is told as ever");
        assert!(refusals.take(1_000, false).is_empty(), "one summary a minute");
        let summaries = refusals.take(61_000, false);
        assert_eq!(summaries.len(), 1);
        assert_eq!((summaries[0].remote.as_str(), summaries[0].count(), summaries[0].since_ms), ("192.0.2.1", 980, 20));
        assert_eq!(summaries[0].codes["token_unknown"], 490);
        assert!(refusals.tell("192.0.2.1", "token_unknown", 61_000), "after a minute it is told again");
        assert!(refusals.take(200_000, true).is_empty());
    }

    #[test]
    fn addresses_without_number_cost_neither_memory_nor_entries() {
        let refusals = Refusals::default();
        let mut told = 0;
        for n in 0..30_000_u32 {
            let address = IpAddr::from(n.to_be_bytes());
            told += u32::from(refusals.tell(&address.to_string(), "token_unknown", 0));
        }
        assert_eq!(told, 10_000 + 20, "one each for those remembered, and twenty for all others");
        assert!(refusals.lock().len() <= REMEMBERED_MAX + 1);
        let networks = (0..100).filter(|n| refusals.tell(&format!("2001:db8:0:1::{n:x}"), "token_unknown", 70_000)).count();
        assert_eq!(networks, 20, "the addresses of one network are one");
        for n in 0..200_u32 {
            for _ in 0..21 + n {
                refusals.tell(&format!("198.51.100.{n}"), "token_unknown", 70_000);
            }
        }
        let summaries = refusals.take(200_000, true);
        assert_eq!(summaries.len(), SUMMARIES_MAX);
        assert_eq!(summaries.last().unwrap().remote, OTHERS);
        let sum: i64 = summaries.iter().map(Summary::count).sum();
        assert_eq!(sum, 30_000 - 10_020 + 80 + (0..200).map(|n| 1 + n).sum::<i64>(), "none is lost");
    }
}
