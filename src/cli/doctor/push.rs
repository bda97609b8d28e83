//! Push credentials: of the settings, sealed in the database, and what devices need of them.

use std::time::Duration;

use tokio::net::TcpStream;

use super::Report;
use crate::app::{self, SEALED_PREFIX};
use crate::clock::Clock;
use crate::config::Config;
use crate::ops::alarms::PUSH_FAULT;
use crate::ops::credentials::{given, preflight_chain};
use crate::protocol::pki::Certificate;
use crate::push::apns::Identity;
use crate::push::{CredentialSource, SenderState, Senders};
use crate::seal::Seal;
use crate::store::{Conn, alarms, gauges, sealed};

/// How long a provider may take to take a connection.
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
    if let Err(error) = unseal(report, conn, config, clock, seal, senders).await {
        return report.fault(CHECK, error.to_string());
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
                reach(report, &name, endpoint(config, &name)).await;
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
) -> crate::error::Result<()> {
    let Some(seal) = seal else { return Ok(()) };
    for (name, _) in sealed::versions(conn, SEALED_PREFIX).await? {
        let Some(text) = sealed::get(conn, &name).await? else { continue };
        let opened = seal.open(&name, &text).map_err(anyhow::Error::from);
        let taken = opened.and_then(|json| app::take_credential(senders, config, clock, &name, &json, CredentialSource::Api).map(|()| json));
        match taken {
            Ok(json) => {
                if let Ok(identity) = Identity::parse(&json) {
                    chain(report, config, clock, &identity);
                }
            }
            Err(error) => report.fault(CHECK, format!("{name}: the stored credential cannot be used: {error:#}")),
        }
    }
    Ok(())
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

fn endpoint(config: &Config, sender: &str) -> String {
    let push = &config.push;
    match sender {
        "fcm" => push.fcm.clone().unwrap_or_default().endpoint,
        "apns_app" => push.apns_app.clone().unwrap_or_default().endpoint,
        _ => push.apns_mdm.clone().unwrap_or_default().endpoint,
    }
}

/// Whether the provider takes a connection from here: firewalls are the commonest reason for silent devices.
async fn reach(report: &mut Report, name: &str, endpoint: String) {
    let Ok(url) = endpoint.parse::<http::Uri>() else { return report.fault(CHECK, format!("{name}: {endpoint} is no URL")) };
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) => report.ok(CHECK, format!("{name}: {host}:{port} takes connections")),
        Ok(Err(error)) => report.fault(CHECK, format!("{name}: {host}:{port} cannot be reached: {error}")),
        Err(_) => report.fault(CHECK, format!("{name}: {host}:{port} does not answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}
