//! The workers of a server process, each under its name: what fails, dies or does not end can be told.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;

use tokio::task::{Id, JoinError, JoinSet};

use crate::error::Result;

/// Workers that run; dropping it ends them.
#[derive(Debug, Default)]
pub struct Workers {
    running: JoinSet<Result<()>>,
    names: HashMap<Id, &'static str>,
}

/// A worker that runs no more, and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub name: &'static str,
    pub how: std::result::Result<Result<()>, JoinError>,
}

impl Workers {
    pub fn spawn(&mut self, name: &'static str, worker: impl Future<Output = Result<()>> + Send + 'static) {
        self.names.insert(self.running.spawn(worker).id(), name);
    }

    /// The next that ends; `None` once none is left. Dropping the future is safe.
    pub async fn next(&mut self) -> Option<Ended> {
        let (id, how) = match self.running.join_next_with_id().await? {
            Ok((id, how)) => (id, Ok(how)),
            Err(error) => (error.id(), Err(error)),
        };
        Some(Ended { name: self.names.remove(&id).unwrap_or_default(), how })
    }

    /// Those that still run, each name once.
    pub fn names(&self) -> BTreeSet<&'static str> {
        self.names.values().copied().collect()
    }
}
