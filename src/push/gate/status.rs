//! What the gate tells of itself.

use super::Gate;
use crate::push::notice::{Notice, SenderState, SenderStatus};

impl Gate {
    /// 0 closed, 1 half open, 2 open: the metric of the breakers. A fault of the credential stands until a probe has mended it: also while
    /// the next one may leave, which without anything due is for long.
    pub(in crate::push) fn breaker_state(&self, now_ms: i64) -> f64 {
        if self.credential.fault().is_some() || self.reopens_at_ms(now_ms).is_some() {
            2.0
        } else if self.provider.failing_since_ms().is_some() {
            1.0
        } else {
            0.0
        }
    }

    /// The provider refused the credential while nothing was sent: it is at fault as if a nudge had been told so.
    pub(in crate::push) fn denied(&mut self, now_ms: i64, code: &'static str, detail: String) {
        if self.credential.trip(now_ms, code, detail.clone()) {
            self.notices.push(Notice::Fault { code: code.into(), detail });
        }
    }

    /// The part of the status that the gate knows.
    pub(in crate::push) fn status(&mut self, name: &str, now_ms: i64) -> SenderStatus {
        let reopens_ms = self.reopens_at_ms(now_ms);
        let (state, reason, since_ms) = if !self.configured {
            (SenderState::Unconfigured, None, None)
        } else if let Some(fault) = self.credential.fault() {
            (SenderState::Fault, Some(format!("{}: {}", fault.code, fault.detail)), Some(fault.since_ms))
        } else if self.paused_until_ms > now_ms {
            (SenderState::Paused, Some("the provider asked for a pause".into()), Some(self.paused_since_ms))
        } else if let Some(since_ms) = self.provider.failing_since_ms() {
            (SenderState::Paused, Some(format!("most requests fail at the provider: {}", self.trouble)), Some(since_ms))
        } else if let Some((since_ms, reason)) = self.outage() {
            (SenderState::Paused, Some(unreached(reason)), Some(since_ms))
        } else {
            (SenderState::Ok, None, None)
        };
        SenderStatus {
            name: name.to_owned(),
            state,
            reason,
            since_ms,
            paused_until_ms: reopens_ms,
            bridge_fault: self.bridge.fault().map(|fault| format!("{}: {}", fault.code, fault.detail)),
            in_flight: self.in_flight,
            concurrency_limit: 0,
            pace_per_s: self.pace.level_per_s(),
            quota_per_s: self.pace.max_per_s(),
            token_age_s: None,
            strange_answer: None,
            credential_from: None,
            project_id: None,
            topic: None,
            credential_ends_at_ms: None,
        }
    }
}

/// What is told of a provider that answers nothing of use.
pub(in crate::push) fn unreached(reason: &str) -> String {
    format!("for five minutes and longer the provider has answered nothing of use: {reason}; what is due is tried again and again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::verdict::Verdict;

    #[test]
    fn the_breaker_is_open_while_a_credential_is_at_fault_also_where_nothing_is_due() {
        let mut gate = Gate::new(1_000, 0);
        gate.renew(0);
        assert_eq!(gate.breaker_state(0), 0.0);
        let leave = gate.admit(0, false).unwrap();
        gate.settle(leave, Verdict::Config { code: "PERMISSION_DENIED", detail: String::new() }, 0, 0.0);
        for now_ms in [0, 59_000, 60_000, 3_600_000] {
            assert_eq!(gate.breaker_state(now_ms), 2.0, "at {now_ms}");
        }
        // While the probe is on the wire, and after it failed.
        let probe = gate.admit(3_600_000, false).unwrap();
        assert_eq!(gate.breaker_state(3_600_000), 2.0);
        gate.settle(probe, Verdict::Config { code: "PERMISSION_DENIED", detail: String::new() }, 3_600_100, 0.0);
        assert_eq!(gate.breaker_state(7_200_000), 2.0);
        let probe = gate.admit(7_200_000, false).unwrap();
        gate.settle(probe, Verdict::Accepted, 7_200_100, 0.0);
        assert_eq!(gate.breaker_state(7_200_100), 0.0);
    }
}
