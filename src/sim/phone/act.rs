//! What the phone does with a task, and what happens to it by itself.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{Kind, Memory};
use crate::model::Id;

/// Carries out a task and notes its result.
pub fn perform(task: &Value, fails: bool, memory: &mut Memory, rng: &mut StdRng, now_ms: i64, id: Id) {
    let kind = task["kind"].as_str().unwrap_or("");
    let task_id = task["id"].clone();
    if fails {
        let (code, message) = [
            ("INSUFFICIENT_STORAGE", "the package needs 212 MB, 96 MB are free"),
            ("USER_ACTION", "the user has to confirm first"),
            ("NETWORK_ERROR_UNRELIABLE_CONNECTION", "the download broke off three times"),
        ][rng.random_range(0..3)];
        memory.report(json!({"task_id": task_id, "status": "failed", "code": code, "message": message, "at_ms": now_ms}));
        return;
    }
    let data = match kind {
        "locate" => json!({
            "lat": 48.0 + rng.random_range(0..1000) as f64 / 1000.0, "lon": 11.0 + rng.random_range(0..1000) as f64 / 1000.0,
            "accuracy_m": rng.random_range(3..60), "at_ms": now_ms,
        }),
        "scan" => {
            let event = envelope(
                memory,
                "scan_finished",
                now_ms,
                id,
                json!({
                    "outcome": "clean", "scan_id": task_id, "started_at_ms": now_ms - 2000, "ended_at_ms": now_ms, "scope": "full",
                    "items": rng.random_range(200..4000), "threats": [], "engine_version": "7.1",
                }),
            );
            memory.remember_event(event, 256);
            json!({"outcome": "clean"})
        }
        "refresh" => {
            memory.fact("battery_percent", json!(rng.random_range(5..100)));
            memory.fact("storage_free_bytes", json!(rng.random_range(1..60_i64) * 1_000_000_000));
            json!({})
        }
        "wipe" => {
            memory.wipe();
            json!({})
        }
        _ => json!({}),
    };
    memory.report(json!({"task_id": task_id, "status": "done", "data": data, "at_ms": now_ms}));
}

/// Something that the phone notices by itself: mostly harmless.
pub fn something_happens(kind: &Kind, rng: &mut StdRng, memory: &mut Memory, now_ms: i64, id: Id) -> Value {
    // An app on iOS sees its own surroundings only.
    let sees = if kind.keeps_time() { 100 } else { 65 };
    let (kind, data) = match rng.random_range(0..sees) {
        0..=44 => ("fact_changed", json!({"key": "battery_percent", "value": rng.random_range(5..100)})),
        45..=64 => {
            ("web_page_blocked", json!({"url": "https://blocked.example/", "category": "phishing", "action": "blocked", "count": 1}))
        }
        65..=74 => ("scan_finished", json!({"outcome": "clean", "items": rng.random_range(200..4000), "threats": []})),
        75..=82 => ("usb_debugging_changed", json!({"enabled": rng.random_bool(0.5), "developer_options": true})),
        83..=88 => (
            "malware_unresolved",
            json!({"threat": "EICAR-Test-File", "object": "/sdcard/Download/eicar.com", "resolved": rng.random_bool(0.6)}),
        ),
        89..=93 => (
            "password_overdue",
            json!({"due_at_ms": now_ms - 3_600_000, "days_overdue": 1, "password_set": true, "resolved": rng.random_bool(0.5)}),
        ),
        94..=97 => ("profile_changed", json!({"change": "changed", "profile": "wifi-office", "by": "user", "managed": false})),
        _ => ("device_admin_changed", json!({"enabled": true, "component": "org.muster.agent/.Admin", "mode": "device_owner"})),
    };
    envelope(memory, kind, now_ms, id, data)
}

fn envelope(memory: &mut Memory, kind: &str, now_ms: i64, id: Id, data: Value) -> Value {
    json!({
        "event_id": id, "type": kind, "seq": memory.next_seq(), "occurred_at_ms": now_ms, "first_attempt_at_ms": now_ms, "attempt": 1,
        "boot_id": memory.boot_id(), "uptime_ms": 60_000, "policy_version": memory.policy(), "data": data,
    })
}
