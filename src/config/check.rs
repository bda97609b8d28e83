//! What settings are refused: those out of their range, and combinations that would be unsafe or could not work.

use std::ops::RangeInclusive;

use super::{Config, ConfigError};
use crate::model::reach;

/// A hundred years: what is kept for longer is kept for good.
const DAYS_MAX: i64 = 36_500;
const COUNT_MAX: i64 = 1_000_000_000;
const AUDIENCE_BYTES_MAX: usize = 64;
const REFRESH_S_MAX: i64 = 10 * 366 * 86_400;

impl Config {
    /// Refuses settings out of their range, and combinations that would be unsafe or could not work.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_addresses()?;
        self.check_numbers()?;
        if self.mdm.ca_cert.is_some() != self.mdm.ca_key.is_some() {
            return Err(ConfigError("[mdm] ca_cert and ca_key stand together: set both or neither".into()));
        }
        let is_name = |name: &String| {
            let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-');
            (1..=AUDIENCE_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
        };
        if let Some(wrong) = self.agent.audiences.iter().find(|name| !is_name(name)) {
            return Err(ConfigError(format!(
                "[agent] audiences: {wrong:?} is no name of a kind of server: take up to {AUDIENCE_BYTES_MAX} of a-z, 0-9, '.', '_' and '-'"
            )));
        }
        self.mail.check().and_then(|()| self.alarms.check(&self.mail)).map_err(ConfigError)?;
        for listener in self.listening() {
            if !listener.tls && !listener.address.ip().is_loopback() && !self.behind_proxy {
                return Err(ConfigError(format!(
                    "{} would speak plain HTTP to the outside: set [tls] cert and key, or behind_proxy = true, or listen on 127.0.0.1",
                    listener.address
                )));
            }
            if listener.tls && self.tls.is_none() {
                return Err(ConfigError(format!("{} asks for TLS: set [tls] cert and key", listener.address)));
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        if !(self.public_url.starts_with("https://") || self.public_url.starts_with("http://")) {
            return Err(ConfigError("public_url must begin with https:// or http://".into()));
        }
        if !is_base(&self.public_url) {
            return Err(ConfigError(
                "public_url must be a scheme and a host, with a port where it needs one, and no path or query: https://mdm.example.org"
                    .into(),
            ));
        }
        let file = self.sqlite_file();
        let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| self.database_url.starts_with(scheme));
        if !is_postgres && file.is_none_or(|file| file.as_os_str().is_empty()) {
            return Err(ConfigError("database_url must begin with sqlite:// and name a file, or begin with postgres://".into()));
        }
        if let Some(wrong) = self.webhooks.allow.iter().find(|entry| !reach::is_entry(entry)) {
            return Err(ConfigError(format!(
                "[webhooks] allow: {wrong:?} is no host name, address or network: take hooks.example.org, 10.0.0.1 or 10.0.0.0/8"
            )));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<(), ConfigError> {
        let (keep, fcm) = (&self.retention, self.push.fcm.clone().unwrap_or_default());
        for (name, number, range) in [
            ("[retention] tasks_days", keep.tasks_days, 1..=DAYS_MAX),
            ("[retention] events_days", keep.events_days, 1..=DAYS_MAX),
            ("[retention] feed_days", keep.feed_days, 1..=DAYS_MAX),
            ("[retention] contacts_days", keep.contacts_days, 1..=DAYS_MAX),
            ("[limits] devices_per_user", self.limits.devices_per_user, 0..=COUNT_MAX),
            ("[limits] wipes_per_hour", self.limits.wipes_per_hour, 0..=COUNT_MAX),
            ("[mdm] refresh_every_s", self.mdm.refresh_every_s, 0..=REFRESH_S_MAX),
            ("[push.fcm] quota_per_s", i64::from(fcm.quota_per_s), 1..=COUNT_MAX),
            ("[push.fcm] concurrency_max", i64::from(fcm.concurrency_max), 1..=COUNT_MAX),
        ] {
            in_range(name, number, range)?;
        }
        Ok(())
    }
}

fn in_range(name: &str, number: i64, range: RangeInclusive<i64>) -> Result<(), ConfigError> {
    if range.contains(&number) {
        return Ok(());
    }
    Err(ConfigError(format!("{name} is {number}: take {} to {}", range.start(), range.end())))
}

/// True for a scheme with a host, to which paths can be appended.
fn is_base(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    // A URL's parser takes further slashes for nothing.
    if rest.is_empty() || rest.starts_with(['/', '\\']) || text.contains(['?', '#']) || text.contains(char::is_whitespace) {
        return false;
    }
    let Ok(url) = reqwest::Url::parse(text) else { return false };
    url.host_str().is_some_and(|host| !host.is_empty()) && url.path() == "/" && url.username().is_empty() && url.password().is_none()
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::load;

    #[test]
    fn a_setting_out_of_its_range_is_refused_by_its_name() {
        for (file, name) in [
            ("[retention]\ntasks_days = 0", "[retention] tasks_days"),
            ("[retention]\nevents_days = -1", "[retention] events_days"),
            ("[retention]\nfeed_days = 0", "[retention] feed_days"),
            ("[retention]\ncontacts_days = 9223372036854775807", "[retention] contacts_days"),
            ("[limits]\nwipes_per_hour = -1", "[limits] wipes_per_hour"),
            ("[limits]\ndevices_per_user = -1", "[limits] devices_per_user"),
            ("[mdm]\nrefresh_every_s = -1", "[mdm] refresh_every_s"),
            ("[push.fcm]\nquota_per_s = 0", "[push.fcm] quota_per_s"),
            ("[push.fcm]\nconcurrency_max = 0", "[push.fcm] concurrency_max"),
        ] {
            let error = load(file, &[]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("take"), "{file}: {error}");
        }
        let config = load("[limits]\nwipes_per_hour = 0\n[mdm]\nrefresh_every_s = 0\n[retention]\nfeed_days = 1", &[]).unwrap();
        assert_eq!((config.limits.wipes_per_hour, config.retention.feed_days), (0, 1));
    }

    #[test]
    fn addresses_that_lead_nowhere_are_refused() {
        for good in ["https://mdm.example.org", "https://mdm.example.org/", "http://127.0.0.1:8080", "http://[::1]:8080"] {
            assert!(load(&format!("public_url = {good:?}"), &[]).is_ok(), "{good}");
        }
        for bad in [
            "https://",
            "https:///x",
            "http://:80",
            "https://mdm.example.org/muster",
            "https://mdm.example.org?a=b",
            "https://mdm.example.org/#a",
            "https://u@mdm.example.org",
            "https://mdm.example.org:99999",
            "mdm.example.org",
        ] {
            let error = load(&format!("public_url = {bad:?}"), &[]).unwrap_err().to_string();
            assert!(error.contains("public_url"), "{bad}: {error}");
        }
        for bad in ["sqlite:foo.db", "sqlite://", "mysql://h/x", ""] {
            let error = load(&format!("database_url = {bad:?}"), &[]).unwrap_err().to_string();
            assert!(error.contains("database_url"), "{bad}: {error}");
        }
        for good in ["hooks.example.org", "localhost", "10.0.0.1", "10.0.0.0/8", "fd00::/8", "[::1]", "0.0.0.0/0"] {
            assert!(load(&format!("[webhooks]\nallow = [{good:?}]"), &[]).is_ok(), "{good}");
        }
        for bad in
            ["10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/x", "10.0.0.0/-1", "10.0.0", "10.0.0.300", "https://hooks", "a b", ""]
        {
            let error = load(&format!("[webhooks]\nallow = [\"localhost\", {bad:?}]"), &[]).unwrap_err().to_string();
            assert!(error.contains("[webhooks] allow") && error.contains(&format!("{bad:?}")), "{bad}: {error}");
        }
    }

    #[test]
    fn plain_http_to_the_outside_needs_to_be_said() {
        let error = load("listen = \"0.0.0.0:80\"", &[]).unwrap_err().to_string();
        assert!(error.contains("behind_proxy"), "{error}");
        assert!(load("listen = \"0.0.0.0:80\"\nbehind_proxy = true", &[]).is_ok());
    }
}
