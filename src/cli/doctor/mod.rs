//! `muster doctor`: what would keep this server from doing its work, found before a device does. Changes no data; opening a SQLite
//! file drops statistics that somebody's ANALYZE left, as every start does.

mod mail;
mod push;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Serialize;

use crate::clock::Clock;
use crate::config::{Config, Tls, hide_password};
use crate::files;
use crate::http::health::DISK_FULL;
use crate::http::tls;
use crate::intake::authority::Authorities;
use crate::ops::ca::authority;
use crate::protocol::pki::Certificate;
use crate::seal::Seal;
use crate::server::{FINGERPRINT, owner};
use crate::store::{Conn, Db, alarms, feed, meta};
use crate::telemetry;
use crate::work::webhooks::Post as Hooks;

/// How long a server on this machine may take to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(3);
const DAY_MS: i64 = 86_400_000;
/// A certificate that ends within so many days is told.
const ENDS_SOON_DAYS: i64 = 30;
/// What was written so far in the future was written under another clock.
const CLOCK_BACK_MS: i64 = 60_000;

/// How grave a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Works, but somebody should know.
    Note,
    /// Does not work.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    /// What was found and, where it is at fault, what to do.
    detail: String,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { check, state: State::Ok, detail: detail.into() });
    }

    fn note(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { check, state: State::Note, detail: detail.into() });
    }

    fn fault(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { check, state: State::Fault, detail: detail.into() });
    }

    /// Says when a certificate ends, as gravely as that is near.
    fn ends(&mut self, check: &'static str, what: &str, ends_at_ms: i64, now_ms: i64) {
        let days = (ends_at_ms - now_ms).div_euclid(DAY_MS);
        match days {
            ..0 => self.fault(check, format!("{what} ended {} days ago: renew it", -days)),
            0..ENDS_SOON_DAYS => self.note(check, format!("{what} ends in {days} days: renew it")),
            _ => self.ok(check, format!("{what} ends in {days} days")),
        }
    }
}

/// Looks at everything and tells it; 1 where something is at fault.
pub async fn run(config: &anyhow::Result<Config>, clock: &Clock, json: bool) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    match config {
        Ok(config) => look(&mut report, config, clock).await,
        Err(error) => report.fault("settings", format!("{error:#}")),
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report.0)?);
    } else {
        for Finding { check, state, detail } in &report.0 {
            let state = match state {
                State::Ok => "ok",
                State::Note => "note",
                State::Fault => "FAULT",
            };
            println!("{state:<6} {check:<13} {detail}");
        }
    }
    let faulty = report.0.iter().any(|finding| finding.state == State::Fault);
    Ok(if faulty { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn look(report: &mut Report, config: &Config, clock: &Clock) {
    // Fails only where a provider is installed already, which is then the same one.
    rustls::crypto::ring::default_provider().install_default().ok();
    settings(report, config);
    server(report, config).await;
    if let Some(tls) = &config.tls {
        certificate(report, tls, clock);
        is_ours(report, tls, config);
    }
    mail::look(report, config).await;
    let seal = master_key(report, config);
    let db = database(report, config).await;
    let senders = push::settings(report, config, clock);
    let Some(db) = db else { return };
    let mut conn = match db.read().await {
        Ok(conn) => conn,
        Err(error) => return report.fault("database", error.to_string()),
    };
    match stored(report, &mut conn, clock, seal.as_ref()).await {
        Ok(opens) => device_ca(report, &mut conn, config, clock, seal.as_ref().filter(|_| opens)).await,
        Err(error) => report.fault("database", error.to_string()),
    }
    if let Some(senders) = senders {
        push::stored(report, &mut conn, config, clock, seal.as_ref(), &senders).await;
    }
    drop(conn);
    db.close().await;
}

fn settings(report: &mut Report, config: &Config) {
    let addresses: Vec<String> = config.listening().iter().map(|listener| listener.address.to_string()).collect();
    report.ok("settings", format!("{} on {}", config.public_url, addresses.join(", ")));
    let local = ["http://127.", "http://localhost", "http://[::1]"].iter().any(|prefix| config.public_url.starts_with(prefix));
    if !config.public_url_is_https() && !local {
        report.note("settings", "public_url is not https: devices refuse to enroll over plain HTTP, and cookies are not Secure");
    }
    if config.mdm.proxy_client_cert_header.is_some() && config.trusted_proxies.is_empty() {
        report.fault(
            "settings",
            "[mdm] proxy_client_cert_header is believed from trusted_proxies alone, and none is set: name your proxy's address",
        );
    }
    if let Err(error) = Hooks::trusting(config.webhooks.ca_file.as_deref()) {
        let file = config.webhooks.ca_file.as_deref().unwrap_or(Path::new("")).display();
        report.fault("settings", format!("{error} ({file})"));
    }
    if let Some(endpoint) = &config.telemetry.otlp_endpoint
        && let Err(error) = telemetry::check(endpoint)
    {
        report.fault("settings", format!("{error:#}"));
    }
    if let Err(error) = owner::spare(config) {
        report.note("settings", format!("{error:#}"));
    }
}

/// What a server that runs here says of itself: it knows of a full disk what the database cannot tell.
async fn server(report: &mut Report, config: &Config) {
    let Some(listener) = config.listening().into_iter().next() else { return };
    let url = format!("{}://{}/readyz", if listener.tls { "https" } else { "http" }, listener.address);
    // Its certificate is looked at below, and names the server, not this address.
    let client = reqwest::Client::builder().timeout(SERVER_TIMEOUT).no_proxy().tls_danger_accept_invalid_certs(true).build();
    let Ok(client) = client else { return };
    match client.get(&url).send().await {
        Err(_) => report.ok("server", format!("none runs on {}", listener.address)),
        Ok(answer) => {
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            match text.lines().find(|line| line.starts_with(DISK_FULL)) {
                Some(line) => report.fault("server", line.to_owned()),
                None if status.is_success() => report.ok("server", format!("one runs on {} and is ready", listener.address)),
                None => report.fault("server", format!("{url} answers {status}: see its log, if it is a Muster's")),
            }
        }
    }
}

fn certificate(report: &mut Report, files: &Tls, clock: &Clock) {
    if let Err(error) = tls::Certificate::load(files) {
        return report.fault("tls", error.to_string());
    }
    let shown = files.cert.display();
    let chain = std::fs::read_to_string(&files.cert).ok().and_then(|text| Certificate::chain_from_pem(&text).ok());
    let Some(chain) = chain else { return report.fault("tls", format!("{shown} is no certificate")) };
    report.ends("tls", &shown.to_string(), chain[0].until_ms(), clock.now_ms());
}

/// Whether the certificate is for the address by which devices and operators come.
fn is_ours(report: &mut Report, files: &Tls, config: &Config) {
    let url = config.public_url.parse::<http::Uri>().unwrap_or_default();
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let (Ok(name), Some(Ok(leaf))) =
        (ServerName::try_from(host.clone()), CertificateDer::pem_file_iter(&files.cert).ok().and_then(|mut chain| chain.next()))
    else {
        return;
    };
    let told = format!("{} is not for {host}, the host of public_url", files.cert.display());
    match ParsedCertificate::try_from(&leaf).and_then(|leaf| verify_server_name(&leaf, &name)) {
        Ok(()) => {}
        // What stands before it shows a certificate of its own.
        Err(_) if config.behind_proxy || !config.trusted_proxies.is_empty() => {
            report.note("tls", format!("{told}: right where the proxy shows another one"));
        }
        Err(_) => report.fault("tls", format!("{told}: devices and browsers will refuse it; get one for that name, or correct public_url")),
    }
}

/// Whether a file is there, or could be made; else what keeps it from that.
fn there(file: &Path) -> Result<bool, String> {
    match file.try_exists() {
        Ok(true) => return Ok(true),
        Ok(false) => {}
        Err(error) => return Err(format!("{} cannot be looked at: {error}; run this as the server's user", file.display())),
    }
    let mut folder = file.parent().unwrap_or(Path::new(""));
    while !folder.as_os_str().is_empty() && !folder.exists() {
        folder = folder.parent().unwrap_or(Path::new(""));
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    files::can_write(folder).map(|()| false).map_err(|error| {
        format!(
            "{} does not exist and cannot be made: {}: {error}; give that folder to the server's user",
            file.display(),
            folder.display()
        )
    })
}

/// The key, if there is one: where none is, none is made.
fn master_key(report: &mut Report, config: &Config) -> Option<Seal> {
    if config.secrets.key.is_none()
        && let Some(file) = Seal::file(config)
        && !there(&file).unwrap_or_else(|trouble| {
            report.fault("master key", trouble);
            true
        })
    {
        let detail = format!("{} does not exist", file.display());
        if config.sqlite_file().is_some_and(|file| !file.exists()) {
            report.note("master key", format!("{detail}: `muster serve` makes it"));
        } else {
            report.fault("master key", format!("{detail}: bring back the key that this database was sealed with"));
        }
        return None;
    }
    match Seal::existing(config) {
        Ok(seal) => seal,
        // That it cannot be read was told.
        Err(_) if report.0.iter().any(|finding| finding.check == "master key") => None,
        Err(error) => {
            report.fault("master key", error.to_string());
            None
        }
    }
}

async fn database(report: &mut Report, config: &Config) -> Option<Db> {
    let shown = hide_password(&config.database_url);
    if let Some(file) = config.sqlite_file() {
        match there(&file) {
            Ok(true) => {}
            Ok(false) => {
                report.note("database", format!("{shown} does not exist: `muster serve` makes it"));
                return None;
            }
            Err(trouble) => {
                report.fault("database", trouble);
                return None;
            }
        }
    }
    let db = match Db::open(&config.database_url).await {
        Ok(db) => db,
        Err(error) => {
            report.fault("database", format!("{shown}: {error}"));
            return None;
        }
    };
    let began = Instant::now();
    match db.schema_is_current().await {
        Ok(true) => {
            report
                .ok("database", format!("{shown} has this version's schema and answers in {:.1} ms", began.elapsed().as_secs_f64() * 1e3));
            Some(db)
        }
        Ok(false) => {
            report.fault("database", format!("{shown} has another version's schema: run `muster migrate`"));
            None
        }
        Err(error) => {
            report.fault("database", format!("{shown}: {error}"));
            None
        }
    }
}

async fn device_ca(report: &mut Report, conn: &mut Conn, config: &Config, clock: &Clock, seal: Option<&Seal>) {
    let given = match Authorities::from_config(config) {
        Ok(authorities) => authorities.given().cloned(),
        Err(error) => return report.fault("device CA", format!("{error:#}")),
    };
    let ca = match (given, seal) {
        (Some(given), _) => Some(given),
        (None, Some(seal)) => match authority::stored_ca(conn, seal).await {
            Ok(stored) => stored,
            Err(error) => return report.fault("device CA", error.to_string()),
        },
        // What is wrong with the key was told.
        (None, None) => return,
    };
    match ca {
        Some(ca) => report.ends("device CA", "the CA of devices' identities", ca.certificate().until_ms(), clock.now_ms()),
        None => report.note("device CA", "there is none yet: `muster serve` makes it"),
    }
}

/// What the database says of key, clock and alarms; true where the key is the one that it was sealed with.
async fn stored(report: &mut Report, conn: &mut Conn, clock: &Clock, seal: Option<&Seal>) -> crate::error::Result<bool> {
    let mut opens = seal.is_some();
    if let Some(seal) = seal {
        match meta::get(conn, FINGERPRINT).await? {
            Some(known) if known != seal.fingerprint() => {
                opens = false;
                let detail = format!("has the fingerprint {}, the database was sealed under {known}: set that key", seal.fingerprint());
                report.fault("master key", detail);
            }
            _ => report.ok("master key", format!("fingerprint {}", seal.fingerprint())),
        }
    }
    let ahead_ms = feed::newest_ms(conn).await?.map_or(0, |newest_ms| newest_ms - clock.now_ms());
    if ahead_ms > CLOCK_BACK_MS {
        report.fault(
            "clock",
            format!("the newest entry of the feed lies {} s in the future: set the clock of this machine", ahead_ms / 1000),
        );
    } else {
        report.ok("clock", "nothing that was written lies in the future");
    }
    match alarms::open_count(conn).await? {
        0 => report.ok("alarms", "none is open"),
        open => report.note("alarms", format!("{open} open: see the overview of the console, or GET /api/v1/alarms")),
    }
    Ok(opens)
}
