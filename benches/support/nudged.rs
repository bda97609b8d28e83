//! What the server's own metrics say of its nudges.

/// The sum of a counter over those of its series whose labels have all of these in them (`lane="bulk"`).
pub async fn sum(base: &str, counter: &str, labels: &[&str]) -> f64 {
    let text = match reqwest::get(format!("{base}/metrics")).await {
        Ok(answer) => answer.text().await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    let lines = text.lines().filter_map(|line| line.strip_prefix(counter)?.strip_prefix('{')?.rsplit_once("} "));
    lines.filter(|(of, _)| labels.iter().all(|label| of.contains(label))).filter_map(|(_, n)| n.trim().parse::<f64>().ok()).sum()
}
