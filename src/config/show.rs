//! The settings in force, for people: without their secrets.

use super::Config;

impl Config {
    /// The settings in force as TOML, secrets hidden.
    pub fn print(&self) -> String {
        let mut shown = self.clone();
        shown.secrets.key = shown.secrets.key.map(|_| "hidden".into());
        shown.database_url = hide_password(&shown.database_url);
        for url in [&mut shown.mail.smtp_url, &mut shown.telemetry.otlp_endpoint] {
            *url = url.as_deref().map(hide_password);
        }
        toml::to_string_pretty(&shown).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.print())
    }
}

/// `postgres://user:secret@host/db?password=secret` without the secrets.
pub fn hide_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (login, place) = login(rest).map_or((None, rest), |at| (Some(&rest[..at]), &rest[at + 1..]));
    let mut shown = format!("{scheme}://");
    if let Some(login) = login {
        shown += match login.split_once(':') {
            Some((user, _)) => format!("{user}:hidden@"),
            None => format!("{login}@"),
        }
        .as_str();
    }
    let Some((path, query)) = place.split_once('?') else { return shown + place };
    let parameters: Vec<String> = query.split('&').map(hide_parameter).collect();
    format!("{shown}{path}?{}", parameters.join("&"))
}

/// Where the login of an authority ends: at its last `@`. A password with a `/` in it that nobody escaped ends the authority too early;
/// what then looks like a port is none.
fn login(rest: &str) -> Option<usize> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    if let Some(at) = authority.rfind('@') {
        return Some(at);
    }
    let (_, port) = authority.rsplit_once(':')?;
    let is_port = authority.ends_with(']') || port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port { None } else { rest.rfind('@') }
}

/// `password=secret` without the secret.
fn hide_parameter(pair: &str) -> String {
    let name = pair.split('=').next().unwrap_or(pair);
    let plain = form_urlencoded::parse(name.as_bytes()).next().map(|(name, _)| name.to_ascii_lowercase()).unwrap_or_default();
    if matches!(plain.as_str(), "password" | "sslpassword") { format!("{name}=hidden") } else { pair.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::load;
    use super::*;

    #[test]
    fn printing_hides_secrets() {
        let config = load(
            "database_url = \"postgres://muster:pass@db/muster\"\n[mail]\nsmtp_url = \"smtps://u:p@ss@mail\"\nfrom = \"a@example.org\"\n\
             [telemetry]\notlp_endpoint = \"https://u:word@collector\"",
            &[("MUSTER_SECRETS_KEY", "c2VjcmV0")],
        )
        .unwrap();
        let shown = config.print();
        for secret in ["pass@", "c2VjcmV0", "ss@", "word"] {
            assert!(!shown.contains(secret), "{secret}: {shown}");
        }
        assert!(shown.contains("https://u:hidden@collector"), "{shown}");
        assert!(!format!("{config:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn passwords_are_hidden_wherever_they_stand_in_a_url() {
        for (url, shown) in [
            ("postgres://u:p@ss@h/x?password=sekret", "postgres://u:hidden@h/x?password=hidden"),
            ("postgres://h/x?a=b&SSLPASSWORD=sekret&c=d", "postgres://h/x?a=b&SSLPASSWORD=hidden&c=d"),
            ("postgres://h/x?pass%77ord=sekret", "postgres://h/x?pass%77ord=hidden"),
            ("postgres://u:se/k@ret@h/x", "postgres://u:hidden@h/x"),
            ("postgres://u:se?kret@h/x", "postgres://u:hidden@h/x"),
            ("postgres://u:se#kret@h:5432/x", "postgres://u:hidden@h:5432/x"),
            ("postgres://muster@h/x", "postgres://muster@h/x"),
            ("postgres://h:5432/x?options=a@b", "postgres://h:5432/x?options=a@b"),
            ("postgres://[::1]:5432/x@y", "postgres://[::1]:5432/x@y"),
            ("postgres://[::1]/x@y", "postgres://[::1]/x@y"),
            ("sqlite://data/a@b.db", "sqlite://data/a@b.db"),
            ("no url", "no url"),
        ] {
            assert_eq!(hide_password(url), shown);
        }
    }
}
