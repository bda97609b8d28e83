//! Reads the settings: the file, then the variables.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Config, ConfigError};

/// Variables that the command line or tests read: no settings of the server.
const NO_SETTINGS: [&str; 6] = ["SERVER", "KEY", "CONFIG", "LOG", "ENROLLMENT_TOKEN", "REQUIRE_POSTGRES"];

/// A variable, and the setting that it is.
struct Variable {
    name: String,
    path: Vec<String>,
    text: String,
    /// True while it was not taken for the text that it is, but for what it reads as.
    guessed: bool,
}

/// Why a value does not fit: the setting as a path (`push.fcm.endpoint`), and what was expected.
struct Misfit {
    path: String,
    said: String,
}

impl Config {
    /// Reads the settings: `file` if it is there (a file that was asked for must be), then the variables.
    pub fn load(file: &Path, asked_for: bool, variables: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => String::new(),
            Err(error) => return Err(ConfigError(format!("{}: {error}", file.display()))),
        };
        let mut table: toml::Table = text.parse().map_err(|error| ConfigError(malformed(file, &text, &error)))?;
        let mut variables: Vec<Variable> =
            variables.filter_map(|(name, text)| Some(Variable { path: setting_of(&name)?, name, text, guessed: false })).collect();
        for variable in &mut variables {
            let value = guess(&variable.text);
            variable.guessed = value.is_some();
            let value = value.unwrap_or_else(|| toml::Value::String(variable.text.clone()));
            put(&mut table, variable, value)?;
        }
        let mut config: Config = loop {
            let misfit = match fitted(&table) {
                Ok(config) => break config,
                Err(misfit) => misfit,
            };
            // A text of digits alone reads as a number: where no number fits, it is the text.
            match variables.iter_mut().find(|variable| variable.guessed && variable.path.join(".") == misfit.path) {
                Some(variable) => {
                    variable.guessed = false;
                    put(&mut table, variable, toml::Value::String(variable.text.clone()))?;
                }
                None => return Err(told(&misfit, &variables)),
            }
        };
        // What is not placed elsewhere lies together: key and database.
        if !table.contains_key("database_url") {
            config.database_url = format!("sqlite://{}", config.data_dir.join("muster.db").display());
        }
        config.check()?;
        Ok(config)
    }
}

/// `MUSTER_PUSH__FCM__ENDPOINT` is `push.fcm.endpoint`; `MUSTER_SECRETS_KEY` is `secrets.key`.
fn setting_of(variable: &str) -> Option<Vec<String>> {
    let name = variable.strip_prefix("MUSTER_")?;
    if NO_SETTINGS.contains(&name) {
        return None;
    }
    if name == "SECRETS_KEY" {
        return Some(vec!["secrets".into(), "key".into()]);
    }
    Some(name.to_ascii_lowercase().split("__").map(str::to_owned).collect())
}

/// What a variable reads as: a number, true, a list; `None` where it is text.
fn guess(text: &str) -> Option<toml::Value> {
    let parsed = format!("v = {text}").parse::<toml::Table>().ok()?.remove("v")?;
    Some(parsed).filter(|value| !value.is_datetime())
}

fn put(table: &mut toml::Table, variable: &Variable, value: toml::Value) -> Result<(), ConfigError> {
    let Some((last, parents)) = variable.path.split_last() else { return Ok(()) };
    let mut at = table;
    for parent in parents {
        let entry = at.entry(parent.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry.as_table_mut().ok_or_else(|| ConfigError(format!("{}: {parent} is no section of the settings", variable.name)))?;
    }
    at.insert(last.clone(), value);
    Ok(())
}

fn fitted(table: &toml::Table) -> Result<Config, Misfit> {
    serde_path_to_error::deserialize(toml::Value::Table(table.clone()))
        .map_err(|error| Misfit { path: error.path().to_string(), said: without_value(error.inner().message()) })
}

/// Where a file is no TOML, and why. Not the line itself, as the parser would show it: a password may stand in it.
fn malformed(file: &Path, text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}, line {line}, column {column}: {}", file.display(), error.message())
}

/// What serde says of a value of a wrong kind, without the value: it may be a password at a wrong place.
fn without_value(said: &str) -> String {
    for begin in ["invalid type: ", "invalid value: "] {
        if let Some((found, expected)) = said.strip_prefix(begin).and_then(|rest| rest.rsplit_once(", expected ")) {
            let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            return format!("{begin}{kind}, expected {expected}");
        }
    }
    said.to_owned()
}

/// A misfit with the name of the setting as whoever set it wrote it.
fn told(misfit: &Misfit, variables: &[Variable]) -> ConfigError {
    let Misfit { path, said } = misfit;
    let is_of = |variable: &&Variable| {
        let of = variable.path.join(".");
        // An unknown setting is told at its section.
        let unknown = variable.path.last().is_some_and(|last| said.starts_with(&format!("unknown field `{last}`")));
        let section = variable.path.split_last().map_or_else(String::new, |(_, parents)| parents.join("."));
        let is_no_section = said.starts_with("invalid type: map") && of.starts_with(&format!("{path}."));
        *path == of
            || path.strip_prefix(of.as_str()).is_some_and(|rest| rest.starts_with('['))
            || (unknown && section == path.trim_matches('.'))
            || is_no_section
    };
    let name = match variables.iter().find(is_of) {
        Some(variable) => variable.name.clone(),
        None if path == "." => "settings".to_owned(),
        None => shown(path),
    };
    let hint = match path.split('[').next().unwrap_or_default() {
        "listen" => ": take an address with a port, 127.0.0.1:8080",
        "listener" if path.ends_with(".address") => ": take an address with a port, 127.0.0.1:8080",
        "trusted_proxies" => ": take a list of single addresses, [\"10.0.0.1\", \"10.0.0.2\"]; networks as 10.0.0.0/8 are not taken",
        _ => "",
    };
    ConfigError(format!("{name}: {said}{hint}"))
}

/// `push.fcm.endpoint` is `[push.fcm] endpoint`, as it stands in the file.
fn shown(path: &str) -> String {
    match path.rsplit_once('.') {
        Some((section, name)) => format!("[{section}] {name}"),
        None => path.to_owned(),
    }
}

/// The process's environment, for [`Config::load`].
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars().collect::<BTreeMap<_, _>>().into_iter()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::config) fn load(file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("muster.toml");
        std::fs::write(&path, file).unwrap();
        Config::load(&path, true, variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn variables_win_over_the_file_and_nest_with_two_underscores() {
        let config = load(
            "database_url = \"sqlite://a.db\"\n[push.fcm]\nendpoint = \"http://127.0.0.1:1\"",
            &[
                ("MUSTER_DATABASE_URL", "sqlite://b.db"),
                ("MUSTER_PUSH__FCM__ENDPOINT", "http://127.0.0.1:2"),
                ("MUSTER_LIMITS__DEVICES_PER_USER", "3"),
            ],
        )
        .unwrap();
        assert_eq!(config.database_url, "sqlite://b.db");
        assert_eq!(config.push.fcm.unwrap().endpoint, "http://127.0.0.1:2");
        assert_eq!(config.limits.devices_per_user, 3);
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let error = load("databse_url = \"x\"", &[]).unwrap_err().to_string();
        assert!(error.contains("databse_url") && error.contains("database_url"), "{error}");
        let error = load("", &[("MUSTER_PUSH__FCM__ENDPIONT", "x")]).unwrap_err().to_string();
        assert!(error.contains("MUSTER_PUSH__FCM__ENDPIONT"), "{error}");
    }

    #[test]
    fn variables_of_the_command_line_are_no_settings() {
        let named: Vec<String> = NO_SETTINGS.iter().map(|name| format!("MUSTER_{name}")).collect();
        let variables: Vec<(&str, &str)> = named.iter().map(|name| (name.as_str(), "x")).collect();
        assert!(load("", &variables).is_ok());
        // All that the command line reads is among them.
        for source in [
            include_str!("../cli/mod.rs"),
            include_str!("../cli/remote/mod.rs"),
            include_str!("../cli/remote/push.rs"),
            include_str!("../cli/simulate/options.rs"),
        ] {
            for name in source.split("env = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(setting_of(name).is_none(), "{name}");
            }
        }
    }

    #[test]
    fn a_variable_is_text_where_what_it_reads_as_does_not_fit() {
        let config =
            load("", &[("MUSTER_PUSH__APNS_APP__KEY_ID", "1234567890"), ("MUSTER_PUSH__APNS_APP__TEAM_ID", "12345E6789")]).unwrap();
        let app = config.push.apns_app.unwrap();
        assert_eq!((app.key_id.as_str(), app.team_id.as_str()), ("1234567890", "12345E6789"));
        let config = load("", &[("MUSTER_TRUSTED_PROXIES", "[\"10.0.0.1\"]"), ("MUSTER_MIGRATE", "false")]).unwrap();
        assert!(config.trusted_proxies.len() == 1 && !config.migrate);
        assert_eq!(load("", &[]).unwrap().database_url, "sqlite://data/muster.db");
        let config = load("data_dir = \"/var/lib/muster\"", &[]).unwrap();
        assert_eq!(config.database_url, "sqlite:///var/lib/muster/muster.db", "it lies where the key lies");
    }

    #[test]
    fn a_secret_at_a_wrong_place_or_in_a_broken_line_is_not_told() {
        for (file, variable) in [
            ("[mail]\nsmtp_url = \"smtps://u:hunter2@mail.example.org", ("MUSTER_LOG", "info")),
            ("[secrets]\nkey = hunter2\"", ("MUSTER_LOG", "info")),
            ("mail = \"smtps://u:hunter2@mail.example.org\"", ("MUSTER_LOG", "info")),
            ("", ("MUSTER_SECRETS", "hunter2")),
            ("", ("MUSTER_MAIL", "smtps://u:hunter2@mail.example.org, expected `x`")),
            ("", ("MUSTER_LISTENER", "hunter2")),
        ] {
            let error = load(file, &[variable]).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
            assert!(error.to_string().contains("line 2, column") || error.to_string().contains("expected"), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_by_the_name_of_its_setting() {
        for (file, variable, words) in [
            ("", ("MUSTER_LISTEN", "8080"), &["MUSTER_LISTEN", "127.0.0.1:8080"][..]),
            ("", ("MUSTER_TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"), &["MUSTER_TRUSTED_PROXIES", "networks", "10.0.0.1"]),
            ("", ("MUSTER_TRUSTED_PROXIES", "10.0.0.1"), &["MUSTER_TRUSTED_PROXIES", "list"]),
            ("", ("MUSTER_LIMITS__WIPES_PER_HOUR", "many"), &["MUSTER_LIMITS__WIPES_PER_HOUR"]),
            ("", ("MUSTER_MIGRATE__X", "1"), &["MUSTER_MIGRATE"]),
            ("listen = 8080", ("MUSTER_LOG", "info"), &["listen: ", "127.0.0.1:8080"]),
            ("trusted_proxies = [\"10.0.0.0/8\"]", ("MUSTER_LOG", "info"), &["trusted_proxies[0]", "networks"]),
            ("[push.fcm]\nquota_per_s = \"x\"", ("MUSTER_LOG", "info"), &["[push.fcm] quota_per_s"]),
            ("[agent]\nreactivation = \"never\"", ("MUSTER_LOG", "info"), &["[agent] reactivation", "approve"]),
            ("[[listener]]\naddress = \"x\"", ("MUSTER_LOG", "info"), &["address", "127.0.0.1:8080"]),
        ] {
            let error = load(file, &[variable]).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{file} {variable:?}: {error}");
        }
    }
}
