//! Commands that work on the database directly, also while no server runs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::clock::Clock;
use crate::config::Config;
use crate::intake::authority::Authorities;
use crate::model::{Actor, Role};
use crate::ops::ca::{Pair, authority};
use crate::ops::operators;
use crate::seal::Seal;
use crate::server;
use crate::store::{Class, Db};

/// A server that takes longer to say that it is ready is not.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);

/// `muster health`: whether the server at `url` is ready.
pub async fn health(url: &str) -> ExitCode {
    let client = reqwest::Client::builder().timeout(HEALTH_TIMEOUT).no_proxy().build();
    let ready = async { client?.get(format!("{}/readyz", url.trim_end_matches('/'))).send().await?.error_for_status() };
    match ready.await {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muster: not ready: {:#}", anyhow::Error::from(error));
            ExitCode::FAILURE
        }
    }
}

/// `muster operator add`: prints the absolute one-time sign-in link, alone, on standard output.
pub async fn operator_add(config: &Config, name: &str, role: Option<Role>) -> anyhow::Result<()> {
    let (link, changes) = sign_in_link(config, name, role).await?;
    println!("{link}");
    for change in changes {
        eprintln!("{change}");
    }
    Ok(())
}

/// `muster key add`: prints the key, alone, on standard output.
pub async fn key_add(config: &Config, name: &str, role: Role) -> anyhow::Result<()> {
    println!("{}", api_key(config, name, role).await?);
    Ok(())
}

/// `muster migrate`: brings the database to this version's schema.
pub async fn migrate(config: &Config) -> anyhow::Result<()> {
    server::owner::spare(config)?;
    Db::open(&config.database_url).await?.migrate().await?;
    println!("the database has this version's schema");
    Ok(())
}

/// `muster ca show`: prints the device CA, PEM.
pub async fn ca_show(config: &Config) -> anyhow::Result<()> {
    let ca = match Authorities::from_config(config)?.given() {
        Some(given) => Some(given.clone()),
        None => {
            let (db, seal) = server::open_existing(config).await?;
            let stored = authority::stored_ca(&mut db.read().await?, &seal).await?;
            db.close().await;
            stored
        }
    };
    let ca = ca.context("there is no device CA yet: `muster serve` makes it")?;
    for certificate in &ca.chain {
        print!("{}", certificate.to_pem());
    }
    Ok(())
}

/// The database and its key. Whoever stands in another folder than the server's shall see that these are not the server's.
async fn open(config: &Config, clock: &Clock) -> anyhow::Result<(Db, Seal)> {
    let is_new = config.sqlite_file().is_some_and(|file| !file.exists());
    let opened = server::open(config, clock, config.migrate).await?;
    if is_new {
        eprintln!("there was no {}: it was made; a server that runs with other settings knows nothing of it", config.database_url);
    }
    Ok(opened)
}

/// `muster ca rotate`: puts a new device CA in the place of the one that there is, and prints its SHA-256.
pub async fn ca_rotate(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(
        config.mdm.ca_cert.is_none(),
        "[mdm] ca_cert names the device CA: put the new certificate first in that file, the former one behind it, and the new key in ca_key"
    );
    let clock = Clock::system();
    let (db, seal) = open(config, &clock).await?;
    let made = Pair::make_ca(&mut clock.moment())?;
    let mut conn = db.begin(Class::Operators).await?;
    let ca = authority::rotate_ca(&mut conn, &mut clock.moment(), &seal, &Actor::server(), made).await?;
    conn.commit().await?;
    db.close().await;
    println!("{}", ca.certificate().hash());
    Ok(())
}

/// Adds the operator, or finds the one of that name, and makes a one-time sign-in link; answers with it what changed for one who was there.
pub async fn sign_in_link(config: &Config, name: &str, role: Option<Role>) -> anyhow::Result<(String, Vec<String>)> {
    let clock = Clock::system();
    let (db, _) = open(config, &clock).await?;
    let mut conn = db.begin(Class::Operators).await?;
    let linked = operators::link(&mut conn, &mut clock.moment(), &Actor::server(), name, role).await?;
    conn.commit().await?;
    db.close().await;
    Ok((format!("{}/sign-in/{}", config.public_url.trim_end_matches('/'), linked.secret.reveal()), linked.changes()))
}

/// Makes an API key.
pub async fn api_key(config: &Config, name: &str, role: Role) -> anyhow::Result<String> {
    let clock = Clock::system();
    let (db, _) = open(config, &clock).await?;
    let mut conn = db.begin(Class::Operators).await?;
    let key = operators::add_key(&mut conn, &mut clock.moment(), &Actor::server(), name, role).await?;
    conn.commit().await?;
    db.close().await;
    Ok(key)
}
