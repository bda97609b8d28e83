//! Settings of the mail that the server sends.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where mail is handed over, and in whose name. Without it no mail is sent.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mail {
    /// `smtps://user:password@host`, `smtp://host:587?tls=required`, or plain `smtp://127.0.0.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_url: Option<String>,
    /// `Muster <muster@example.org>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mail").field("smtp_url", &self.smtp_url.as_deref().map(super::hide_password)).field("from", &self.from).finish()
    }
}

/// Who is told of alarms by mail.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alarms {
    /// One address, or several between commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<String>,
}

impl Mail {
    /// True where mail can be sent.
    pub fn is_set_up(&self) -> bool {
        self.smtp_url.is_some() && self.from.is_some()
    }

    /// Refuses what could not work, or would show a password to the network.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.smtp_url.is_some() != self.from.is_some() {
            return Err("[mail] smtp_url and from stand together: set both or neither".into());
        }
        let (Some(url), Some(from)) = (&self.smtp_url, &self.from) else { return Ok(()) };
        if !from.contains('@') {
            return Err("[mail] from must be an address: Muster <muster@example.org>".into());
        }
        let url = reqwest::Url::parse(url).map_err(|_| "[mail] smtp_url cannot be read: take smtps://user:password@host".to_owned())?;
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let is_safe = match (url.scheme(), tls.as_deref()) {
            ("smtps", None) | ("smtp", Some("required")) => true,
            ("smtp", None | Some("opportunistic")) => false,
            _ => return Err("[mail] smtp_url must begin with smtps:// or smtp://, with ?tls=required for STARTTLS".into()),
        };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if !is_safe && !is_here && url.password().is_some() {
            return Err("[mail] smtp_url has a password and no TLS: take smtps://, or smtp:// with ?tls=required".into());
        }
        Ok(())
    }
}

impl Alarms {
    /// The addresses.
    pub fn addresses(&self) -> Vec<String> {
        let listed = self.mail.as_deref().unwrap_or_default().split(',').map(str::trim);
        listed.filter(|address| !address.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn check(&self, mail: &Mail) -> Result<(), String> {
        let addresses = self.addresses();
        if let Some(wrong) = addresses.iter().find(|address| !address.contains('@')) {
            return Err(format!("[alarms] mail: {wrong:?} is no e-mail address"));
        }
        if !addresses.is_empty() && !mail.is_set_up() {
            return Err("[alarms] mail needs [mail] smtp_url and from".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_sent_in_the_clear_and_never_printed() {
        let mail = |url: &str| Mail { smtp_url: Some(url.into()), from: Some("muster@example.org".into()) };
        for good in
            ["smtps://u:secret@mail.example.org", "smtp://u:secret@mail.example.org:587?tls=required", "smtp://u:secret@127.0.0.1:25"]
        {
            assert_eq!(mail(good).check(), Ok(()), "{good}");
            assert!(!format!("{:?}", mail(good)).contains("secret"));
        }
        for bad in
            ["smtp://u:secret@mail.example.org", "smtp://u:secret@mail.example.org?tls=opportunistic", "http://mail.example.org", "x"]
        {
            assert!(mail(bad).check().is_err(), "{bad}");
        }
        assert!(Mail { from: None, ..mail("smtps://h") }.check().is_err());
    }

    #[test]
    fn alarms_need_addresses_and_a_way_to_send_to_them() {
        let alarms = |text: &str| Alarms { mail: Some(text.into()) };
        let mail = Mail { smtp_url: Some("smtps://mail.example.org".into()), from: Some("muster@example.org".into()) };
        assert_eq!(alarms("a@example.org, b@example.org,").addresses(), ["a@example.org", "b@example.org"]);
        assert_eq!(alarms("a@example.org").check(&mail), Ok(()));
        assert!(alarms("a@example.org").check(&Mail::default()).is_err());
        assert!(alarms("nobody").check(&mail).is_err());
    }
}
