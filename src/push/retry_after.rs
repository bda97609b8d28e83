//! The header Retry-After (RFC 9110, 10.2.3): seconds or a date.

use super::http_date;

/// What a provider may ask of us, in seconds.
const WAIT_S_MIN: i64 = 1;
const WAIT_S_MAX: i64 = 3_600;

/// The wait that `value` asks for in milliseconds, between 1 s and 1 h; `None` for what is neither seconds nor a date (also negative
/// seconds), which is then treated as absent.
pub fn wait_ms(value: &str, now_ms: i64) -> Option<i64> {
    Some(seconds(value, now_ms)?.clamp(WAIT_S_MIN, WAIT_S_MAX) * 1_000)
}

/// The seconds that `value` asks for, as they are: a date that is past gives a negative number, more digits than a number has the greatest.
/// `None` for what is neither.
pub fn seconds(value: &str, now_ms: i64) -> Option<i64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().unwrap_or(i64::MAX));
    }
    Some((http_date::at_ms(value)? - now_ms + 999).div_euclid(1_000))
}

#[cfg(test)]
mod tests {
    use super::wait_ms;

    #[test]
    fn every_form_is_understood_and_clamped() {
        let now_ms = 1_700_000_000_000; // Tue, 14 Nov 2023 22:13:20 GMT
        for (value, expected) in [
            ("30", Some(30_000)),
            (" 30 ", Some(30_000)),
            ("0", Some(1_000)),
            ("1000000000", Some(3_600_000)),
            ("99999999999999999999999", Some(3_600_000)),
            ("-5", None),
            ("", None),
            ("soon", None),
            ("1.5", None),
            ("Tue, 14 Nov 2023 22:14:20 GMT", Some(60_000)),
            ("Tue, 14 Nov 2023 22:00:00 GMT", Some(1_000)),
            ("Tue, 14 Nov 2033 22:00:00 GMT", None),
            ("Mon, 14 Nov 2033 22:00:00 GMT", Some(3_600_000)),
        ] {
            assert_eq!(wait_ms(value, now_ms), expected, "{value:?}");
        }
    }
}
