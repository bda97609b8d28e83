//! A server inside the bench's own process.

use muster::clock::Clock;
use muster::config::Config;
use muster::model::{Actor, Role};
use muster::ops::operators;
use muster::server::Server;
use muster::store::Class;
use tokio_util::sync::CancellationToken;

/// A server that runs, and what is needed to speak to it.
pub struct Running {
    pub base: String,
    /// An admin's key for the API.
    pub key: String,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    pub async fn start(mut config: Config) -> anyhow::Result<Running> {
        config.secrets.key = Some("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into());
        let clock = Clock::system();
        let server = Server::start(config, clock.clone()).await?;
        let base = format!("http://{}", server.address().ok_or_else(|| anyhow::anyhow!("no address"))?);
        let (app, stop) = (server.app.clone(), CancellationToken::new());
        let server = tokio::spawn(server.run(stop.clone()));
        let mut conn = app.db.begin(Class::Operators).await?;
        // A database that is served again has the former key still.
        let mut moment = clock.moment();
        let name = format!("bench {}", moment.id());
        let key = operators::add_key(&mut conn, &mut moment, &Actor::server(), &name, Role::Admin).await?;
        conn.commit().await?;
        Ok(Running { base, key, stop, server })
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.server.await?
    }
}
