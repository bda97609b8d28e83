//! The stand-ins for FCM and APNs that the demo's server calls, and the credentials with which it may.

use std::path::Path;

use anyhow::Context;

use crate::clock::Clock;
use crate::config::{ApnsApp, ApnsMdm, Fcm, Push};
use crate::sim::fleet::Carriers;
use crate::sim::{apns, fcm};

/// The topic of the demo's MDM push certificate.
const TOPIC: &str = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000";
/// Our app on iOS.
const APP: &str = "org.example.agent";
const KEY_ID: &str = "DEMOKEY001";

/// Starts both; answers them with the settings of a server that calls them.
pub async fn start(folder: &Path, clock: &Clock) -> anyhow::Result<(Carriers, Push)> {
    let write = |name: &str, text: &[u8]| -> anyhow::Result<_> {
        let path = folder.join(name);
        crate::files::private(&path, text).with_context(|| format!("{}", path.display()))?;
        Ok(path)
    };
    let fcm = fcm::StandIn::start(clock.clone()).await.context("the FCM stand-in cannot start")?;
    let apns = apns::StandIn::start(clock.clone()).await.context("the APNs stand-in cannot start")?;
    let service_account = write("fcm.json", &fcm.service_account())?;
    let (certificate, key) = (apns.issue_certificate(TOPIC)?, apns.issue_key(KEY_ID, &[APP])?);
    let (endpoint, ca_file) = (apns.endpoint(), write("apns-ca.pem", apns.ca().as_bytes())?);
    let push = Push {
        fcm: Some(Fcm { service_account: Some(service_account), endpoint: fcm.endpoint(), ..Fcm::default() }),
        apns_mdm: Some(ApnsMdm {
            certificate: Some(write("apns-mdm.pem", certificate.certificate.as_bytes())?),
            key: Some(write("apns-mdm.key", certificate.key.as_bytes())?),
            endpoint: endpoint.clone(),
            ca_file: Some(ca_file.clone()),
        }),
        apns_app: Some(ApnsApp {
            key: Some(write("apns-app.p8", key.p8.as_bytes())?),
            key_id: key.key_id,
            team_id: key.team_id,
            topic: APP.into(),
            endpoint,
            ca_file: Some(ca_file),
        }),
    };
    Ok((Carriers { fcm, apns: Some((apns, APP.into())) }, push))
}
