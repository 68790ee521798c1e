//! The time of the next fetch.  Pure: the time and the seed are arguments.

use std::time::Duration;

use crate::x509::crl::RevocationList;
use crate::x509::time::Timestamp;

/// Bounds of the intervals between two fetches from one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Shortest interval, and the first pause after a failure.
    pub min: Duration,
    /// Longest interval: an unscheduled list is noticed within it.
    pub max: Duration,
    /// Longest interval for servers that send neither ETag nor Last-Modified, so that each fetch
    /// transfers the whole list.
    pub max_unconditional: Duration,
    /// Interval for files, which cost next to nothing to check.
    pub file: Duration,
}

/// Longest pause while no list is fresh, as a multiple of [`Timing::min`].
const URGENT: u32 = 10;

impl Default for Timing {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(30),
            max: Duration::from_secs(300),
            max_unconditional: Duration::from_secs(3600),
            file: Duration::from_secs(10),
        }
    }
}

impl Timing {
    fn longest(&self, last: &FetchSummary) -> Duration {
        if last.is_conditional { self.max } else { self.max_unconditional }
    }
}

/// The times in a list that predict its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// thisUpdate.
    pub(super) this_update: Timestamp,
    /// nextUpdate.
    pub(super) next_update: Option<Timestamp>,
    /// Next-CRL-Publish.
    pub(super) next_publish: Option<Timestamp>,
}

impl From<&RevocationList> for Times {
    fn from(list: &RevocationList) -> Self {
        Self {
            this_update: list.this_update,
            next_update: list.next_update,
            next_publish: list.next_publish,
        }
    }
}

/// The facts about the last fetch that decide when the next one is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct FetchSummary {
    /// Time of the fetch.
    pub(super) now: Timestamp,
    /// Times of the list in force after it.
    pub(super) times: Option<Times>,
    /// Freshness lifetime of the response (RFC 9111 section 4.2), if it has one.
    pub(super) max_age: Option<Duration>,
    /// Consecutive fetches that returned no newer list although one was due: they failed, or returned
    /// the old list.
    pub(super) fruitless: u32,
    /// The server's Retry-After (RFC 9110 section 10.2.3).
    pub(super) retry_after: Option<Duration>,
    /// The address is a file, which has no cache and no server to spare.
    pub(super) is_file: bool,
    /// The list can be asked for with a conditional request (RFC 9110 section 13).
    pub(super) is_conditional: bool,
    /// Spreads replicas and addresses.  Any number, different for each fetch.
    pub(super) seed: u64,
}

/// Returns the time of the next fetch.
///
/// A successor is expected at Next-CRL-Publish, or a tenth of the validity (at most an hour) before
/// nextUpdate.  Until then the interval is the response's freshness lifetime, within the bounds.  From
/// then on it is the shortest interval, doubled with each fruitless fetch, or the server's Retry-After.
/// The closer nextUpdate is, the shorter the longest pause: an issuer that publishes at the last second
/// must not cause an hour of refusals.
pub(super) fn next_fetch(timing: &Timing, last: &FetchSummary) -> Timestamp {
    if last.is_file {
        return last.now.after(timing.file.max(Duration::from_secs(1)));
    }
    let max = timing.longest(last);
    let backed_off = back_off(timing.min, max, last.fruitless)
        .max(last.retry_after.unwrap_or_default())
        .min(longest_fruitless(timing, last))
        .max(timing.min);
    let expected = last.times.and_then(|times| expected(&times)).filter(|at| *at > last.now);
    let wait = match (last.fruitless, expected) {
        (0, Some(at)) => {
            let regular = last.max_age.unwrap_or(max).clamp(timing.min, max);
            regular.min(at.since(last.now).max(timing.min))
        }
        (0, None) if last.times.is_some_and(|times| times.next_update.is_none()) => {
            last.max_age.unwrap_or(max).clamp(timing.min, max)
        }
        _ => backed_off,
    };
    // Up to a tenth later, never earlier: a list does not exist before it is published.  The longest
    // interval includes this spread.
    let wait = wait.min(max * 10 / 11).max(timing.min);
    let spread = wait.as_millis().saturating_mul(u128::from(mix(last.seed) % 1000)) / 10_000;
    let spread = Duration::from_millis(u64::try_from(spread).unwrap_or(u64::MAX));
    last.now.after((wait + spread).min(max).max(Duration::from_secs(1)))
}

/// True if a newer list was due.  After an unchanged one, the next fetch follows soon.
pub(super) fn is_overdue(times: &Times, now: Timestamp) -> bool {
    expected(times).is_some_and(|at| at <= now)
}

fn expected(times: &Times) -> Option<Timestamp> {
    let published = times.next_publish.filter(|at| *at > times.this_update);
    published.or_else(|| {
        let next = times.next_update?;
        let overlap = next.since(times.this_update) / 10;
        let overlap = overlap.min(Duration::from_secs(3600));
        Some(Timestamp(next.0.saturating_sub(i64::try_from(overlap.as_secs()).unwrap_or(0))))
    })
}

fn back_off(min: Duration, max: Duration, fruitless: u32) -> Duration {
    let factor = 1u32.checked_shl(fruitless.saturating_sub(1)).unwrap_or(u32::MAX);
    min.saturating_mul(factor).clamp(min, max.max(min))
}

/// Longest pause after a fruitless fetch, by the distance to nextUpdate.  While no list is fresh,
/// devices are refused because their revocation status is unknown.
fn longest_fruitless(timing: &Timing, last: &FetchSummary) -> Duration {
    let max = timing.longest(last);
    let urgent = timing.min.saturating_mul(URGENT).min(max);
    match last.times.map(|times| times.next_update) {
        None => urgent,
        Some(None) => max,
        Some(Some(end)) if end < last.now => last.now.since(end).min(urgent),
        Some(Some(end)) => (end.since(last.now) / 2).min(max),
    }
}

/// The finalizer of splitmix64: neighbouring seeds yield unrelated numbers.
fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_767_225_600);
    const DAY: i64 = 86_400;

    fn summary(next_update: i64, next_publish: Option<i64>) -> FetchSummary {
        FetchSummary {
            now: NOW,
            times: Some(Times {
                this_update: NOW,
                next_update: Some(Timestamp(NOW.0 + next_update)),
                next_publish: next_publish.map(|at| Timestamp(NOW.0 + at)),
            }),
            max_age: None,
            fruitless: 0,
            retry_after: None,
            is_file: false,
            is_conditional: false,
            seed: 0,
        }
    }

    fn wait(summary: &FetchSummary) -> i64 {
        next_fetch(&Timing::default(), summary).0 - NOW.0
    }

    /// `at_least`, and at most a tenth later.  The longest interval includes that tenth.
    fn assert_about(got: i64, at_least: i64) {
        let at_least = if at_least == 3600 { 3600 * 10 / 11 } else { at_least };
        assert!((at_least..=at_least + at_least / 10 + 1).contains(&got), "{got}, not {at_least}");
    }

    #[test]
    fn a_list_that_is_cheap_to_ask_for_is_asked_for_often() {
        for seed in 0..100 {
            for (is_conditional, longest) in [(true, 300), (false, 3600)] {
                let fresh = FetchSummary { is_conditional, seed, ..summary(30 * DAY, None) };
                let failing = FetchSummary { fruitless: 99, ..fresh };
                let patient = FetchSummary { max_age: Some(Duration::from_secs(1 << 40)), ..fresh };
                for last in [fresh, failing, patient] {
                    let waits = (longest * 10 / 11)..=longest;
                    assert!(waits.contains(&wait(&last)), "{last:?}: {}", wait(&last));
                }
            }
        }
    }

    #[test]
    fn fetches_before_the_list_expires() {
        assert_about(wait(&summary(1000, None)), 900);
        assert_about(wait(&summary(1000, Some(500))), 500);
        assert_about(wait(&summary(7 * DAY, None)), 3600);
        assert_about(wait(&summary(100, Some(1))), 30);
    }

    #[test]
    fn follows_cache_headers_within_the_bounds() {
        let aged =
            |age| FetchSummary { max_age: Some(Duration::from_secs(age)), ..summary(DAY, None) };
        assert_about(wait(&aged(600)), 600);
        assert_about(wait(&aged(0)), 30);
        assert_about(wait(&aged(1_000_000)), 3600);
        let short =
            FetchSummary { max_age: Some(Duration::from_secs(5000)), ..summary(1000, None) };
        assert_about(wait(&short), 900);
    }

    #[test]
    fn backs_off_after_fruitless_fetches() {
        for (fruitless, seconds) in [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (99, 3600)] {
            assert_about(wait(&FetchSummary { fruitless, ..summary(DAY, None) }), seconds);
            // Without a list, devices are refused: the pause is shorter.
            let without = FetchSummary { fruitless, times: None, ..summary(0, None) };
            assert_about(wait(&without), seconds.min(300));
        }
    }

    #[test]
    fn does_not_pause_past_the_end_of_a_list() {
        // After many fruitless fetches: the issuer publishes at nextUpdate, or later.
        for (next_update, seconds) in
            [(DAY, 3600), (3600, 1800), (200, 100), (10, 30), (-10, 30), (-120, 120), (-DAY, 300)]
        {
            let summary = FetchSummary { fruitless: 20, ..summary(next_update, None) };
            assert_about(wait(&summary), seconds);
            // A Retry-After does not extend it: an attacker may answer in place of the server.
            let asked = FetchSummary { retry_after: Some(Duration::from_secs(1 << 40)), ..summary };
            assert_about(wait(&asked), seconds);
        }
    }

    #[test]
    fn obeys_retry_after_within_the_bounds() {
        let asks = |seconds| FetchSummary {
            fruitless: 1,
            retry_after: Some(Duration::from_secs(seconds)),
            ..summary(DAY, None)
        };
        for (asked, seconds) in [(0, 30), (29, 30), (120, 120), (3600, 3600), (86_400, 3600)] {
            assert_about(wait(&asks(asked)), seconds);
        }
    }

    #[test]
    fn polls_files_at_their_own_interval() {
        assert_eq!(wait(&FetchSummary { is_file: true, fruitless: 5, ..summary(DAY, None) }), 10);
    }

    proptest! {
        #[test]
        fn the_next_fetch_is_within_the_bounds(
            next_update in -DAY..400 * DAY,
            publish in proptest::option::of(-DAY..400 * DAY),
            age in proptest::option::of(0u64..10_000_000),
            fruitless in 0u32..100,
            asked in proptest::option::of(any::<u64>()),
            seed: u64,
        ) {
            let max_age = age.map(Duration::from_secs);
            let retry_after = asked.map(Duration::from_secs);
            let summary = summary(next_update, publish);
            let got = wait(&FetchSummary { max_age, fruitless, retry_after, seed, ..summary });
            prop_assert!((30..=3600).contains(&got), "{}", got);
        }
    }
}
