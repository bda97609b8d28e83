use std::future::Future;

use super::*;
use crate::error::Error;

/// A server on SQLite beside which a worker ends like this; answers how the server ended.
async fn beside(worker: impl Future<Output = crate::error::Result<()>> + Send + 'static) -> (anyhow::Result<()>, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        database_url: format!("sqlite://{}", folder.path().join("muster.db").display()),
        data_dir: folder.path().to_owned(),
        ..Config::default()
    };
    config.secrets.key = Some("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into());
    let server = Server::start(config, Clock::system()).await.unwrap();
    let address = server.address().unwrap();
    let mut workers = Workers::default();
    workers.spawn("tested", worker);
    let ended = tokio::time::timeout(Duration::from_secs(20), server.run_beside(CancellationToken::new(), workers)).await;
    (ended.expect("the server goes on without its worker"), address)
}

#[tokio::test]
async fn a_worker_that_dies_fails_or_ends_takes_the_server_down_with_a_failure() {
    let (ended, address) = beside(async { panic!("a worker is no more") }).await;
    assert!(format!("{:#}", ended.unwrap_err()).contains("the worker tested died"));
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "and it listens no more");
    let (ended, _) = beside(async { Err(Error::NotFound("reason to go on")) }).await;
    assert!(format!("{:#}", ended.unwrap_err()).contains("the worker tested failed"));
    let (ended, _) = beside(async { Ok(()) }).await;
    assert!(format!("{:#}", ended.unwrap_err()).contains("the worker tested ended before its time"));
}

#[tokio::test]
async fn a_command_that_knows_no_more_than_the_database_leaves_the_fleets_settings_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        public_url: "https://mdm.example.org".into(),
        database_url: format!("sqlite://{}", folder.path().join("muster.db").display()),
        data_dir: folder.path().to_owned(),
        ..Config::default()
    };
    config.limits.wipes_per_hour = 3;
    let server = Server::start(config.clone(), Clock::system()).await.unwrap();
    drop(server);
    let kept = async |db: &Db| {
        let mut conn = db.begin(Class::Operators).await.unwrap();
        let address = meta::get(&mut conn, settle::ADDRESS).await.unwrap();
        let budget = crate::store::budget::lock(&mut conn).await.unwrap();
        (address, budget)
    };
    let bare = Config { database_url: config.database_url.clone(), data_dir: config.data_dir.clone(), ..Config::default() };
    let (db, _) = open(&bare, &Clock::system(), true).await.unwrap();
    assert_eq!(kept(&db).await, (Some("https://mdm.example.org".into()), Some(3)));
    db.close().await;
    // Neither does a server that is refused for its key.
    let mut stranger = Config { listen: config.listen, public_url: "https://elsewhere.example.org".into(), ..bare.clone() };
    stranger.secrets.key = Some("BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=".into());
    let refused = Server::start(stranger, Clock::system()).await.err().unwrap();
    assert!(format!("{refused:#}").contains("master key"), "{refused:#}");
    let (db, _) = open(&bare, &Clock::system(), true).await.unwrap();
    assert_eq!(kept(&db).await, (Some("https://mdm.example.org".into()), Some(3)));
    db.close().await;
}
