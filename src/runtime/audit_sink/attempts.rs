//! Attempts to write, and the time of a message.

use std::io;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Pause before another attempt to write to a sink that fails.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// Runs `attempt` until it succeeds, with pauses.  The first failure is logged.
pub(super) fn until_done(mut attempt: impl FnMut() -> io::Result<()>) {
    let mut is_reported = false;
    while let Err(error) = attempt() {
        if !std::mem::replace(&mut is_reported, true) {
            tracing::warn!(%error, "audit sink not writable; trying again every {PAUSE:?}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// A time in RFC 3339 with at most microseconds, which RFC 5424 also accepts.
pub(super) fn timestamp(now: SystemTime) -> String {
    let now = OffsetDateTime::from(now);
    let now = now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now);
    // Years up to 9999 can be formatted.
    now.format(&Rfc3339).unwrap_or_else(|_| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_at_most_microseconds() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_800_000_000_123_456_789);
        assert_eq!(timestamp(at), "2027-01-15T08:00:00.123456Z");
        let whole = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(timestamp(whole), "2027-01-15T08:00:00Z");
    }

    #[test]
    fn tries_again_until_it_succeeds() {
        let mut left = 1;
        until_done(|| match left {
            0 => Ok(()),
            _ => {
                left -= 1;
                Err(io::ErrorKind::StorageFull.into())
            }
        });
        assert_eq!(left, 0);
    }
}
