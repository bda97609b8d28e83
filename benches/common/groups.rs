//! The intake's groups, as the server's own metrics tell them.

/// The intake's groups so far: how many, contacts in them, seconds that they took.
pub fn groups() -> [f64; 3] {
    let text = muster::telemetry::metrics().render();
    let of = |name: &str| -> f64 { text.lines().filter_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).sum() };
    [of("muster_commit_seconds_count"), of("muster_intake_batch_size_sum"), of("muster_commit_seconds_sum")]
}

/// Prints what the groups came to since `before`.
pub fn told_groups(work: &str, before: [f64; 3]) {
    let now = groups();
    let [count, contacts, seconds] = [now[0] - before[0], now[1] - before[1], now[2] - before[2]];
    println!("{:<12} {work}: {count:.0} groups of {:.1}, {:.2} ms each", "", contacts / count, seconds / count * 1000.0);
}
