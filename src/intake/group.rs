//! Group commit: whatever has arrived when the last commit ends is committed together.
//!
//! No timer, and no second path: a single item is a group of one. An item once taken commits even if its client has gone.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

use crate::app::REPEATS_MAX;
use crate::error::{Error, Result, Trouble};

/// Items committed together at most.
pub const GROUP_MAX: usize = 256;
/// Items that may wait for a commit; beyond it nothing is taken whatever its class.
pub const BACKLOG_MAX: usize = 16_384;

/// What a group does with its items. `intake::contacts` and `intake::activations` are the two kinds.
pub trait Kind: Send + Sync + 'static {
    type Item: Send + Sync + 'static;
    type Outcome: Send + 'static;

    /// Items with an equal key are never in the same group: two contacts of one channel, two activations of one phone.
    fn key(item: &Self::Item) -> String;

    /// Applies the items in one transaction and commits; one outcome for each, in order.
    fn commit(&self, items: &[Self::Item]) -> impl Future<Output = Result<Vec<Self::Outcome>>> + Send;

    /// Hears of each failed commit.
    fn heed(&self, _error: &Error) {}

    /// Splits an item that the database refuses on its own into smaller ones, or `None` where it cannot be split further.
    fn split(item: &Self::Item) -> Option<(Self::Item, Self::Item)>;

    /// Puts the outcomes of a split item together again.
    fn join(first: Self::Outcome, second: Self::Outcome) -> Self::Outcome;

    /// The smallest piece that the database refuses: what is left of the item without the offending part, or `None` to fail it.
    fn without_poison(item: &Self::Item) -> Option<Self::Item>;
}

struct Entry<K: Kind> {
    item: K::Item,
    reply: oneshot::Sender<Result<K::Outcome>>,
    /// The request's: the group is linked to it in traces.
    span: tracing::Span,
}

/// The way into a group. Cheap to clone. Items with an equal key go through the same queue.
pub struct Group<K: Kind> {
    queues: Vec<mpsc::Sender<Entry<K>>>,
    backlog: Arc<AtomicUsize>,
}

impl<K: Kind> Clone for Group<K> {
    fn clone(&self) -> Self {
        Group { queues: self.queues.clone(), backlog: self.backlog.clone() }
    }
}

impl<K: Kind> std::fmt::Debug for Group<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Group(backlog {})", self.backlog())
    }
}

/// The receiving end, to be run by one committer.
pub struct Arrivals<K: Kind> {
    receiver: mpsc::Receiver<Entry<K>>,
    backlog: Arc<AtomicUsize>,
}

/// Makes a group of so many queues, at least one, and their receiving ends. Each queue commits by itself, beside the others.
pub fn group<K: Kind>(queues: usize) -> (Group<K>, Vec<Arrivals<K>>) {
    let backlog = Arc::new(AtomicUsize::new(0));
    let (queues, arrivals) = (0..queues.max(1))
        .map(|_| {
            let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
            (sender, Arrivals { receiver, backlog: backlog.clone() })
        })
        .unzip();
    (Group { queues, backlog }, arrivals)
}

impl<K: Kind> Group<K> {
    /// How many items wait for a commit.
    pub fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Hands an item in and waits for its commit; `Busy` where more than `backlog_max` wait already.
    pub async fn submit(&self, item: K::Item, backlog_max: usize, retry_after_s: i64) -> Result<K::Outcome> {
        if self.backlog() >= backlog_max {
            return Err(Error::Busy { retry_after_s });
        }
        let (reply, outcome) = oneshot::channel();
        self.backlog.fetch_add(1, Ordering::Relaxed);
        let at = K::key(&item).bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        if self.queues[at % self.queues.len()].try_send(Entry { item, reply, span: tracing::Span::current() }).is_err() {
            self.backlog.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Busy { retry_after_s });
        }
        // The committer answers everything it takes; an end without an answer means that the process is going down.
        outcome.await.unwrap_or(Err(Error::Busy { retry_after_s }))
    }
}

impl<K: Kind> Arrivals<K> {
    /// Commits groups until every [`Group`] is gone and the backlog is drained.
    pub async fn run(mut self, kind: K) {
        let mut held = VecDeque::new();
        loop {
            let group = match self.next_group(&mut held).await {
                Some(group) => group,
                None => return,
            };
            self.backlog.fetch_sub(group.len(), Ordering::Relaxed);
            metrics::histogram!("muster_intake_batch_size").record(group.len() as f64);
            let span = tracing::info_span!("intake_group", items = group.len());
            for entry in &group {
                span.follows_from(&entry.span);
            }
            let (items, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|entry| (entry.item, entry.reply)).unzip();
            for (reply, outcome) in replies.into_iter().zip(settle(&kind, &items).instrument(span).await) {
                // A client that has gone does not undo its commit.
                reply.send(outcome).ok();
            }
        }
    }

    async fn next_group(&mut self, held: &mut VecDeque<Entry<K>>) -> Option<Vec<Entry<K>>> {
        let mut group = Vec::new();
        let mut keys = HashSet::new();
        let mut take = |entry: Entry<K>, group: &mut Vec<Entry<K>>, later: &mut VecDeque<Entry<K>>| {
            if keys.insert(K::key(&entry.item)) { group.push(entry) } else { later.push_back(entry) }
        };
        let mut later = VecDeque::new();
        while let Some(entry) = held.pop_front() {
            if group.len() == GROUP_MAX {
                later.push_back(entry);
            } else {
                take(entry, &mut group, &mut later);
            }
        }
        if group.is_empty() {
            take(self.receiver.recv().await?, &mut group, &mut later);
        }
        // What is held back is bounded: a group's worth, then the channel waits.
        while group.len() < GROUP_MAX && later.len() < GROUP_MAX {
            match self.receiver.try_recv() {
                Ok(entry) => take(entry, &mut group, &mut later),
                Err(_) => break,
            }
        }
        *held = later;
        Some(group)
    }
}

/// Commits items together; where the database refuses one, by halves, until it stands alone and all others are committed.
async fn settle<K: Kind>(kind: &K, items: &[K::Item]) -> Vec<Result<K::Outcome>> {
    match commit_patiently(kind, items).await {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        Err(error) if error.trouble() == Trouble::Poison && items.len() > 1 => {
            let (first, second) = items.split_at(items.len() / 2);
            let mut outcomes = Box::pin(settle(kind, first)).await;
            outcomes.extend(Box::pin(settle(kind, second)).await);
            outcomes
        }
        Err(error) if error.trouble() == Trouble::Poison => {
            tracing::warn!(%error, "the database refuses an item; it is taken apart");
            vec![isolate(kind, &items[0], error).await]
        }
        Err(error) => {
            let again = error.trouble() == Trouble::Away || error.trouble() == Trouble::Repeat;
            let full = error.is_full();
            let message = error.to_string();
            let mut outcomes: Vec<Result<K::Outcome>> = Vec::with_capacity(items.len());
            outcomes.push(Err(error));
            outcomes.extend(items.iter().skip(1).map(|_| {
                Err(if full {
                    Error::Full
                } else if again {
                    Error::Database(sqlx::Error::PoolTimedOut)
                } else {
                    Error::Database(sqlx::Error::Protocol(message.clone()))
                })
            }));
            outcomes
        }
    }
}

/// One refused item, by halves of its own parts; the part that alone is refused is dropped, everything else commits.
async fn isolate<K: Kind>(kind: &K, item: &K::Item, error: Error) -> Result<K::Outcome> {
    if let Some((first, second)) = K::split(item) {
        let first = match commit_patiently(kind, std::slice::from_ref(&first)).await {
            Err(error) if error.trouble() == Trouble::Poison => Box::pin(isolate(kind, &first, error)).await?,
            outcome => single(outcome)?,
        };
        let second = match commit_patiently(kind, std::slice::from_ref(&second)).await {
            Err(error) if error.trouble() == Trouble::Poison => Box::pin(isolate(kind, &second, error)).await?,
            outcome => single(outcome)?,
        };
        return Ok(K::join(first, second));
    }
    match K::without_poison(item) {
        Some(rest) => single(commit_patiently(kind, std::slice::from_ref(&rest)).await),
        None => Err(error),
    }
}

fn single<T>(outcomes: Result<Vec<T>>) -> Result<T> {
    outcomes?.pop().ok_or(Error::NotFound("outcome"))
}

async fn commit_patiently<K: Kind>(kind: &K, items: &[K::Item]) -> Result<Vec<K::Outcome>> {
    let mut tries = 0;
    loop {
        let started = std::time::Instant::now();
        let outcome = kind.commit(items).await;
        metrics::histogram!("muster_commit_seconds").record(started.elapsed().as_secs_f64());
        tries += 1;
        if let Err(error) = &outcome {
            kind.heed(error);
        }
        match outcome {
            Err(error) if error.trouble() == Trouble::Repeat && tries < REPEATS_MAX => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Numbers in a list; the database refuses 13.
    struct Numbers(Mutex<Vec<Vec<u32>>>);

    impl Kind for Arc<Numbers> {
        type Item = Vec<u32>;
        type Outcome = Vec<String>;
        fn key(item: &Vec<u32>) -> String {
            format!("{:?}", item.first())
        }
        async fn commit(&self, items: &[Vec<u32>]) -> Result<Vec<Vec<String>>> {
            tokio::task::yield_now().await;
            if items.iter().flatten().any(|n| *n == 13) {
                return Err(Error::Database(sqlx::Error::Decode("13".into())));
            }
            self.0.lock().unwrap().push(items.iter().flatten().copied().collect());
            Ok(items.iter().map(|item| item.iter().map(u32::to_string).collect()).collect())
        }
        fn split(item: &Vec<u32>) -> Option<(Vec<u32>, Vec<u32>)> {
            (item.len() > 1).then(|| (item[..item.len() / 2].to_vec(), item[item.len() / 2..].to_vec()))
        }
        fn join(mut first: Vec<String>, second: Vec<String>) -> Vec<String> {
            first.extend(second);
            first
        }
        fn without_poison(_: &Vec<u32>) -> Option<Vec<u32>> {
            Some(vec![])
        }
    }

    #[tokio::test]
    async fn one_refused_part_of_one_item_stands_alone_and_all_others_commit() {
        let kind = Arc::new(Numbers(Mutex::default()));
        let (group, mut arrivals) = group::<Arc<Numbers>>(1);
        let arrivals = arrivals.remove(0);
        let submitted: Vec<_> = (0..40_u32)
            .map(|n| {
                let group = group.clone();
                let item = if n == 7 { vec![700, 13, 701, 702] } else { vec![n * 100] };
                tokio::spawn(async move { group.submit(item, BACKLOG_MAX, 1).await })
            })
            .collect();
        let committer = tokio::spawn(arrivals.run(kind.clone()));
        let mut outcomes = Vec::new();
        for task in submitted {
            outcomes.push(task.await.unwrap().unwrap());
        }
        drop(group);
        committer.await.unwrap();
        assert_eq!(outcomes[7], ["700", "701", "702"]);
        assert_eq!(outcomes.iter().map(Vec::len).sum::<usize>(), 42);
        let mut committed: Vec<u32> = kind.0.lock().unwrap().concat();
        committed.sort_unstable();
        committed.dedup();
        assert_eq!(committed.len(), 42, "each part exactly once");
    }

    #[tokio::test]
    async fn two_items_of_one_key_are_never_in_one_group_and_keep_their_order() {
        let kind = Arc::new(Numbers(Mutex::default()));
        let (group, mut arrivals) = group::<Arc<Numbers>>(1);
        let arrivals = arrivals.remove(0);
        let items: Vec<_> = (0..3_u32).map(|n| group.submit(vec![1, n], BACKLOG_MAX, 1)).collect();
        let waiting = tokio::spawn(arrivals.run(kind.clone()));
        let outcomes = futures_util::future::join_all(items).await;
        assert!(outcomes.iter().all(Result::is_ok));
        drop(group);
        waiting.await.unwrap();
        assert_eq!(*kind.0.lock().unwrap(), vec![vec![1, 0], vec![1, 1], vec![1, 2]]);
    }

    #[tokio::test]
    async fn a_full_backlog_is_refused_with_a_time_to_return() {
        let (group, _arrivals) = group::<Arc<Numbers>>(1);
        let mut waiting = Box::pin(group.submit(vec![1], 1, 9));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(matches!(group.submit(vec![2], 1, 9).await, Err(Error::Busy { retry_after_s: 9 })));
    }
}
