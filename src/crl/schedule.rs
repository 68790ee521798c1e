//! When an address is looked at next.  Pure: the time, and what stands for chance, are arguments.

use std::time::Duration;

use crate::x509::crl::RevocationList;
use crate::x509::time::Timestamp;

/// Bounds of the intervals between two looks at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Shortest, and the first wait after a failure.
    pub min: Duration,
    /// Longest: how late an unscheduled list may be noticed.
    pub max: Duration,
    /// Between two looks at a file, which cost next to nothing.
    pub file: Duration,
}

/// The longest wait while no list is fresh, in shortest ones.
const URGENT: u32 = 10;

impl Default for Timing {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(30),
            max: Duration::from_secs(3600),
            file: Duration::from_secs(10),
        }
    }
}

/// What the list in force says of its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// thisUpdate.
    pub this_update: Timestamp,
    /// nextUpdate.
    pub next_update: Option<Timestamp>,
    /// Next-CRL-Publish.
    pub next_publish: Option<Timestamp>,
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

/// What the last look at an address brought.
#[derive(Debug, Clone, Copy)]
pub struct Looked {
    /// When it was.
    pub now: Timestamp,
    /// The list in force after it.
    pub times: Option<Times>,
    /// How long the answer may be taken for fresh (RFC 9111 section 4.2), where it says so.
    pub max_age: Option<Duration>,
    /// Looks in a row that brought nothing newer although it was due: errors, or the old list.
    pub in_vain: u32,
    /// How long the server asked to be left alone (RFC 9110 section 10.2.3).
    pub retry_after: Option<Duration>,
    /// A mounted file: no cache, no server to spare.
    pub is_file: bool,
    /// Spreads replicas and addresses; any number, another one each time.
    pub seed: u64,
}

/// When to look again.
///
/// A successor is expected at Next-CRL-Publish, or a tenth of the validity (at most an hour) before
/// nextUpdate.  Until then the address is looked at as often as its cache lifetime says, within the
/// bounds; from then on at the shortest interval, doubled each time in vain, or later if the server
/// asks for it.  The nearer nextUpdate is the shorter that may be: an issuer that publishes no sooner
/// than the last second must not cost an hour of refusals.
pub fn next_look(timing: &Timing, looked: &Looked) -> Timestamp {
    if looked.is_file {
        return looked.now.after(timing.file.max(Duration::from_secs(1)));
    }
    let backed_off = back_off(timing, looked.in_vain)
        .max(looked.retry_after.unwrap_or_default())
        .min(longest_in_vain(timing, looked))
        .max(timing.min);
    let expected = looked.times.and_then(|times| expected(&times)).filter(|at| *at > looked.now);
    let wait = match (looked.in_vain, expected) {
        (0, Some(at)) => {
            let regular = looked.max_age.unwrap_or(timing.max).clamp(timing.min, timing.max);
            regular.min(at.since(looked.now).max(timing.min))
        }
        (0, None) if looked.times.is_some_and(|times| times.next_update.is_none()) => {
            looked.max_age.unwrap_or(timing.max).clamp(timing.min, timing.max)
        }
        _ => backed_off,
    };
    // Later by up to a tenth, never earlier: a list is not there before it is published.
    let spread = wait.as_millis().saturating_mul(u128::from(mix(looked.seed) % 1000)) / 10_000;
    let spread = Duration::from_millis(u64::try_from(spread).unwrap_or(u64::MAX));
    looked.now.after((wait + spread).max(Duration::from_secs(1)))
}

/// True when a newer list should have been there: an unchanged one is looked for again soon.
pub fn is_overdue(times: &Times, now: Timestamp) -> bool {
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

fn back_off(timing: &Timing, in_vain: u32) -> Duration {
    let factor = 1u32.checked_shl(in_vain.saturating_sub(1)).unwrap_or(u32::MAX);
    timing.min.saturating_mul(factor).clamp(timing.min, timing.max.max(timing.min))
}

/// The longest wait after a look in vain, by how far off nextUpdate is.  While no list is fresh,
/// devices are refused for want of one.
fn longest_in_vain(timing: &Timing, looked: &Looked) -> Duration {
    let urgent = timing.min.saturating_mul(URGENT).min(timing.max);
    match looked.times.map(|times| times.next_update) {
        None => urgent,
        Some(None) => timing.max,
        Some(Some(end)) if end < looked.now => looked.now.since(end).min(urgent),
        Some(Some(end)) => (end.since(looked.now) / 2).min(timing.max),
    }
}

/// splitmix64's last steps: neighbouring seeds give unlike numbers.
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

    fn looked(next_update: i64, next_publish: Option<i64>) -> Looked {
        Looked {
            now: NOW,
            times: Some(Times {
                this_update: NOW,
                next_update: Some(Timestamp(NOW.0 + next_update)),
                next_publish: next_publish.map(|at| Timestamp(NOW.0 + at)),
            }),
            max_age: None,
            in_vain: 0,
            retry_after: None,
            is_file: false,
            seed: 0,
        }
    }

    fn wait(looked: &Looked) -> i64 {
        next_look(&Timing::default(), looked).0 - NOW.0
    }

    /// `at_least`, and at most a tenth later.
    fn assert_about(got: i64, at_least: i64) {
        assert!((at_least..=at_least + at_least / 10 + 1).contains(&got), "{got}, not {at_least}");
    }

    #[test]
    fn the_successor_is_expected_before_the_end() {
        assert_about(wait(&looked(1000, None)), 900);
        assert_about(wait(&looked(1000, Some(500))), 500);
        assert_about(wait(&looked(7 * DAY, None)), 3600);
        assert_about(wait(&looked(100, Some(1))), 30);
    }

    #[test]
    fn cache_headers_count_within_the_bounds() {
        let aged = |age| Looked { max_age: Some(Duration::from_secs(age)), ..looked(DAY, None) };
        assert_about(wait(&aged(600)), 600);
        assert_about(wait(&aged(0)), 30);
        assert_about(wait(&aged(1_000_000)), 3600);
        let short = Looked { max_age: Some(Duration::from_secs(5000)), ..looked(1000, None) };
        assert_about(wait(&short), 900);
    }

    #[test]
    fn looks_in_vain_back_off() {
        for (in_vain, seconds) in [(1, 30), (2, 60), (3, 120), (7, 1920), (8, 3600), (99, 3600)] {
            assert_about(wait(&Looked { in_vain, ..looked(DAY, None) }), seconds);
            // Nobody gets in meanwhile.
            let without = Looked { in_vain, times: None, ..looked(0, None) };
            assert_about(wait(&without), seconds.min(300));
        }
    }

    #[test]
    fn the_end_of_a_list_is_not_slept_through() {
        // In vain for long: the issuer publishes at nextUpdate, or later.
        for (next_update, seconds) in
            [(DAY, 3600), (3600, 1800), (200, 100), (10, 30), (-10, 30), (-120, 120), (-DAY, 300)]
        {
            let looked = Looked { in_vain: 20, ..looked(next_update, None) };
            assert_about(wait(&looked), seconds);
            // Nor because a server, or whoever answers for it, asks for that.
            let asked = Looked { retry_after: Some(Duration::from_secs(1 << 40)), ..looked };
            assert_about(wait(&asked), seconds);
        }
    }

    #[test]
    fn a_server_is_left_alone_for_as_long_as_it_asks() {
        let asks = |seconds| Looked {
            in_vain: 1,
            retry_after: Some(Duration::from_secs(seconds)),
            ..looked(DAY, None)
        };
        for (asked, seconds) in [(0, 30), (29, 30), (120, 120), (3600, 3600), (86_400, 3600)] {
            assert_about(wait(&asks(asked)), seconds);
        }
    }

    #[test]
    fn a_file_is_polled() {
        assert_eq!(wait(&Looked { is_file: true, in_vain: 5, ..looked(DAY, None) }), 10);
    }

    proptest! {
        #[test]
        fn the_next_look_is_within_the_bounds(
            next_update in -DAY..400 * DAY,
            publish in proptest::option::of(-DAY..400 * DAY),
            age in proptest::option::of(0u64..10_000_000),
            in_vain in 0u32..100,
            asked in proptest::option::of(any::<u64>()),
            seed: u64,
        ) {
            let max_age = age.map(Duration::from_secs);
            let retry_after = asked.map(Duration::from_secs);
            let looked = looked(next_update, publish);
            let got = wait(&Looked { max_age, in_vain, retry_after, seed, ..looked });
            prop_assert!((30..=3960).contains(&got), "{}", got);
        }
    }
}
