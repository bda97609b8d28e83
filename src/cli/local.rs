//! Commands that work on the database directly, also while no server runs.

use crate::clock::Clock;
use crate::config::Config;
use crate::model::{Actor, Role};
use crate::ops::operators;
use crate::server;
use crate::store::Class;

/// `muster operator add`: prints the absolute one-time sign-in link, alone, on standard output.
pub async fn operator_add(config: &Config, name: &str, role: Role) -> anyhow::Result<()> {
    println!("{}", sign_in_link(config, name, role).await?);
    Ok(())
}

/// `muster key add`: prints the key, alone, on standard output.
pub async fn key_add(config: &Config, name: &str, role: Role) -> anyhow::Result<()> {
    println!("{}", api_key(config, name, role).await?);
    Ok(())
}

/// Adds the operator, or finds the one of that name, and makes a one-time sign-in link.
pub async fn sign_in_link(config: &Config, name: &str, role: Role) -> anyhow::Result<String> {
    let clock = Clock::system();
    let (db, _) = server::open(config, &clock, config.migrate).await?;
    let mut conn = db.begin(Class::Operators).await?;
    let secret = operators::link(&mut conn, &mut clock.moment(), &Actor::server(), name, role).await?;
    conn.commit().await?;
    db.close().await;
    Ok(format!("{}/sign-in/{secret}", config.public_url.trim_end_matches('/')))
}

/// Makes an API key.
pub async fn api_key(config: &Config, name: &str, role: Role) -> anyhow::Result<String> {
    let clock = Clock::system();
    let (db, _) = server::open(config, &clock, config.migrate).await?;
    let mut conn = db.begin(Class::Operators).await?;
    let key = operators::add_key(&mut conn, &mut clock.moment(), &Actor::server(), name, role).await?;
    conn.commit().await?;
    db.close().await;
    Ok(key)
}
