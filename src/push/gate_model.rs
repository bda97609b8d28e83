//! The gate under random courses of events: it counts right, it never sends while it says that it is shut, and it always opens again.

use proptest::prelude::*;

use super::Answer;
use super::gate::{Gate, Leave};
use super::verdict::Verdict;

/// Longer than the longest pause, wait between probes, or opening.
const LONG_MS: i64 = 4_000_000;

#[derive(Clone, Debug)]
enum Event {
    Admit { bridged: bool },
    Settle { which: usize, verdict: Verdict },
    Abandon { which: usize },
    Renew,
    Pass { ms: i64 },
}

fn verdict() -> impl Strategy<Value = Verdict> {
    let wait = || prop_oneof![Just(None), (1_000..3_600_000_i64).prop_map(Some)];
    prop_oneof![
        6 => Just(Verdict::Accepted),
        1 => Just(Verdict::Dead("UNREGISTERED")),
        3 => Just(Verdict::Suspect("SENDER_ID_MISMATCH")),
        1 => Just(Verdict::DeviceThrottled { reason: "QUOTA_EXCEEDED", wait_ms: 60_000 }),
        1 => wait().prop_map(|retry_after_ms| Verdict::Throttled { reason: "QUOTA_EXCEEDED", retry_after_ms }),
        2 => wait().prop_map(|retry_after_ms| Verdict::Overloaded { reason: "UNAVAILABLE", retry_after_ms }),
        2 => Just(Verdict::Failed { reason: "INTERNAL", wait_ms: 10_000 }),
        2 => Just(Verdict::TimedOut),
        2 => Just(Verdict::Unsent { reason: "connect" }),
        1 => Just(Verdict::Config { code: "PERMISSION_DENIED", detail: String::new() }),
        1 => Just(Verdict::BridgeConfig { code: "THIRD_PARTY_AUTH_ERROR", detail: String::new() }),
        1 => Just(Verdict::Bug { reason: "INVALID_ARGUMENT", detail: String::new() }),
        1 => Just(Verdict::Unauthenticated { detail: String::new() }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any::<bool>().prop_map(|bridged| Event::Admit { bridged }),
        8 => (any::<usize>(), verdict()).prop_map(|(which, verdict)| Event::Settle { which, verdict }),
        1 => any::<usize>().prop_map(|which| Event::Abandon { which }),
        1 => Just(Event::Renew),
        4 => prop_oneof![0..100_i64, 0..100_000_i64, 0..2_000_000_i64].prop_map(|ms| Event::Pass { ms }),
    ]
}

/// The gate is open for one ordinary nudge, now or after its own waits.
fn opens_again(gate: &mut Gate, mut now_ms: i64) -> bool {
    for _ in 0..20 {
        now_ms += LONG_MS;
        if gate.capacity(now_ms, 2_000, 100, 0) == 0 {
            return false;
        }
        match gate.admit(now_ms, false) {
            Ok(leave) => assert_eq!(gate.settle(leave, Verdict::Accepted, now_ms, 0.5), Answer::Accepted),
            Err(_) => return false,
        }
    }
    gate.reopens_at_ms(now_ms).is_none() && gate.breaker_state(now_ms) == 0.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_gate_counts_right_stays_shut_and_opens_again(events in prop::collection::vec(event(), 0..120)) {
        let mut now_ms = 1_800_000_000_000;
        let mut gate = Gate::new(8_000, now_ms);
        let mut flights: Vec<Leave> = Vec::new();
        prop_assert_eq!(gate.capacity(now_ms, 2_000, 100, 0), 0, "no credential yet");
        gate.renew(now_ms);
        for event in events {
            match event {
                Event::Admit { bridged } => {
                    let shut = gate.reopens_at_ms(now_ms);
                    match gate.admit(now_ms, bridged) {
                        Ok(leave) => {
                            prop_assert!(shut.is_none());
                            flights.push(leave);
                        }
                        // What is due again at once is not claimed at once.
                        Err(refusal) => prop_assert!(refusal.due_ms > now_ms || gate.capacity(now_ms, 2_000, 100, 0) == 0),
                    }
                }
                Event::Settle { which, verdict } if !flights.is_empty() => {
                    let leave = flights.swap_remove(which % flights.len());
                    let fault = matches!(verdict, Verdict::Config { .. } | Verdict::Unauthenticated { .. } | Verdict::BridgeConfig { .. });
                    let answer = gate.settle(leave, verdict, now_ms, 0.5);
                    prop_assert!(!fault || matches!(answer, Answer::GivenBack { .. }), "a fault of ours costs no attempt");
                }
                Event::Abandon { which } if !flights.is_empty() => {
                    let leave = flights.swap_remove(which % flights.len());
                    gate.abandon(leave, now_ms);
                }
                Event::Settle { .. } | Event::Abandon { .. } => {}
                Event::Renew => gate.renew(now_ms),
                Event::Pass { ms } => now_ms += ms,
            }
            prop_assert_eq!(gate.in_flight(), flights.len());
            if gate.reopens_at_ms(now_ms).is_some() {
                prop_assert_eq!(gate.capacity(now_ms, 2_000, 100, 0), 0);
            }
            prop_assert!(gate.take_notices().len() <= 64);
        }
        for leave in flights {
            gate.abandon(leave, now_ms);
        }
        prop_assert!(opens_again(&mut gate, now_ms));
    }
}

#[test]
fn a_lock_with_which_it_was_tried_whether_the_provider_is_back_climbs_no_ladder() {
    let away = || Verdict::Overloaded { reason: "UNAVAILABLE", retry_after_ms: None };
    let mut gate = Gate::new(8_000, 0);
    gate.renew(0);
    for _ in 0..20 {
        let leave = gate.admit(0, false).unwrap();
        assert!(matches!(gate.settle(leave, away(), 0, 0.5), Answer::Failed { .. }));
    }
    for _ in 0..10 {
        let now_ms = gate.reopens_at_ms(0).unwrap();
        let leave = gate.admit(now_ms, false).unwrap();
        let answer = gate.settle(leave, away(), now_ms, 0.5);
        let due_ms = gate.reopens_at_ms(now_ms).unwrap() + 1_000;
        assert!(matches!(answer, Answer::GivenBack { due_ms: due, .. } if due == due_ms), "{answer:?}");
        assert!(due_ms - now_ms < 62_000);
    }
}
