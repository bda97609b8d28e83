//! How many rows a transaction of the background takes: as many as its time allows on this machine, on this database, now.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::app::App;

/// Rows of the first transaction, before any was measured.
const START: usize = 250;
/// Fewer would make the set-based statements and the commit, which cost the same for any number, the most of it: a job for a million
/// devices would take ten times as long.
const ROWS_MIN: usize = 50;
const ROWS_MAX: usize = 500;
/// SQLite has one writer, and contacts wait for it. A quick machine does 250 rows in half of this.
const AIM_SQLITE: Duration = Duration::from_millis(15);
/// A change of policy is in no hurry, and phones come in while it goes on.
const AIM_SQLITE_MOVE: Duration = Duration::from_millis(6);
/// On PostgreSQL contacts wait only for rows that they share with it.
const AIM_POSTGRES: Duration = Duration::from_millis(25);
/// A job's transaction is a dozen statements and a commit, which cost the same for few devices as for many, and its devices wait.
const AIM_POSTGRES_WALK: Duration = Duration::from_millis(60);
/// However long a transaction took, the rest after it is no longer: processors are shared too, but something waits.
const REST_MAX: Duration = Duration::from_millis(20);

/// What a transaction does; a row costs more in one than in another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Walk,
    Move,
    Sweep,
    Expire,
    Fold,
}

/// The sizes of now.
#[derive(Debug)]
pub(super) struct Chunks {
    is_sqlite: bool,
    rows: [AtomicUsize; 5],
}

impl Chunks {
    pub(super) fn of(app: &App) -> Chunks {
        Chunks { is_sqlite: app.config.is_sqlite(), rows: [START; 5].map(AtomicUsize::new) }
    }

    /// How long a transaction shall take.
    fn aim(&self, work: Work) -> Duration {
        match (self.is_sqlite, work) {
            (true, Work::Move | Work::Sweep) => AIM_SQLITE_MOVE,
            (true, Work::Walk | Work::Expire | Work::Fold) => AIM_SQLITE,
            (false, Work::Walk) => AIM_POSTGRES_WALK,
            (false, Work::Move | Work::Sweep | Work::Expire | Work::Fold) => AIM_POSTGRES,
        }
    }

    /// Rows that the next transaction may take.
    pub(super) fn rows(&self, work: Work) -> usize {
        self.rows[work as usize].load(Ordering::Relaxed)
    }

    /// A transaction of [`Chunks::rows`] began its work at `began`: the next takes as many as would have fitted, at most twice as many.
    /// One that found less to do than it might makes the next too large, which that one's own time puts right.
    pub(super) fn measured(&self, work: Work, began: Instant) {
        let rows = self.rows(work);
        let fitting = (rows as f64 * self.aim(work).as_secs_f64() / began.elapsed().as_secs_f64().max(1e-6)) as usize;
        // One that a busy machine held up says little: half the way.
        let next = (rows + fitting.min(rows * 2)).div_ceil(2).clamp(ROWS_MIN, ROWS_MAX);
        self.rows[work as usize].store(next, Ordering::Relaxed);
    }

    /// Lets others have the machine after a transaction that began its work at `began`: a job's for half of its time, a move's for twice
    /// that time, any other for all of it.
    pub(super) async fn rest(&self, work: Work, began: Instant) {
        let took = began.elapsed();
        let rest = match work {
            Work::Walk => took / 2,
            Work::Move => took * 2,
            Work::Sweep | Work::Expire | Work::Fold => took,
        };
        tokio::time::sleep(rest.min(REST_MAX)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_grows_to_its_time_and_shrinks_with_it_within_limits() {
        let chunks = Chunks { is_sqlite: true, rows: [START; 5].map(AtomicUsize::new) };
        let after = |took_ms: u64| {
            chunks.measured(Work::Move, Instant::now().checked_sub(Duration::from_millis(took_ms)).unwrap());
            chunks.rows(Work::Move)
        };
        assert_eq!((0..20).map(|_| after(1_000)).min(), Some(ROWS_MIN));
        assert_eq!((0..20).map(|_| after(0)).max(), Some(ROWS_MAX));
        assert!(after(40) < ROWS_MAX);
        assert!(chunks.aim(Work::Move) < chunks.aim(Work::Walk));
        assert_eq!(chunks.rows(Work::Fold), START, "each work has its own");
    }
}
