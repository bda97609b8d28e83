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
