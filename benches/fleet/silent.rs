//! A job and a policy for all whose phones do not come, with the sender's limits lifted: how fast the server makes the work and calls for it.

use std::time::{Duration, Instant};

use muster::sim::fcm::StandIn;
use serde_json::{Value, json};

use crate::crowd::PHASE_MAX;
use crate::site::Site;
use crate::times::row;
use crate::{nudged, seed};

/// How often it is looked how far the server has come, and how often for its first nudge.
const LOOK: Duration = Duration::from_millis(100);
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// Whom the server serves, where, and how many they are.
pub struct Silent<'a> {
    pub site: Site,
    pub fcm: &'a StandIn,
    pub base: &'a str,
    pub url: &'a str,
    pub devices: usize,
}

/// Devices a second: whose work was made, and whose nudge was accepted.
pub struct Speed {
    pub made: f64,
    pub accepted: f64,
}

impl Speed {
    /// Beside the ceiling of bare inserts, rows a second.
    pub fn tell(&self, bare: f64) {
        let of = |rate: f64| format!("{rate:.0} devices a second = {:.3} of bare inserts", rate / bare);
        row("made", of(self.made));
        row("accepted", of(self.accepted));
    }
}

/// A job for all.
pub async fn job(all: &Silent<'_>) -> anyhow::Result<Speed> {
    let order = async {
        let order = json!({"kind": "message", "params": {"text": "hello"}, "target": {"all": true}});
        all.site.send("POST", "/jobs", order).await
    };
    let is_made = async |job: &Value| {
        let path = format!("/jobs/{}", job["id"].as_str().unwrap_or_default());
        all.site.send("GET", &path, Value::Null).await.is_ok_and(|job| job["state"] != "expanding")
    };
    ordered(all, "job for all, limits lifted", "its tasks made", order, is_made).await
}

/// Another document of the policy that all have.
pub async fn policy(all: &Silent<'_>, name: &str) -> anyhow::Result<Speed> {
    let document = json!({"document": {"cameraAccess": "CAMERA_ACCESS_ENFORCED"}});
    let path = format!("/policies/{name}");
    let order = async { all.site.send("PUT", &path, document).await };
    let is_made =
        async |_: &Value| seed::count(all.url, "SELECT COUNT(*) FROM label_set WHERE moving > 0").await.is_ok_and(|moving| moving == 0);
    ordered(all, "policy for all, limits lifted", "every row moved", order, is_made).await
}

/// What is ordered for all goes in the lane of what concerns many; calls at the phones' own points, of which there are a hundred a second
/// among 1,000,000, go in others and are not counted as its.
async fn ordered(
    all: &Silent<'_>,
    what: &str,
    made: &str,
    order: impl Future<Output = anyhow::Result<Value>>,
    is_made: impl AsyncFn(&Value) -> bool,
) -> anyhow::Result<Speed> {
    let lane = if all.devices > muster::model::BULK_ABOVE { "lane=\"bulk\"" } else { "lane=\"change\"" };
    let called = async || nudged::sum(all.base, "muster_nudges_total", &[lane, "result=\"accepted\""]).await;
    let (before, accepted) = (called().await, all.fcm.counts().accepted);
    let began = Instant::now();
    let ordered = order.await?;
    row(&format!("{what}: answered"), format!("{:.0} ms", began.elapsed().as_secs_f64() * 1000.0));
    while called().await <= before && began.elapsed() < PHASE_MAX {
        tokio::time::sleep(FIRST_LOOK).await;
    }
    row(&format!("{what}: first nudge"), format!("{:.0} ms", began.elapsed().as_secs_f64() * 1000.0));
    let (mut made_s, mut accepted_s, mut called_s) = (None, None, None);
    while (made_s.is_none() || accepted_s.is_none() || called_s.is_none()) && began.elapsed() < PHASE_MAX {
        let now_s = began.elapsed().as_secs_f64();
        if made_s.is_none() && is_made(&ordered).await {
            made_s = Some(now_s);
        }
        if accepted_s.is_none() && all.fcm.counts().accepted >= accepted + all.devices as u64 {
            accepted_s = Some(now_s);
        }
        if called_s.is_none() && called().await >= before + all.devices as f64 {
            called_s = Some(now_s);
        }
        tokio::time::sleep(LOOK).await;
    }
    let text = |seconds: Option<f64>| seconds.map_or("NOT in time".to_owned(), |seconds| format!("{seconds:.1} s"));
    row(&format!("{what}: {made}"), text(made_s));
    row(&format!("{what}: accepted"), format!("{} in {}", all.devices, text(accepted_s)));
    row(&format!("{what}: last one called"), text(called_s));
    let rate = |seconds: Option<f64>| seconds.map_or(f64::NAN, |seconds| all.devices as f64 / seconds);
    Ok(Speed { made: rate(made_s), accepted: rate(accepted_s) })
}
