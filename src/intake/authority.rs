//! The device CA of this process: read or made when it is first needed, and the enrollment profiles that name it.

use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Mutex;

use crate::app::App;
use crate::change;
use crate::clock::Moment;
use crate::config::{Config, Tls};
use crate::error::{Error, Result};
use crate::ops::ca::authority::{self, Authority, Pair};
use crate::ops::mdm::own::Unsigned;
use crate::protocol::apple::command::Command;
use crate::protocol::apple::profile::Enrollment;
use crate::protocol::cms::Signing;
use crate::protocol::pki::{Certificate, PkiError};
use crate::store::Class;

/// The device CA as a process has it.
#[derive(Debug, Default)]
pub struct Authorities {
    /// The one of the settings.
    given: Option<Pair>,
    ready: RwLock<Option<Arc<Authority>>>,
    /// Held while it is read or made, which is done once.
    opening: Mutex<()>,
}

impl Authorities {
    /// Reads the CA that the settings name, if they name one.
    pub fn from_config(config: &Config) -> anyhow::Result<Authorities> {
        let (Some(cert), Some(key)) = (&config.mdm.ca_cert, &config.mdm.ca_key) else { return Ok(Authorities::default()) };
        let read = |path: &std::path::Path| std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()));
        let given = Pair::from_pem(&read(cert)?, &read(key)?).map_err(|error| anyhow::anyhow!("[mdm] ca_cert and ca_key: {error}"))?;
        anyhow::ensure!(given.certificate().is_ca(), "[mdm] ca_cert = {} is no CA's certificate", cert.display());
        Ok(Authorities { given: Some(given), ..Authorities::default() })
    }

    /// The CA, where it was needed before; it is then at hand without asking the database.
    pub fn at_hand(&self) -> Option<Arc<Authority>> {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The one of the settings, where they name one.
    pub fn given(&self) -> Option<&Pair> {
        self.given.as_ref()
    }

    fn set(&self, authority: Arc<Authority>) {
        metrics::gauge!("muster_device_ca_expiry_timestamp").set(authority.ca.certificate().until_ms() as f64 / 1_000.0);
        *self.ready.write().unwrap_or_else(PoisonError::into_inner) = Some(authority);
    }
}

/// The device CA. The first call of the first process makes it, beside the loop that serves everybody.
pub async fn authority(app: &App) -> Result<Arc<Authority>> {
    if let Some(authority) = app.authorities.at_hand() {
        return Ok(authority);
    }
    let _turn = app.authorities.opening.lock().await;
    if let Some(authority) = app.authorities.at_hand() {
        return Ok(authority);
    }
    let authority = open(app).await?;
    app.authorities.set(authority.clone());
    Ok(authority)
}

/// Sees to it that the device CA is at hand, without waiting for it.
pub fn prepare(app: &App) {
    let app = app.clone();
    tokio::spawn(async move {
        if let Err(error) = authority(&app).await {
            tracing::error!(%error, "no identities can be issued");
        }
    });
}

/// Reads the device CA again, where it is at hand: another process may have changed it.
pub async fn follow(app: &App) -> Result<()> {
    let Some(before) = app.authorities.at_hand().filter(|_| app.authorities.given.is_none()) else { return Ok(()) };
    let _turn = app.authorities.opening.lock().await;
    let now = open(app).await?;
    if now.ca.chain != before.ca.chain {
        tracing::info!("the device CA was replaced");
        app.authorities.set(now);
    }
    Ok(())
}

async fn open(app: &App) -> Result<Arc<Authority>> {
    let ca = match given_or_stored(app).await? {
        Some(ca) => ca,
        None => {
            let made = beside(app, Pair::make_ca).await?;
            change!(app, Class::Operators, |conn, moment| authority::keep_ca(conn, moment, &app.seal, &made).await)?
        }
    };
    let stored = authority::stored_transport(&mut app.db.read().await?, &app.seal, &ca).await?;
    let transport = match stored {
        Some(transport) => transport,
        None => {
            let issuer = ca.clone();
            let made = beside(app, move |moment| Pair::make_transport(moment, &issuer)).await?;
            change!(app, Class::Operators, |conn, moment| authority::keep_transport(conn, moment, &app.seal, &ca, &made).await)?
        }
    };
    Ok(Arc::new(Authority { ca, transport }))
}

/// True where the CA of this server, or one that it has taken the place of, issued a certificate that is good now and is for clients. Makes no
/// CA: what is not there has issued nothing.
pub async fn vouches_for(app: &App, der: &[u8]) -> Result<bool> {
    let Ok(certificate) = Certificate::from_der(der) else { return Ok(false) };
    let ca = match app.authorities.at_hand() {
        Some(authority) => Some(authority.ca.clone()),
        None => given_or_stored(app).await?,
    };
    let is_issued = |ca: &Pair| ca.chain.iter().any(|above| certificate.is_issued_by(above));
    let is_good = certificate.is_valid_at(app.clock.now_ms()) && certificate.is_for_clients();
    Ok(is_good && ca.as_ref().is_some_and(is_issued))
}

async fn given_or_stored(app: &App) -> Result<Option<Pair>> {
    match &app.authorities.given {
        Some(given) => Ok(Some(given.clone())),
        None => authority::stored_ca(&mut app.db.read().await?, &app.seal).await,
    }
}

/// Makes a key, which takes up to seconds.
async fn beside(app: &App, make: impl FnOnce(&mut Moment) -> std::result::Result<Pair, PkiError> + Send + 'static) -> Result<Pair> {
    let mut moment = app.clock.moment();
    let made = tokio::task::spawn_blocking(move || make(&mut moment)).await;
    made.map_err(|_| Error::Busy { retry_after_s: 1 })?.map_err(authority::unusable)
}

/// The enrollment profile for a topic, around a challenge; signed where the server has a certificate for TLS.
pub fn profile(config: &Config, authority: &Authority, now_ms: i64, topic: &str, challenge: &str) -> Vec<u8> {
    let signer =
        config.tls.as_ref().and_then(|tls| signer(tls).inspect_err(|error| tracing::warn!(%error, "profiles are not signed")).ok());
    let ours = [authority.ca.chain.as_slice(), signer.as_ref().map_or(&[], |pair| pair.chain.as_slice())].concat();
    // Of the chains only what stands by itself is a root; the CA is one for the identities in any case.
    let is_root = |(at, one): &(usize, &Certificate)| *at == 0 || (one.is_ca() && one.issuer() == one.subject());
    let roots: Vec<Vec<u8>> = ours.iter().enumerate().filter(is_root).map(|(_, one)| one.der().to_vec()).collect();
    let enrollment = Enrollment {
        public_url: config.public_url.trim_end_matches('/'),
        topic,
        challenge,
        roots: &roots,
        ca_fingerprint: Some(&authority.ca.certificate().fingerprint()),
        sign_message: config.mdm.sign_message,
    };
    signed_by(signer, enrollment.to_xml(), now_ms)
}

/// The command of this id that installs a profile, made and signed beside the loop that serves everybody.
pub async fn installation(app: &App, uuid: String, unsigned: Unsigned) -> Result<Vec<u8>> {
    let (authority, app) = (authority(app).await?, app.clone());
    let made = tokio::task::spawn_blocking(move || {
        let now_ms = app.clock.now_ms();
        let profile = match unsigned {
            Unsigned::Renewal(renewal) => profile(&app.config, &authority, now_ms, &renewal.topic, renewal.challenge.reveal()),
            Unsigned::Payloads(plain) => signed(&app.config, plain, now_ms),
        };
        Command::install_profile(profile).to_xml(&uuid)
    });
    made.await.map_err(|_| Error::Busy { retry_after_s: 1 })
}

/// A profile, signed where the server has a certificate for TLS.
pub fn signed(config: &Config, plain: Vec<u8>, now_ms: i64) -> Vec<u8> {
    signed_by(config.tls.as_ref().and_then(|tls| signer(tls).ok()), plain, now_ms)
}

fn signed_by(signer: Option<Pair>, plain: Vec<u8>, now_ms: i64) -> Vec<u8> {
    let signed = signer.and_then(|pair| {
        let signing = Signing { certificate: pair.certificate(), key: &pair.key, chain: &pair.chain[1..], now_ms };
        signing.sign(&plain, &[]).ok()
    });
    signed.unwrap_or(plain)
}

/// The pair of the TLS listeners, read anew: it is replaced while the server runs.
fn signer(tls: &Tls) -> std::result::Result<Pair, PkiError> {
    let read = |path| std::fs::read_to_string(path).map_err(|_| PkiError::Key("the file cannot be read"));
    Pair::from_pem(&read(&tls.cert)?, &read(&tls.key)?)
}
