//! The credential breaker: a configuration fault stops the sender at once, and single probes find out when it is mended. Pure.

/// The first wait between probes; doubled up to the maximum while they fail.
const PROBE_MS: i64 = 60_000;
const PROBE_MS_MAX: i64 = 900_000;

/// What a probe showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    Works,
    StillBroken,
    /// It never reached a judgement (timeout, cancelled): the next one follows after the same wait.
    Unclear,
}

/// Closed, or open with the provider's reason.
#[derive(Debug, Default)]
pub struct CredentialBreaker {
    fault: Option<Fault>,
}

/// An open configuration fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The provider's word, or ours: `mass_death`, `invalid_grant`.
    pub code: &'static str,
    /// A sentence for the operator; never a secret.
    pub detail: String,
    /// Unix milliseconds.
    pub since_ms: i64,
    /// Unix milliseconds of the next probe.
    pub probe_at_ms: i64,
    wait_ms: i64,
    probing: bool,
}

impl CredentialBreaker {
    /// Asks to send one request: `Ok(true)` for the probe, whose end must be told to [`CredentialBreaker::probed`]; else the Unix
    /// milliseconds of the next probe.
    pub fn admit(&mut self, now_ms: i64) -> Result<bool, i64> {
        match &mut self.fault {
            None => Ok(false),
            Some(fault) if fault.probing || now_ms < fault.probe_at_ms => Err(fault.probe_at_ms.max(now_ms + 1_000)),
            Some(fault) => {
                fault.probing = true;
                Ok(true)
            }
        }
    }

    /// How many requests would be admitted now.
    pub fn free(&self, now_ms: i64) -> usize {
        match &self.fault {
            None => usize::MAX,
            Some(fault) => usize::from(!fault.probing && now_ms >= fault.probe_at_ms),
        }
    }

    /// Opens the breaker. False when it was open already; the older reason stays.
    pub fn trip(&mut self, now_ms: i64, code: &'static str, detail: String) -> bool {
        if self.fault.is_some() {
            return false;
        }
        self.fault = Some(Fault { code, detail, since_ms: now_ms, probe_at_ms: now_ms + PROBE_MS, wait_ms: PROBE_MS, probing: false });
        true
    }

    /// The probe ended. True when it closed the breaker.
    pub fn probed(&mut self, now_ms: i64, probe: Probe) -> bool {
        let Some(fault) = &mut self.fault else { return false };
        fault.probing = false;
        match probe {
            Probe::Works => {
                self.fault = None;
                return true;
            }
            Probe::StillBroken => fault.wait_ms = (fault.wait_ms * 2).min(PROBE_MS_MAX),
            Probe::Unclear => {}
        }
        fault.probe_at_ms = now_ms + fault.wait_ms;
        false
    }

    /// The open fault.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_probe_a_minute_then_ever_rarer_until_it_works() {
        let mut breaker = CredentialBreaker::default();
        assert!(breaker.trip(0, "PERMISSION_DENIED", String::new()));
        assert!(!breaker.trip(1, "OTHER", String::new()));
        let mut now_ms = 60_000;
        for wait_ms in [120_000, 240_000, 480_000, 900_000, 900_000] {
            assert_eq!(breaker.admit(now_ms - 1), Err(now_ms.max(now_ms - 1 + 1_000)));
            assert_eq!(breaker.admit(now_ms), Ok(true));
            assert!(breaker.admit(now_ms).is_err(), "only one probe at a time");
            assert!(!breaker.probed(now_ms, Probe::StillBroken));
            now_ms += wait_ms;
        }
        assert_eq!(breaker.admit(now_ms), Ok(true));
        assert!(breaker.probed(now_ms, Probe::Works));
        assert_eq!(breaker.admit(now_ms), Ok(false));
    }

    #[test]
    fn an_unclear_probe_waits_no_longer() {
        let mut breaker = CredentialBreaker::default();
        breaker.trip(0, "PERMISSION_DENIED", String::new());
        assert_eq!(breaker.admit(60_000), Ok(true));
        breaker.probed(60_000, Probe::Unclear);
        assert_eq!(breaker.free(119_999), 0);
        assert_eq!(breaker.free(120_000), 1);
    }
}
