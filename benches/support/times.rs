//! Times in milliseconds, and how they are told.

/// A line of the table.
pub fn row(what: &str, value: String) {
    println!("{what:<44} {value}");
}

/// Milliseconds, sorted, the seconds in which they were taken where that is told, and how many more failed.
pub struct Times(pub Vec<f64>, pub f64, pub usize);

impl Times {
    pub fn of(mut times: Vec<f64>) -> Times {
        times.sort_by(f64::total_cmp);
        Times(times, 0.0, 0)
    }

    pub fn p(&self, share: f64) -> f64 {
        self.0.get(((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    pub fn text(&self) -> String {
        let rate = if self.1 > 0.0 { format!("{:.0}/s, ", self.0.len() as f64 / self.1) } else { String::new() };
        let failed = if self.2 > 0 { format!(", {} FAILED", self.2) } else { String::new() };
        format!("{} times, {rate}p50 {:.1} ms, p99 {:.1} ms{failed}", self.0.len(), self.p(0.5), self.p(0.99))
    }
}
