//! When a directory is asked again.

use std::sync::Arc;
use std::time::Duration;

use crate::runtime::random::jitter;
use crate::x509::time::Timestamp;

/// Tells the time of day; an argument, so that tests can say what it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The publisher is gone: there is nobody to work for.
pub(super) struct Ended;

/// The least time between two polls of a directory that lets readers wait: it may answer at once.
pub(super) const GAP: Duration = Duration::from_secs(1);
/// The bound of the first pause after a failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures, unless polls are further apart.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Until the next poll after `failures` in a row: no less than the directory `asked` for.
pub(super) fn pause_after(failures: u32, every: Duration, asked: Option<Duration>) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // Half a second more: jitter may be nothing at all.
    let pause = jitter(doubled.min(LONGEST_PAUSE.max(every))) + Duration::from_millis(500);
    asked.map_or(pause, |asked| asked.max(pause))
}

/// A tenth more or less than the configured interval.
pub(super) fn interval(every: Duration) -> Duration {
    every - every / 10 + jitter(every / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const HALF: Duration = Duration::from_millis(500);

    #[test]
    fn pauses_grow_with_failures_and_keep_what_the_directory_asks_for() {
        for _ in 0..100 {
            for failures in 0..70_u32 {
                let bound = FIRST_PAUSE * (1 << failures.saturating_sub(1).min(16));
                let pause = pause_after(failures, HOUR, None);
                assert!((HALF..=bound.min(HOUR) + HALF).contains(&pause), "{failures}: {pause:?}");
                let pause = pause_after(failures, FIRST_PAUSE, None);
                assert!(pause <= LONGEST_PAUSE + HALF, "{failures}: {pause:?}");
            }
            assert!(pause_after(1, HOUR, Some(HOUR)) == HOUR);
            assert!(pause_after(1, HOUR, Some(Duration::ZERO)) >= HALF);
        }
    }

    #[test]
    fn gateways_do_not_ask_all_at_once() {
        let times: Vec<_> = (0..100).map(|_| interval(HOUR)).collect();
        assert!(times.iter().all(|time| (HOUR * 9 / 10..=HOUR * 11 / 10).contains(time)));
        assert!(times.iter().any(|time| time != &times[0]));
    }
}
