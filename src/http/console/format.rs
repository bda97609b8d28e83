//! How the console words and dresses what the store keeps: times, states, counts.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};

use askama::filters::HtmlSafe;
use chrono::DateTime;
use serde_json::Value;

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Members of a feed entry's data that its line shows.
const MEMBERS_SHOWN: usize = 3;
/// Characters of one of them.
const MEMBER_CHARS_MAX: usize = 60;

/// A time as `<time>`: how long ago in words, the instant in its title. Without a time it says "never".
#[derive(Clone, Copy, Debug)]
pub struct When {
    at_ms: Option<i64>,
    now_ms: i64,
}

impl When {
    pub fn new(at_ms: i64, now_ms: i64) -> When {
        When { at_ms: Some(at_ms), now_ms }
    }

    pub fn maybe(at_ms: Option<i64>, now_ms: i64) -> When {
        When { at_ms, now_ms }
    }
}

impl HtmlSafe for When {}

impl Display for When {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(at_ms) = self.at_ms else { return f.write_str("<span class=\"dim\">never</span>") };
        let at = DateTime::from_timestamp_millis(at_ms).unwrap_or_default();
        write!(
            f,
            "<time datetime=\"{}\" data-ms=\"{at_ms}\" title=\"{}\">{}</time>",
            at.format("%Y-%m-%dT%H:%M:%SZ"),
            at.format("%Y-%m-%d %H:%M:%S UTC"),
            relative(at_ms, self.now_ms)
        )
    }
}

/// "3 min ago", "in 2 h".
pub fn relative(at_ms: i64, now_ms: i64) -> String {
    let apart = (now_ms - at_ms).abs();
    let span = span(apart);
    if apart < 5_000 {
        if at_ms > now_ms { "now" } else { "just now" }.into()
    } else if at_ms > now_ms {
        format!("in {span}")
    } else {
        format!("{span} ago")
    }
}

/// A length of time in one unit: "40 s", "3 min", "2 h", "5 d".
pub fn span(ms: i64) -> String {
    match ms {
        ..MINUTE_MS => format!("{} s", ms / 1000),
        MINUTE_MS..HOUR_MS => format!("{} min", ms / MINUTE_MS),
        HOUR_MS..DAY_MS => format!("{} h", ms / HOUR_MS),
        _ => format!("{} d", ms / DAY_MS),
    }
}

/// The tone of a word: what a colour says beside the text, never instead of it.
fn tone(word: &str) -> &'static str {
    match word {
        "active" | "done" | "applied" | "ok" | "live" | "closed" | "enabled" | "published" | "included" | "recorded" | "sent" => "good",
        "silent" | "failed" | "fault" | "dead" | "push_dead" | "overdue" | "unauthorized" | "quarantined" | "revoked" | "open"
        | "missing" => "bad",
        "idle" | "not_now" | "expired" | "paused" | "pending_approval" | "awaiting_approval" | "held" | "disabled" | "unconfigured"
        | "device_silent" | "no_push_address" | "push_unconfigured" | "acknowledged" | "exhausted" | "late" | "excluded" => "warn",
        "queued" | "delivered" | "received" | "running" | "expanding" | "pending" | "expected" | "draft" | "awaiting_contact" => "busy",
        _ => "plain",
    }
}

/// A state as text with a colour.
#[derive(Clone, Debug)]
pub struct Badge(String);

impl Badge {
    pub fn of(word: &str) -> Badge {
        Badge(word.to_owned())
    }
}

impl HtmlSafe for Badge {}

impl Display for Badge {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "<span class=\"badge {}\">{}</span>", tone(&self.0), escape(&words(&self.0)))
    }
}

/// A bar of counts by state, with a legend that says the same in words.
#[derive(Clone, Debug, Default)]
pub struct Bar(pub Vec<(String, i64)>);

/// The order of states along a bar: what is at its end first, what waits last.
const ALONG: [&str; 15] = [
    "applied",
    "done",
    "failed",
    "expired",
    "cancelled",
    "superseded",
    "held",
    "running",
    "received",
    "delivered",
    "not_now",
    "awaiting_approval",
    "pending",
    "queued",
    "",
];

impl Bar {
    /// A bar of counts by state.
    pub fn of(counts: &BTreeMap<String, i64>) -> Bar {
        let mut counts: Vec<(String, i64)> = counts.iter().map(|(state, n)| (state.clone(), *n)).collect();
        counts.sort_by_key(|(state, _)| ALONG.iter().position(|word| word == state).unwrap_or(ALONG.len()));
        Bar(counts)
    }

    pub fn total(&self) -> i64 {
        self.0.iter().map(|(_, n)| n).sum()
    }
}

impl HtmlSafe for Bar {}

impl Display for Bar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let total = self.total();
        if total == 0 {
            return f.write_str("<span class=\"dim\">none yet</span>");
        }
        // Widths are attributes of an SVG: a style attribute would need a laxer content-security-policy.
        f.write_str("<svg class=\"bar\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">")?;
        let mut x = 0;
        for (state, n) in self.0.iter().filter(|(_, n)| *n > 0) {
            let width = (n * 1000 / total).max(4);
            write!(f, "<rect class=\"{}\" x=\"{x}\" y=\"0\" width=\"{width}\" height=\"10\"/>", tone(state))?;
            x += width;
        }
        f.write_str("</svg><ul class=\"legend\">")?;
        for (state, n) in self.0.iter().filter(|(_, n)| *n > 0) {
            write!(f, "<li><span class=\"dot {}\"></span>{} <b>{}</b></li>", tone(state), escape(&words(state)), number(*n))?;
        }
        f.write_str("</ul>")
    }
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// 1234567 as "1,234,567".
pub fn number(n: i64) -> String {
    let digits = n.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if n < 0 {
        out.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A stored word in plain words: `usb_debugging_changed` as "USB debugging changed".
pub fn words(word: &str) -> String {
    word.replace(['_', '.'], " ").replace("usb ", "USB ").replace("mdm ", "MDM ")
}

/// The first letter large, for the beginning of a line.
pub fn sentence(word: &str) -> String {
    let words = words(word);
    let mut chars = words.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

/// Why a task waits, said so that it is clear what will end the waiting.
pub fn reason(word: &str) -> &'static str {
    match word {
        "awaiting_contact" => "waits for the device to come in",
        "push_unconfigured" => "no push credential is set up; the device comes at its next three-hour point",
        "push_dead" => "the push address is dead until the device registers again",
        "no_push_address" => "the device has told no push address; it comes by itself",
        "device_silent" => "the device has been silent for days",
        "device_locked" => "the device is locked and asked to be left alone",
        "held_by_rollout" => "held by a rollout",
        "held_by_budget" => "above the budget for wipes and retirements; a second operator must approve it",
        "awaiting_approval" => "the device enrolled anew before its wipe came; an operator must decide",
        "device_unauthorized" => "the device may not go on; authorize it first",
        _ => "waits",
    }
}

/// What says most of an entry, best first; the others follow in their own order.
const TELLING: [&str; 14] = [
    "kind",
    "outcome",
    "threat",
    "url",
    "key",
    "value",
    "enabled",
    "change",
    "profile",
    "due_at_ms",
    "days_overdue",
    "resolved",
    "code",
    "action",
];

/// Some members of a feed entry's data, in words.
pub fn members(data: &Value) -> String {
    let Some(object) = data.as_object() else { return String::new() };
    let mut out = String::new();
    let mut telling: Vec<(&String, &Value)> =
        object.iter().filter(|(key, _)| !matches!(key.as_str(), "id" | "seq" | "occurred_at_ms") && !key.ends_with("_id")).collect();
    telling.sort_by_key(|(key, _)| TELLING.iter().position(|word| *word == key.as_str()).unwrap_or(TELLING.len()));
    for (key, value) in telling.into_iter().take(MEMBERS_SHOWN) {
        let shown = match value {
            Value::String(text) if !text.is_empty() => text.clone(),
            Value::Number(n) if key.ends_with("_ms") => {
                let at = n.as_i64().and_then(DateTime::from_timestamp_millis).unwrap_or_default();
                at.format("%Y-%m-%d %H:%M UTC").to_string()
            }
            Value::Number(n) => n.to_string(),
            Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
            _ => continue,
        };
        let separator = if out.is_empty() { "" } else { ", " };
        let shown: String = shown.chars().take(MEMBER_CHARS_MAX).collect();
        let name = words(key.strip_suffix("_ms").unwrap_or(key));
        // Writing into a String does not fail.
        write!(out, "{separator}{name}: {shown}").ok();
    }
    out
}

/// The part of an actor's name that people use: `operator:anna` as "anna".
pub fn who(actor: &str) -> String {
    match actor.split_once(':') {
        Some(("operator", name)) => name.to_owned(),
        Some(("key", name)) => format!("key {name}"),
        _ => actor.to_owned(),
    }
}

/// A text of at most so many characters; an ellipsis says that there was more.
pub fn cut(text: String, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        Some((at, _)) => format!("{}\u{2026}", &text[..at]),
        None => text,
    }
}

/// Bytes in the unit that fits: "64 GB".
fn bytes(n: i64) -> String {
    const UNITS: [(&str, i64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    match UNITS.iter().find(|(_, unit)| n >= *unit) {
        Some((name, unit)) if n < 10 * unit => format!("{:.1} {name}", n as f64 / *unit as f64),
        Some((name, unit)) => format!("{} {name}", n / unit),
        None => format!("{n} bytes"),
    }
}

/// What a device told of itself, in words: the key says the unit.
pub fn fact(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::Array(list) if list.is_empty() => "none".into(),
        Value::Array(list) if list.len() > 3 || list.iter().any(|item| item.is_object() || item.is_array()) => {
            if list.len() == 1 {
                "1 entry".into()
            } else {
                format!("{} entries", list.len())
            }
        }
        Value::Array(list) => list.iter().map(|item| fact("", item)).collect::<Vec<_>>().join(", "),
        Value::Object(members) if members.is_empty() => "none".into(),
        Value::Number(n) if key.ends_with("_percent") => format!("{n} %"),
        Value::Number(n) => match n.as_i64() {
            Some(n) if key.ends_with("_bytes") => bytes(n),
            Some(at_ms) if key.ends_with("_ms") => {
                DateTime::from_timestamp_millis(at_ms).unwrap_or_default().format("%Y-%m-%d %H:%M:%S UTC").to_string()
            }
            _ => n.to_string(),
        },
        Value::String(text) => text.clone(),
        Value::Bool(value) => if *value { "yes" } else { "no" }.into(),
        other => other.to_string(),
    }
}

/// The name of a fact, without the unit that its value says.
pub fn fact_name(key: &str) -> String {
    words(["_percent", "_bytes", "_ms"].iter().find_map(|unit| key.strip_suffix(unit)).unwrap_or(key))
}

/// JSON for people to read.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators_and_times_have_one_unit() {
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(number(-1000), "-1,000");
        assert_eq!(number(12), "12");
        assert_eq!(relative(0, 7_200_000), "2 h ago");
        assert_eq!(relative(7_200_000, 0), "in 2 h");
        assert_eq!(relative(1000, 2000), "just now");
    }

    #[test]
    fn what_comes_from_outside_is_escaped_in_badges_and_bars() {
        let hostile = "<script>\"'";
        assert!(!Badge::of(hostile).to_string().contains("<script"));
        assert!(!Bar(vec![(hostile.into(), 1)]).to_string().contains("<script"));
    }

    #[test]
    fn a_fact_is_said_in_its_unit() {
        let said = |key: &str, value: Value| format!("{}: {}", fact_name(key), fact(key, &value));
        assert_eq!(said("storage_free_bytes", 64_300_000_000_i64.into()), "storage free: 64 GB");
        assert_eq!(said("storage_total_bytes", 1_280_000_000_000_i64.into()), "storage total: 1.3 TB");
        assert_eq!(said("battery_percent", 80.into()), "battery: 80 %");
        assert_eq!(said("profiles", serde_json::json!([{"a": 1}])), "profiles: 1 entry");
        assert_eq!(said("apps", serde_json::json!([])), "apps: none");
        assert_eq!(said("languages", serde_json::json!(["de", "en"])), "languages: de, en");
        assert_eq!(cut("x".repeat(1_000_000), 3), "xxx\u{2026}");
    }

    #[test]
    fn a_feed_entry_shows_a_few_members_in_words_and_no_ids() {
        let data = serde_json::json!({"id": "x", "device_id": "y", "due_at_ms": 0, "kind": "malware", "nested": {}, "on": true});
        assert_eq!(members(&data), "kind: malware, due at: 1970-01-01 00:00 UTC");
        let scan = serde_json::json!({"ended_at_ms": 0, "engine_version": "7", "items": 3, "outcome": "clean"});
        assert!(members(&scan).starts_with("outcome: clean"), "what it came to stands first");
    }
}
