//! A wire to the test's PostgreSQL that can be cut and joined again.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// Forwards a socket of its own to the cluster's.
pub struct Wire {
    /// The database's URL through this wire.
    pub url: String,
    folder: tempfile::TempDir,
    target: PathBuf,
    whole: Arc<Mutex<CancellationToken>>,
}

impl Wire {
    /// A wire to the database that `url` names; `url` carries its socket's folder as `host`.
    pub fn to(url: &str) -> Wire {
        let (front, host) = url.split_once("?host=").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let wire = Wire {
            url: format!("{front}?host={}", folder.path().display()),
            target: PathBuf::from(host).join(".s.PGSQL.5432"),
            folder,
            whole: Arc::default(),
        };
        wire.join();
        wire
    }

    /// Joins the wire: new connections go through.
    pub fn join(&self) {
        let socket = self.folder.path().join(".s.PGSQL.5432");
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).unwrap();
        let whole = CancellationToken::new();
        *self.whole.lock().unwrap() = whole.clone();
        let target = self.target.clone();
        tokio::spawn(async move {
            while let Some(Ok((mut near, _))) = whole.run_until_cancelled(listener.accept()).await {
                let (target, whole) = (target.clone(), whole.clone());
                tokio::spawn(async move {
                    if let Ok(mut far) = UnixStream::connect(target).await {
                        whole.run_until_cancelled(tokio::io::copy_bidirectional(&mut near, &mut far)).await;
                    }
                });
            }
        });
    }

    /// Cuts the wire: every connection ends, and none is taken.
    pub fn cut(&self) {
        self.whole.lock().unwrap().cancel();
        std::fs::remove_file(self.folder.path().join(".s.PGSQL.5432")).ok();
    }
}
