//! Push credentials: of the settings, sealed in the database, and what devices need of them.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;

use super::Report;
use crate::app::{self, SEALED_PREFIX};
use crate::clock::Clock;
use crate::config::Config;
use crate::ops::alarms::PUSH_FAULT;
use crate::ops::credentials::{given, preflight_chain};
use crate::protocol::pki::Certificate;
use crate::push::apns::{self, Identity};
use crate::push::{CredentialSource, SenderState, Senders, http_date};
use crate::seal::Seal;
use crate::store::{Conn, alarms, gauges, sealed};

/// Another clock may be so far from ours: answers take their time, and `Date` knows whole seconds.
const SKEW_MS_MAX: i64 = 60_000;
/// How long a provider may take to take a connection, and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CHECK: &str = "push";
/// Senders at fault that are told.
const FAULTS_MAX: i64 = 20;

/// The senders of the settings; `None` where a credential of theirs cannot be used.
pub fn settings(report: &mut Report, config: &Config, clock: &Clock) -> Option<Senders> {
    match app::senders(config, clock) {
        Ok(senders) => {
            let files = config.push.apns_mdm.as_ref().and_then(|mdm| mdm.certificate.as_ref().zip(mdm.key.as_ref()));
            let read = files.and_then(|(certificate, key)| Some((std::fs::read(certificate).ok()?, std::fs::read(key).ok()?)));
            if let Some(identity) = read.and_then(|(certificate, key)| Identity::from_pem(&certificate, &key).ok()) {
                chain(report, config, clock, &identity);
            }
            Some(senders)
        }
        Err(error) => {
            report.fault(CHECK, format!("{error:#}"));
            None
        }
    }
}

/// Adds the sealed credentials, and says of each sender whether it can call its devices.
pub async fn stored(report: &mut Report, conn: &mut Conn, config: &Config, clock: &Clock, seal: Option<&Seal>, senders: &Senders) {
    // Where FCM's access tokens come from stands in the service account.
    let filed = config.push.fcm.as_ref().and_then(|fcm| std::fs::read(fcm.service_account.as_ref()?).ok());
    let mut oauth = filed.as_deref().and_then(token_uri);
    match unseal(report, conn, config, clock, seal, senders).await {
        Ok(sealed) => oauth = sealed.or(oauth),
        Err(error) => return report.fault(CHECK, error.to_string()),
    }
    let called = match gauges::called_by(conn).await {
        Ok(called) => called,
        Err(error) => return report.fault(CHECK, error.to_string()),
    };
    match alarms::standing_details(conn, PUSH_FAULT, FAULTS_MAX).await {
        Ok(faults) => {
            for (sender, detail) in faults {
                report.fault(CHECK, format!("{sender}: {detail}"));
            }
        }
        Err(error) => return report.fault(CHECK, error.to_string()),
    }
    let of = |name: &str| called.iter().find(|(sender, _)| sender == name).map_or(0, |(_, channels)| *channels);
    for sender in senders.all() {
        let (name, status) = (sender.name().to_owned(), sender.status());
        let known = status.project_id.or(status.topic).filter(|_| status.state != SenderState::Unconfigured);
        match (known, of(&name)) {
            (Some(known), channels) => {
                report.ok(CHECK, format!("{name}: credential of {known}; {channels} channels are called through it"));
                if let Some(ends_at_ms) = status.credential_ends_at_ms {
                    report.ends(CHECK, &format!("{name}: its certificate"), ends_at_ms, clock.now_ms());
                }
                reach(report, clock, &name, endpoint(config, &name)).await;
                if name == "fcm"
                    && let Some(oauth) = oauth.take()
                {
                    reach(report, clock, "fcm, access tokens", (oauth, endpoint(config, &name).1)).await;
                }
            }
            (None, 0) => report.note(CHECK, format!("{name}: no credential, and no device that needs one")),
            (None, channels) => report.fault(CHECK, format!("{name}: no credential, so {channels} channels are never called: set one")),
        }
    }
    for (name, channels) in called.iter().filter(|(name, _)| senders.named(name).is_none()) {
        let detail =
            format!("{name}: {channels} channels listen to it and no credential has it: set its certificate by PUT /api/v1/push/apns-mdm");
        report.fault(CHECK, detail);
    }
}

async fn unseal(
    report: &mut Report,
    conn: &mut Conn,
    config: &Config,
    clock: &Clock,
    seal: Option<&Seal>,
    senders: &Senders,
) -> crate::error::Result<Option<String>> {
    let mut oauth = None;
    let Some(seal) = seal else { return Ok(None) };
    for (name, _) in sealed::versions(conn, SEALED_PREFIX).await? {
        let Some(text) = sealed::get(conn, &name).await? else { continue };
        let opened = seal.open(&name, &text).map_err(anyhow::Error::from);
        let taken =
            opened.and_then(|json| app::take_credential(senders, config, clock, &name, &json, CredentialSource::Api).map(|()| json));
        match taken {
            Ok(json) => {
                if let Ok(identity) = Identity::parse(&json) {
                    chain(report, config, clock, &identity);
                }
                oauth = oauth.or_else(|| token_uri(&json));
            }
            Err(error) => report.fault(CHECK, format!("{name}: the stored credential cannot be used: {error:#}")),
        }
    }
    Ok(oauth)
}

fn token_uri(account: &[u8]) -> Option<String> {
    serde_json::from_slice::<serde_json::Value>(account).ok()?["token_uri"].as_str().map(str::to_owned)
}

/// Who issued a push certificate. Somebody may have insisted on one that is not Apple's, so this is no fault.
fn chain(report: &mut Report, config: &Config, clock: &Clock, identity: &Identity) {
    let chain: Result<Vec<_>, _> = identity.chain().map(Certificate::from_der).collect();
    let ca_file = config.push.apns_mdm.as_ref().and_then(|settings| settings.ca_file.as_deref());
    let looked = match (chain, given(ca_file)) {
        (Ok(chain), Ok(given)) => preflight_chain(&chain, &given, clock.now_ms()).map_err(|error| error.to_string()),
        (Err(error), _) => Err(error.to_string()),
        (_, Err(error)) => Err(error.to_string()),
    };
    if let Err(detail) = looked {
        report.note(CHECK, format!("apns_mdm/{}: {detail}", identity.topic()));
    }
}

/// The address of a sender's provider, and the file of roots that are trusted there beside the system's.
fn endpoint(config: &Config, sender: &str) -> (String, Option<PathBuf>) {
    let push = &config.push;
    match sender {
        "fcm" => push.fcm.clone().map(|fcm| (fcm.endpoint, fcm.ca_file)).unwrap_or_else(|| (crate::push::fcm::ENDPOINT.into(), None)),
        "apns_app" => push.apns_app.clone().map(|app| (app.endpoint, app.ca_file)).unwrap_or_else(|| (apns::ENDPOINT.into(), None)),
        _ => push.apns_mdm.clone().map(|mdm| (mdm.endpoint, mdm.ca_file)).unwrap_or_else(|| (apns::ENDPOINT.into(), None)),
    }
}

/// Whether the provider takes a connection from here, speaks as it should, and has the same time: firewalls, proxies that look into TLS and
/// clocks are the commonest reasons for silent devices.
async fn reach(report: &mut Report, clock: &Clock, name: &str, (endpoint, ca_file): (String, Option<PathBuf>)) {
    let Ok(url) = endpoint.parse::<http::Uri>() else { return report.fault(CHECK, format!("{name}: {endpoint} is no URL")) };
    let is_tls = url.scheme_str() != Some("http");
    let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return report.fault(CHECK, format!("{name}: {host}:{port} cannot be reached: {error}")),
        Err(_) => {
            let waited = CONNECT_TIMEOUT.as_secs();
            return report.fault(CHECK, format!("{name}: {host}:{port} does not answer within {waited} s"));
        }
    }
    if !is_tls {
        return report.ok(CHECK, format!("{name}: {host}:{port} takes connections"));
    }
    let asked = async { Ok::<_, anyhow::Error>(client(ca_file)?.get(&endpoint).send().await?) };
    match asked.await {
        Ok(answer) if answer.version() == http::Version::HTTP_2 => {
            report.ok(CHECK, format!("{name}: {host}:{port} takes connections and speaks HTTP/2"));
            skew(report, clock, &host, answer.headers());
        }
        Ok(_) => {
            let detail = "answers, but not over HTTP/2: something in between looks into TLS; let it pass this host through";
            report.fault(CHECK, format!("{name}: {host}:{port} {detail}"));
        }
        Err(error) => {
            let why: Vec<String> = error.chain().map(ToString::to_string).collect();
            let detail = format!("takes connections, but no request gets through: {}", why.join(": "));
            report.fault(CHECK, format!("{name}: {host}:{port} {detail}"));
        }
    }
}

fn client(ca_file: Option<PathBuf>) -> anyhow::Result<reqwest::Client> {
    // Whoever runs first installs it; the process uses one provider only.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let roots = match ca_file {
        Some(path) => reqwest::Certificate::from_pem_bundle(&std::fs::read(path)?)?,
        None => Vec::new(),
    };
    let builder = reqwest::Client::builder().timeout(CONNECT_TIMEOUT).redirect(reqwest::redirect::Policy::none());
    Ok(builder.tls_certs_merge(roots).build()?)
}

/// Their clock judges our tokens.
fn skew(report: &mut Report, clock: &Clock, host: &str, headers: &http::HeaderMap) {
    let Some(ahead_ms) = http_date::ahead_ms(headers, clock.now_ms()) else { return };
    if ahead_ms.abs() > SKEW_MS_MAX {
        let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
        let detail = format!(
            "this machine is {} s {side} {host}, which judges our tokens: set its clock, and keep it by NTP",
            ahead_ms.abs() / 1_000
        );
        report.fault("clock", detail);
    }
}
