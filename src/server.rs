//! A server process: listeners and workers around one [`App`], started and stopped together.

pub mod owner;

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, Bells, Ended, Funnel, Room, Shared, Tail, Workers};
use crate::clock::Clock;
use crate::config::{Config, Part};
use crate::http::serve::{self, Bound, Patience};
use crate::http::tls::Certificate;
use crate::intake::authority::{self, Authorities};
use crate::ops::{jobs, settle};
use crate::seal::Seal;
use crate::store::{Class, Db, meta};
use crate::work::webhooks::Post;
use crate::{files, http, intake, telemetry, work};

/// After the stop signal everything must have ended within this time.
const STOP_TIMEOUT: Duration = Duration::from_secs(9);
/// Where the database keeps which master key it was sealed with.
pub const FINGERPRINT: &str = "master_key_fingerprint";

/// A server that is bound and ready to run.
pub struct Server {
    pub app: App,
    bound: Vec<Bound>,
    certificate: Option<Arc<Certificate>>,
    committers: intake::Committers,
    /// Held while the server lives: one `serve` for each SQLite file.
    _alone: Option<File>,
}

/// Opens the database and checks the master key against it: what every command that writes to the database needs. What is missing of a
/// first start is made; a database that was sealed already gets no new key.
pub async fn open(config: &Config, clock: &Clock, migrate: bool) -> anyhow::Result<(Db, Seal)> {
    owner::spare(config)?;
    let existing = Seal::existing(config)?;
    let db = Db::open(&config.database_url).await?;
    if migrate {
        db.migrate().await?;
    }
    ensure_schema(&db).await?;
    let seal = match existing {
        Some(seal) => seal,
        None => match meta::get(&mut db.read().await?, FINGERPRINT).await? {
            Some(known) => bail!("{}", lost_key(config, &format!("of this database (fingerprint {known})"))),
            None => Seal::make(config, &mut clock.moment())?,
        },
    };
    let mut conn = db.begin(Class::Operators).await?;
    let known = meta::put_if_absent(&mut conn, FINGERPRINT, seal.fingerprint()).await?;
    conn.commit().await?;
    ensure_sealed(&seal, &known)?;
    Ok((db, seal))
}

/// Notes what all processes go by: the server's own address and the destructive budget. A server does so, whose settings are the fleet's; a
/// command may have been given no more of them than the database.
async fn note_settings(db: &Db, config: &Config, clock: &Clock) -> anyhow::Result<()> {
    let mut conn = db.begin(Class::Operators).await?;
    settle::address(&mut conn, &config.public_url).await?;
    jobs::put_budget(&mut conn, &mut clock.moment(), config.limits.wipes_per_hour).await?;
    Ok(conn.commit().await?)
}

/// Opens the database that is there and checks the master key against it, for commands that only read: nothing is made.
pub async fn open_existing(config: &Config) -> anyhow::Result<(Db, Seal)> {
    if let Some(file) = config.sqlite_file() {
        ensure!(
            file.exists(),
            "{} does not exist; `muster serve` makes it, or name the database in the settings (--config) or as MUSTER_DATABASE_URL",
            config.database_url
        );
    }
    let Some(seal) = Seal::existing(config)? else { bail!("{}", lost_key(config, "of this database")) };
    let db = Db::open(&config.database_url).await?;
    ensure_schema(&db).await?;
    if let Some(known) = meta::get(&mut db.read().await?, FINGERPRINT).await? {
        ensure_sealed(&seal, &known)?;
    }
    Ok((db, seal))
}

/// What to do where the file of the master key is gone.
pub fn lost_key(config: &Config, of: &str) -> String {
    let file = Seal::file(config).unwrap_or_default();
    format!("{} does not exist: bring the key {of} there, or set [secrets] key_file or MUSTER_SECRETS_KEY", file.display())
}

async fn ensure_schema(db: &Db) -> anyhow::Result<()> {
    ensure!(db.schema_is_current().await.unwrap_or(false), "the database has another version's schema; run `muster migrate`");
    Ok(())
}

fn ensure_sealed(seal: &Seal, known: &str) -> anyhow::Result<()> {
    ensure!(
        known == seal.fingerprint(),
        "the master key (fingerprint {}) is not the one this database was sealed with ({known}): set [secrets] key_file or MUSTER_SECRETS_KEY to that key",
        seal.fingerprint()
    );
    Ok(())
}

impl Server {
    /// Opens everything that `config` names and binds its addresses.
    pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Server> {
        telemetry::metrics();
        if let Some(endpoint) = &config.telemetry.otlp_endpoint {
            telemetry::trace_to(endpoint)?;
        }
        // Fails only where a provider is installed already, which is then the same one.
        rustls::crypto::ring::default_provider().install_default().ok();
        let (db, seal) = open(&config, &clock, config.migrate).await?;
        let alone = only_server(&config)?;
        note_settings(&db, &config, &clock).await?;
        // Without a credential the sender waits for one: it can be set by the API at any time.
        let senders = app::senders(&config, &clock)?;
        let authorities = Authorities::from_config(&config)?;
        // Read again where it is used; a file that is no use shall be told at once.
        Post::trusting(config.webhooks.ca_file.as_deref())?;
        let (intake, committers) = intake::new(if config.is_sqlite() { 1 } else { intake::QUEUES_POSTGRES });
        let certificate = config.tls.as_ref().map(Certificate::load).transpose()?;
        let process = clock.moment().id().to_string();
        let listening = config.listening();
        let feed_tail = Tail::default();
        let app = App::new(Shared {
            config,
            db,
            clock,
            seal,
            bells: Bells::default(),
            senders,
            authorities,
            intake,
            process,
            refusals: Default::default(),
            funnel: Funnel::default(),
            room: Room::default(),
            feed_tail,
        });
        let mut bound = Vec::new();
        for listener in listening {
            let tls = match (&certificate, listener.tls) {
                (Some(certificate), true) => Some(certificate.acceptor(device_ca_names(&app, &listener.serves).await?)?),
                _ => None,
            };
            let tcp = TcpListener::bind(listener.address).await.with_context(|| format!("{} cannot be listened on", listener.address))?;
            let router = http::router(app.clone(), &listener.serves);
            bound.push(Bound { listener: tcp, tls, router, patience: Patience::default() });
        }
        Ok(Server { app, bound, certificate, committers, _alone: alone })
    }

    /// The address of the first listener, for those who asked for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.bound.first().and_then(|bound| bound.listener.local_addr().ok())
    }

    /// Runs until `stop`; fails when a worker or a listener dies before.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        self.run_beside(stop, Workers::default()).await
    }

    /// Runs its own workers beside these.
    async fn run_beside(self, stop: CancellationToken, mut workers: Workers) -> anyhow::Result<()> {
        let Server { app, bound, certificate, committers, _alone } = self;
        // Listeners stop first; the intake then drains what they took; workers end beside them.
        let mut listeners = JoinSet::new();
        for one in bound {
            listeners.spawn(serve::serve(one, stop.clone()));
        }
        let drained = CancellationToken::new();
        committers.start(&app, &drained, &mut workers);
        work::start(&app, &stop, &mut workers);
        if let Some(certificate) = certificate {
            let stop = stop.clone();
            workers.spawn("certificate", async move {
                certificate.follow(stop).await;
                Ok(())
            });
        }
        let died = tokio::select! {
            // The stop is looked at first: a worker that ends because of it has not died.
            biased;
            () = stop.cancelled() => None,
            ended = workers.next() => ended.map(failure),
            ended = listeners.join_next() => ended.map(|ended| match ended {
                Ok(()) => anyhow::anyhow!("a listener ended before its time"),
                Err(error) => anyhow::Error::new(error).context("a listener died"),
            }),
        };
        stop.cancel();
        let ending = async {
            while listeners.join_next().await.is_some() {}
            drained.cancel();
            while workers.next().await.is_some() {}
            app.db.close().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, ending).await.is_err() {
            let (listeners, workers) = (listeners.len(), workers.names());
            tracing::warn!(
                listeners,
                ?workers,
                "something did not end in time and was cut off; where nothing is named it was the database"
            );
        }
        died.map_or(Ok(()), Err)
    }
}

/// What is told of a worker that ended while nobody had asked it to.
fn failure(ended: Ended) -> anyhow::Error {
    let Ended { name, how } = ended;
    match how {
        Ok(Ok(())) => anyhow::anyhow!("the worker {name} ended before its time"),
        Ok(Err(error)) => anyhow::Error::new(error).context(format!("the worker {name} failed")),
        Err(error) => anyhow::Error::new(error).context(format!("the worker {name} died")),
    }
}

/// The names of the device CA, which a listener tells devices that are to show their certificates; `None` where none comes.
async fn device_ca_names(app: &App, serves: &[Part]) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
    if !serves.contains(&Part::Mdm) {
        return Ok(None);
    }
    let authority = authority::authority(app).await.context("[mdm] the device CA")?;
    Ok(Some(authority.ca.chain.iter().map(|certificate| certificate.subject().to_vec()).collect()))
}

/// Locks the SQLite file against a second server; the lock ends with the process, however it ends.
fn only_server(config: &Config) -> anyhow::Result<Option<File>> {
    let Some(path) = config.sqlite_file() else { return Ok(None) };
    let path = format!("{}.lock", path.display());
    let file = files::private_open(Path::new(&path)).with_context(|| path.clone())?;
    file.try_lock()
        .map_err(|_| anyhow::anyhow!("another server uses this SQLite file ({path} is locked); several servers need PostgreSQL"))?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests;
