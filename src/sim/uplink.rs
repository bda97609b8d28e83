//! The way from a fleet to its server: at most so many requests at once, each of them counted and timed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The buckets of a histogram grow by 5 % each, from a microsecond to over ten minutes.
const BUCKETS: usize = 420;
const GROWTH: f64 = 1.05;
/// Codes of refusals that are told apart; what comes beyond has no name.
const CODES_MAX: usize = 100;
/// The longest code, in bytes.
const CODE_BYTES_MAX: usize = 64;

/// What phones ask of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Activate,
    Sync,
    Events,
    /// Apple's enrollment profiles, and what SCEP asks for an identity.
    Enroll,
    /// Apple's check-ins.
    Checkin,
    /// Apple's reports and commands.
    Connect,
}

/// All of them, in the order of their rows.
pub const ASKS: [Ask; 6] = [Ask::Activate, Ask::Sync, Ask::Events, Ask::Enroll, Ask::Checkin, Ask::Connect];

impl Ask {
    pub fn name(self) -> &'static str {
        ["activate", "sync", "events", "enroll", "checkin", "connect"][self as usize]
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Answered,
    /// 429 or 503: come back later.
    Later,
    /// Any other status of 400 to 499.
    Refused,
    /// No answer, or 5xx.
    Broken,
}

impl End {
    /// The end that a status says; none at all is a broken request.
    pub fn of_status(status: Option<u16>) -> End {
        match status {
            Some(200..=299) => End::Answered,
            Some(429 | 503) => End::Later,
            Some(400..=499) => End::Refused,
            _ => End::Broken,
        }
    }
}

/// How a request ended and, where it was refused, by which code.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub end: End,
    pub code: Option<String>,
}

impl Outcome {
    /// What a status says, and the `code` of a problem document; a refusal without one has its status for a code.
    pub fn of(status: Option<u16>, code: Option<&str>) -> Outcome {
        let end = End::of_status(status);
        let named = code.filter(|code| (1..=CODE_BYTES_MAX).contains(&code.len())).map(str::to_owned);
        let code = named.or_else(|| status.map(|status| status.to_string())).filter(|_| end == End::Refused);
        Outcome { end, code }
    }
}

/// Shared by the phones of a fleet.
#[derive(Debug)]
pub struct Uplink {
    places: Semaphore,
    asked: [Counted; ASKS.len()],
    /// How often each kind of request was refused by each code.
    refusals: Mutex<BTreeMap<(usize, String), u64>>,
}

#[derive(Debug)]
struct Counted {
    ends: [AtomicU64; 4],
    buckets: Vec<AtomicU64>,
}

/// What was counted of one kind of request. Times are of requests that were answered, from the moment in which they were sent.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    pub request: &'static str,
    pub answered: u64,
    pub later: u64,
    pub refused: u64,
    pub broken: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Refusals of one kind of request by one code.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    pub request: &'static str,
    pub code: String,
    pub count: u64,
}

impl Uplink {
    /// A way for at most `at_once` requests at a time.
    pub fn new(at_once: usize) -> Uplink {
        let counted = || Counted { ends: Default::default(), buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() };
        Uplink { places: Semaphore::new(at_once.max(1)), asked: std::array::from_fn(|_| counted()), refusals: Mutex::default() }
    }

    /// Sends a request when there is a place for it, and counts how it ended: `outcome` reads that from what came back.
    pub async fn send<T>(&self, ask: Ask, request: impl Future<Output = T>, outcome: impl FnOnce(&T) -> Outcome) -> T {
        let _place = self.places.acquire().await;
        let started = Instant::now();
        let answer = request.await;
        let Outcome { end, code } = outcome(&answer);
        let counted = &self.asked[ask as usize];
        counted.ends[end as usize].fetch_add(1, Ordering::Relaxed);
        if end == End::Answered {
            counted.buckets[bucket(started.elapsed())].fetch_add(1, Ordering::Relaxed);
        }
        if let Some(code) = code {
            self.refused(ask, code);
        }
        answer
    }

    fn refused(&self, ask: Ask, code: String) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (ask as usize, code);
        if refusals.len() >= CODES_MAX && !refusals.contains_key(&key) {
            key.1 = "others".into();
        }
        *refusals.entry(key).or_default() += 1;
    }

    /// Why requests were refused, the most frequent first.
    pub fn refusals(&self) -> Vec<Refused> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let one =
            |((ask, code), count): (&(usize, String), &u64)| Refused { request: ASKS[*ask].name(), code: code.clone(), count: *count };
        let mut all: Vec<Refused> = refusals.iter().map(one).collect();
        all.sort_by_key(|refused| std::cmp::Reverse(refused.count));
        all
    }

    /// Requests that have ended so far.
    pub fn requests(&self) -> u64 {
        self.asked.iter().flat_map(|counted| &counted.ends).map(|end| end.load(Ordering::Relaxed)).sum()
    }

    /// What was counted of each kind that was asked at all.
    pub fn figures(&self) -> Vec<Figures> {
        let of = |(ask, counted): (Ask, &Counted)| {
            let [answered, later, refused, broken] = [0, 1, 2, 3].map(|end: usize| counted.ends[end].load(Ordering::Relaxed));
            let times: Vec<u64> = counted.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
            let [p50_ms, p90_ms, p99_ms, max_ms] = [0.5, 0.9, 0.99, 1.0].map(|share| percentile_ms(&times, share));
            Figures { request: ask.name(), answered, later, refused, broken, p50_ms, p90_ms, p99_ms, max_ms }
        };
        let all = ASKS.into_iter().zip(&self.asked).map(of);
        all.filter(|figures| figures.answered + figures.later + figures.refused + figures.broken > 0).collect()
    }
}

fn bucket(took: Duration) -> usize {
    let us = (took.as_secs_f64() * 1e6).max(1.0);
    ((us.ln() / GROWTH.ln()).ceil() as usize).min(BUCKETS - 1)
}

/// The upper edge of the bucket in which this share of all times is reached; 0 where there are none.
fn percentile_ms(times: &[u64], share: f64) -> f64 {
    let all: u64 = times.iter().sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut seen = 0;
    for (at, count) in times.iter().enumerate() {
        seen += count;
        if *count > 0 && seen >= wanted {
            return (GROWTH.powi(i32::try_from(at).unwrap_or(i32::MAX)) / 10.0).round() / 100.0;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_a_twentieth_and_never_too_low() {
        let mut times = vec![0; BUCKETS];
        for ms in 1..=1000 {
            times[bucket(Duration::from_millis(ms))] += 1;
        }
        for (share, exact_ms) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let told_ms = percentile_ms(&times, share);
            assert!((exact_ms..exact_ms * 1.06).contains(&told_ms), "{share}: {told_ms}");
        }
        assert_eq!(percentile_ms(&[0; BUCKETS], 0.5), 0.0);
    }

    #[tokio::test]
    async fn requests_are_counted_by_their_ends() {
        let uplink = Uplink::new(2);
        for status in [200, 201, 503, 403, 500] {
            uplink.send(Ask::Sync, async { Some(status) }, |status| Outcome::of(*status, Some("device_unauthorized"))).await;
        }
        uplink.send(Ask::Sync, async { None }, |status| Outcome::of(*status, None)).await;
        let figures = uplink.figures();
        let [one] = figures.as_slice() else { panic!("{figures:?}") };
        assert_eq!((one.request, one.answered, one.later, one.refused, one.broken), ("sync", 2, 1, 1, 2));
        assert_eq!(uplink.requests(), 6);
        for _ in 0..2 {
            uplink.send(Ask::Enroll, async { Some(404) }, |status| Outcome::of(*status, None)).await;
        }
        let refused = |request, code: &str, count| Refused { request, code: code.into(), count };
        assert_eq!(uplink.refusals(), [refused("enroll", "404", 2), refused("sync", "device_unauthorized", 1)]);
        // A server that makes codes up cannot fill the memory.
        for n in 0..2 * CODES_MAX {
            uplink.send(Ask::Sync, async { Some(403) }, |status| Outcome::of(*status, Some(&n.to_string()))).await;
        }
        assert!(uplink.refusals().len() <= CODES_MAX + 1);
    }
}
