//! A bounded table of token buckets.
//!
//! # Design notes
//! A bucket is one number: the time at which it is full again (GCRA, the form of the token bucket
//! in ITU-T I.371).  A bucket that is full needs no entry, so entries become free by themselves, and
//! no task removes them.
//!
//! The table has a fixed size.  A key belongs to one set of eight entries with its own lock.  If all
//! eight are in use, the new bucket takes the place of the one that is nearest to full, which loses
//! the least.  The hash is seeded at random, so that peers cannot choose keys that meet in one set.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Entries in one set.
const WAYS: usize = 8;

/// At most `tokens` requests at once, and as many again in each `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Size of the bucket.
    pub tokens: u32,
    /// Time in which an empty bucket becomes full.
    pub per: Duration,
}

/// Buckets of one kind, all with the same rate.
pub(super) struct Buckets {
    /// Nanoseconds in which one token is refilled.
    interval: u64,
    /// Nanoseconds in which an empty bucket becomes full.
    window: u64,
    sets: Box<[Mutex<[Entry; WAYS]>]>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    key: u64,
    /// Time at which the bucket is full, in nanoseconds.
    full_at: u64,
}

/// A token that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    key: u64,
    /// Another bucket lost its state to make room for this one.
    pub displaced: bool,
}

impl Buckets {
    /// Creates a table of at least `entries` buckets, all full.
    pub(super) fn new(rate: Rate, entries: usize) -> Self {
        let interval = nanoseconds(rate.per) / u64::from(rate.tokens.max(1));
        let interval = interval.max(1);
        let sets = entries.div_ceil(WAYS).next_power_of_two();
        Self {
            interval,
            window: interval.saturating_mul(u64::from(rate.tokens)),
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one token from the bucket of `key` at `now`, a time since any fixed moment.
    ///
    /// # Errors
    /// The bucket is empty; the value is the time until it has a token.
    pub(super) fn take(&self, key: impl Hash, now: Duration) -> Result<Taken, Duration> {
        let (key, now) = (self.hasher.hash_one(key), nanoseconds(now));
        let mut set = self.set(key).lock().unwrap_or_else(PoisonError::into_inner);
        let (entry, displaced) = match set.iter_mut().position(|entry| entry.key == key) {
            Some(place) => (&mut set[place], false),
            None => {
                let entry = nearest_to_full(&mut set);
                let displaced = entry.full_at > now;
                (entry, displaced)
            }
        };
        let full_at = if entry.key == key { entry.full_at } else { 0 };
        let full_at = full_at.max(now).saturating_add(self.interval);
        let wait = full_at.saturating_sub(now.saturating_add(self.window));
        if wait > 0 {
            return Err(Duration::from_nanos(wait));
        }
        *entry = Entry { key, full_at };
        Ok(Taken { key, displaced })
    }

    /// Returns a token to its bucket.
    pub(super) fn give_back(&self, taken: Taken) {
        let mut set = self.set(taken.key).lock().unwrap_or_else(PoisonError::into_inner);
        // The bucket may have lost its state; then it is full.
        if let Some(entry) = set.iter_mut().find(|entry| entry.key == taken.key) {
            entry.full_at = entry.full_at.saturating_sub(self.interval);
        }
    }

    fn set(&self, key: u64) -> &Mutex<[Entry; WAYS]> {
        // The number of sets is a power of two, so that the remainder is a part of the hash.
        let place = usize::try_from(key % self.sets.len() as u64).unwrap_or(0);
        &self.sets[place]
    }
}

fn nearest_to_full(set: &mut [Entry; WAYS]) -> &mut Entry {
    let mut nearest = 0;
    for place in 1..WAYS {
        if set[place].full_at < set[nearest].full_at {
            nearest = place;
        }
    }
    &mut set[nearest]
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(tokens: u32, seconds: u64) -> Rate {
        Rate { tokens, per: Duration::from_secs(seconds) }
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_empty_bucket_tells_when_it_has_a_token() {
        let buckets = Buckets::new(rate(2, 10), 64);
        assert!(buckets.take("a", at(0)).is_ok());
        assert!(buckets.take("a", at(0)).is_ok());
        assert_eq!(buckets.take("a", at(0)), Err(at(5_000)));
        assert_eq!(buckets.take("a", at(4_999)), Err(at(1)));
        assert!(buckets.take("b", at(4_999)).is_ok(), "another key");
        assert!(buckets.take("a", at(5_000)).is_ok());
        assert_eq!(buckets.take("a", at(5_000)), Err(at(5_000)));
        // It never holds more than its size.
        for _ in 0..2 {
            assert!(buckets.take("a", at(1_000_000)).is_ok());
        }
        assert!(buckets.take("a", at(1_000_000)).is_err());
    }

    #[test]
    fn a_token_that_was_given_back_can_be_taken_again() {
        let buckets = Buckets::new(rate(1, 60), 64);
        let taken = buckets.take("a", at(0)).expect("full");
        assert!(buckets.take("a", at(0)).is_err());
        buckets.give_back(taken);
        assert!(buckets.take("a", at(0)).is_ok());
    }

    #[test]
    fn a_full_set_replaces_the_bucket_nearest_to_full() {
        // One set.
        let buckets = Buckets::new(rate(10, 10), WAYS);
        for key in 0..WAYS {
            for _ in 0..=key {
                assert!(!buckets.take(key, at(0)).expect("a token").displaced);
            }
        }
        assert!(buckets.take("new", at(0)).expect("a token").displaced);
        let left: Vec<_> = (1..WAYS)
            .map(|key| (0..10).filter(|_| buckets.take(key, at(0)).is_ok()).count())
            .collect();
        assert_eq!(left, (1..WAYS).map(|key| 9 - key).collect::<Vec<_>>());
        // Ten seconds later all are full, and a new one displaces none.
        assert!(!buckets.take("other", at(20_000)).expect("a token").displaced);
    }

    proptest! {
        /// Compares one bucket with a plain model: a number of tokens that grows with time.
        #[test]
        fn agrees_with_a_plain_token_bucket(
            tokens in 1..20u32,
            steps in proptest::collection::vec((0..3_000u64, any::<bool>()), 1..200),
        ) {
            // One token a second.
            let buckets = Buckets::new(rate(tokens, u64::from(tokens)), 64);
            let (mut now, mut milli_tokens) = (0, u64::from(tokens) * 1_000);
            for (pause, gives_back) in steps {
                now += pause;
                milli_tokens = (milli_tokens + pause).min(u64::from(tokens) * 1_000);
                match buckets.take(7, at(now)) {
                    Ok(taken) if gives_back => buckets.give_back(taken),
                    Ok(_) => {
                        prop_assert!(milli_tokens >= 1_000);
                        milli_tokens -= 1_000;
                    }
                    Err(wait) => prop_assert_eq!(at(1_000 - milli_tokens), wait),
                }
            }
        }

        /// However many keys there are, none gets more than its rate while it keeps its entry, and
        /// the table does not grow.
        #[test]
        fn never_grants_more_than_the_rate_without_displacing(
            requests in proptest::collection::vec((0..40u8, 0..200u64), 1..400),
        ) {
            let buckets = Buckets::new(rate(5, 5), 16);
            let (mut now, mut granted, mut displaced) = (0, [0u64; 40], false);
            for (key, pause) in requests {
                now += pause;
                if let Ok(taken) = buckets.take(key, at(now)) {
                    displaced |= taken.displaced;
                    granted[usize::from(key)] += 1;
                }
            }
            if !displaced {
                prop_assert!(granted.iter().all(|&granted| granted <= 5 + now / 1_000));
            }
            prop_assert_eq!(buckets.sets.len() * WAYS, 16);
        }
    }
}
