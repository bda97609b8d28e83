//! Rates: how they are taken and told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What a run came to: per second, median and 99th percentile in milliseconds.
pub struct Row(pub f64, pub f64, pub f64);

/// The head of a table whose rows are told against this ceiling, and the ceiling.
pub fn head(name: &str, ceiling: &Row) {
    println!("{:<12} {:<28} {:>10} {:>9} {:>9} {:>8}", "database", "work", "per second", "p50 ms", "p99 ms", "ratio");
    line("-", name, ceiling, ceiling);
}

/// A row of the table.
pub fn line(database: &str, work: &str, row: &Row, ceiling: &Row) {
    println!("{database:<12} {work:<28} {:>10.0} {:>9.1} {:>9.1} {:>8.2}", row.0, row.1, row.2, row.0 / ceiling.0);
}

/// Runs `work(n)` on so many connections at once, until `count` are done or the seconds are over.
pub async fn load<F: Future<Output = anyhow::Result<()>> + Send + 'static>(
    connections: usize,
    count: Option<usize>,
    seconds: u64,
    work: impl Fn(usize) -> F + Clone + Send + 'static,
) -> anyhow::Result<Row> {
    let (next, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let started = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (next, over, work) = (next.clone(), over.clone(), work.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if count.is_some_and(|count| n >= count)
                        || over.load(Ordering::Relaxed)
                        || started.elapsed() > Duration::from_secs(seconds)
                    {
                        return anyhow::Ok(times);
                    }
                    let began = Instant::now();
                    work(n).await?;
                    times.push(began.elapsed().as_secs_f64() * 1000.0);
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1))).copied().unwrap_or(0.0);
    Ok(Row(times.len() as f64 / elapsed, at(0.5), at(0.99)))
}
