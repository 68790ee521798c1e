//! Pauses between two fetches from a directory.

use std::time::Duration;

use crate::runtime::random::jitter;

/// Shortest pause between two polls of a directory with long polls: it may respond immediately.
pub(super) const LONG_POLL_PAUSE: Duration = Duration::from_secs(1);
/// Bound of the pause after the first failure.  It doubles with each further failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after failures, unless the poll interval is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Longest pause that a directory can demand, unless the poll interval is longer: removed anchors must
/// not stay trusted for as long as the directory likes.
const LONGEST_DEMAND: Duration = Duration::from_secs(3600);
/// Added to every pause after a failure, because jitter can be zero.
const LEAST_PAUSE: Duration = Duration::from_millis(500);

/// Returns the pause before the retry after `failures` consecutive failures.  It is at least
/// `retry_after`, which the directory demanded, up to an hour or `every`.
pub(super) fn retry_pause(
    failures: u32,
    every: Duration,
    retry_after: Option<Duration>,
) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = jitter(doubled.min(LONGEST_PAUSE.max(every))) + LEAST_PAUSE;
    let longest = LONGEST_DEMAND.max(every);
    retry_after.map_or(pause, |least| least.min(longest).max(pause))
}

/// Returns the pause before the next poll: `every`, varied by up to a tenth, so that the gateways of a
/// fleet do not poll at the same time.
pub(super) fn poll_pause(every: Duration) -> Duration {
    every - every / 10 + jitter(every / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn retry_pauses_grow_with_failures_and_obey_retry_after() {
        for _ in 0..100 {
            for failures in 0..70_u32 {
                let bound = FIRST_PAUSE * (1 << failures.saturating_sub(1).min(16));
                let pause = retry_pause(failures, HOUR, None);
                let allowed = LEAST_PAUSE..=bound.min(HOUR) + LEAST_PAUSE;
                assert!(allowed.contains(&pause), "{failures}: {pause:?}");
                let pause = retry_pause(failures, FIRST_PAUSE, None);
                assert!(pause <= LONGEST_PAUSE + LEAST_PAUSE, "{failures}: {pause:?}");
            }
            assert!(retry_pause(1, HOUR, Some(HOUR)) == HOUR);
            assert!(retry_pause(1, HOUR, Some(Duration::ZERO)) >= LEAST_PAUSE);
            assert_eq!(retry_pause(1, FIRST_PAUSE, Some(Duration::MAX)), HOUR);
            assert_eq!(retry_pause(1, 2 * HOUR, Some(Duration::MAX)), 2 * HOUR);
        }
    }

    #[test]
    fn poll_pauses_vary_by_a_tenth() {
        let pauses: Vec<_> = (0..100).map(|_| poll_pause(HOUR)).collect();
        assert!(pauses.iter().all(|pause| (HOUR * 9 / 10..=HOUR * 11 / 10).contains(pause)));
        assert!(pauses.iter().any(|pause| pause != &pauses[0]));
    }
}
