//! Durations that a peer states as a number of seconds.

use std::time::Duration;

/// Longest duration (RFC 9111 section 1.2.2).  A longer one counts as this one, so that no arithmetic with it
/// overflows.
pub(crate) const MAX_DELTA: Duration = Duration::from_secs(1 << 31);

/// Parses a number of seconds (RFC 9110 section 10.2.3, RFC 9111 section 1.2.2): digits only.
pub(crate) fn delta_seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Digits that do not fit are beyond the limit.
    Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)).min(MAX_DELTA))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_seconds_is_bounded() {
        assert_eq!(delta_seconds(" 60 "), Some(Duration::from_secs(60)));
        for long in ["2147483649", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(delta_seconds(long), Some(MAX_DELTA), "{long}");
        }
        for wrong in ["", "-1", "+1", "1.5", "1e9", "0x10", "soon", "6 0"] {
            assert_eq!(delta_seconds(wrong), None, "{wrong}");
        }
    }
}
