//! Dates in HTTP headers (RFC 9110, 5.6.7), in the one form that servers send.

use chrono::NaiveDateTime;
use http::HeaderMap;
use http::header::DATE;

/// Unix milliseconds of a date; `None` for anything else.
pub fn at_ms(value: &str) -> Option<i64> {
    let date = NaiveDateTime::parse_from_str(value, "%a, %d %b %Y %H:%M:%S GMT").ok()?;
    Some(date.and_utc().timestamp_millis())
}

/// How far our clock is ahead of that of who sent these headers, in milliseconds; `None` where they tell no time.
pub fn ahead_ms(headers: &HeaderMap, now_ms: i64) -> Option<i64> {
    Some(now_ms - at_ms(headers.get(DATE)?.to_str().ok()?)?)
}
