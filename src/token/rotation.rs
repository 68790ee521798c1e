//! The schedule by which signing keys rotate.
//!
//! ```text
//! created        signs_from                    next.signs_from       + retire_after
//!    |  published    |  signs (and published)        |   published         |  removed
//! ```
//!
//! # Design notes
//! The schedule is a pure function of the keys and the time.  Replicas that see the same keys and
//! whose clocks agree therefore sign with the same key without talking to each other.  A clock that
//! is wrong by less than `publish_ahead` selects a key that is already published.

use std::time::Duration;

use crate::x509::time::Timestamp;

/// Largest number of keys of one algorithm that may be published at a time.
pub(crate) const MAX_PUBLISHED: u64 = 32;

/// Times of a rotation, which [`Rotation::new`] has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation(Times);

/// Times of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Time between two keys.
    pub every: Duration,
    /// Time for which a key is published before it signs.
    pub publish_ahead: Duration,
    /// Time for which a key is published after it has signed its last token.
    pub retire_after: Duration,
}

/// Times that a rotation must respect.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Longest life of a token.
    pub longest_life: Duration,
    /// Time for which verifiers may cache the key set.
    pub cache: Duration,
    /// Longest time until every replica has seen a new key.
    pub spread: Duration,
}

/// Error of [`Rotation::new`]: the setting and the allowed values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct RotationError {
    /// Name of the setting.
    pub setting: &'static str,
    /// The value, and what is allowed.
    pub why: String,
}

/// Number and time of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTime {
    /// Position in the sequence of keys of one algorithm.
    pub number: u64,
    /// Time at which the key begins to sign.
    pub signs_from: Timestamp,
}

/// Use of the keys at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Number of the key that signs; `None` only if there are no keys.
    pub signs: Option<u64>,
    /// Numbers of the keys whose last token has expired.  They are no longer published.
    pub retired: Vec<u64>,
    /// Time from which a further key signs, if it is to be created now.
    pub create: Option<Timestamp>,
}

impl Rotation {
    /// Creates a schedule.
    ///
    /// # Errors
    /// A token could become unverifiable, or more than `MAX_PUBLISHED` keys would be published.
    pub fn new(times: Times, bounds: Bounds) -> Result<Self, RotationError> {
        let Times { every, publish_ahead, retire_after } = times;
        let Bounds { longest_life, cache, spread } = bounds;
        let error = |setting, why| Err(RotationError { setting, why });
        if publish_ahead < cache + spread {
            return error(
                "publish_ahead",
                format!(
                    "{publish_ahead:?} is shorter than {:?}: verifiers cache the key set for \
                     {cache:?}, and every replica publishes a new key within {spread:?}",
                    cache + spread
                ),
            );
        }
        if retire_after < longest_life {
            return error(
                "retire_after",
                format!("{retire_after:?} is shorter than the longest token, {longest_life:?}"),
            );
        }
        if every <= publish_ahead {
            let why = format!("{every:?} is not longer than publish_ahead, {publish_ahead:?}");
            return error("every", why);
        }
        let published = (retire_after.as_secs() + publish_ahead.as_secs()) / every.as_secs().max(1);
        if published + 2 > MAX_PUBLISHED {
            return error(
                "every",
                format!(
                    "{every:?} would publish {} keys of an algorithm at a time; at most \
                     {MAX_PUBLISHED} are allowed: rotate less often or lower retire_after",
                    published + 2
                ),
            );
        }
        Ok(Self(times))
    }

    /// Returns the time for which a key is published before it signs.
    pub fn publish_ahead(&self) -> Duration {
        self.0.publish_ahead
    }

    /// Returns the time at which the key before `next` is no longer published.
    pub(crate) fn published_until(&self, next: KeyTime) -> Timestamp {
        next.signs_from.after(self.0.retire_after)
    }

    /// Decides the use of `keys`, which are sorted by number, at the time `now`.
    pub fn plan(&self, keys: &[KeyTime], now: Timestamp) -> Plan {
        let Some(newest) = keys.last() else {
            // Nothing can be announced ahead of the first key.
            return Plan { signs: None, retired: Vec::new(), create: Some(now) };
        };
        // If no key's time has come, because a clock was set back or a key was revoked, the oldest
        // one signs: it has been published for the longest time.
        let signs = keys.iter().rev().find(|key| key.signs_from <= now).unwrap_or(&keys[0]);
        let retired = keys.windows(2).filter(|pair| {
            // The next key that signed or will sign ends the use of a key.
            let ended = self.published_until(pair[1]);
            pair[0].number < signs.number && ended <= now
        });
        let due = newest.signs_from.after(self.0.every);
        let earliest = now.after(self.0.publish_ahead);
        Plan {
            signs: Some(signs.number),
            retired: retired.map(|pair| pair[0].number).collect(),
            create: (due <= earliest).then_some(due.max(earliest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const START: i64 = 1_000_000;

    fn rotation(every: u64, ahead: u64, retire: u64) -> Rotation {
        let [every, ahead, retire] = [every, ahead, retire].map(Duration::from_secs);
        let times = Times { every, publish_ahead: ahead, retire_after: retire };
        let bounds = Bounds { longest_life: SECOND, cache: SECOND, spread: SECOND };
        Rotation::new(times, bounds).expect("a schedule")
    }

    fn keys(times: &[(u64, i64)]) -> Vec<KeyTime> {
        times.iter().map(|&(number, at)| KeyTime { number, signs_from: Timestamp(at) }).collect()
    }

    #[test]
    fn publishes_then_signs_then_retires() {
        let rotation = rotation(100, 10, 30);
        assert_eq!(rotation.plan(&[], Timestamp(0)).create, Some(Timestamp(0)));
        let one = keys(&[(1, 0)]);
        assert_eq!(rotation.plan(&one, Timestamp(89)).create, None);
        assert_eq!(rotation.plan(&one, Timestamp(90)).create, Some(Timestamp(100)));
        let two = keys(&[(1, 0), (2, 100)]);
        assert_eq!(rotation.plan(&two, Timestamp(99)).signs, Some(1));
        assert_eq!(rotation.plan(&two, Timestamp(100)).signs, Some(2));
        assert_eq!(rotation.plan(&two, Timestamp(129)).retired, [0; 0]);
        assert_eq!(rotation.plan(&two, Timestamp(130)).retired, [1]);
    }

    /// After a long stop the next key is announced first, and the old one signs until then.
    #[test]
    fn announces_an_overdue_key_before_it_signs() {
        let plan = rotation(100, 10, 30).plan(&keys(&[(1, 0)]), Timestamp(5_000));
        assert_eq!((plan.signs, plan.create), (Some(1), Some(Timestamp(5_010))));
    }

    #[test]
    fn a_revoked_key_is_replaced_by_a_published_one() {
        let rotation = rotation(100, 10, 30);
        // The key that signed was revoked: the previous one signs again, then the next one.
        let plan = rotation.plan(&keys(&[(1, 0), (3, 200)]), Timestamp(150));
        assert_eq!(plan.signs, Some(1));
        let plan = rotation.plan(&keys(&[(3, 200)]), Timestamp(150));
        assert_eq!(plan.signs, Some(3), "the only published key signs before its time");
    }

    #[test]
    fn rejects_times_that_could_make_a_token_unverifiable() {
        let new = |every, ahead, retire| {
            let [every, ahead, retire] = [every, ahead, retire].map(Duration::from_secs);
            let times = Times { every, publish_ahead: ahead, retire_after: retire };
            let bounds =
                Bounds { longest_life: 60 * SECOND, cache: 300 * SECOND, spread: 5 * SECOND };
            Rotation::new(times, bounds).map_err(|error| error.setting)
        };
        assert!(new(3_000, 305, 60).is_ok());
        assert_eq!(new(3_000, 304, 60), Err("publish_ahead"));
        assert_eq!(new(3_000, 305, 59), Err("retire_after"));
        assert_eq!(new(305, 305, 60), Err("every"));
        assert_eq!(new(306, 305, 306 * 40), Err("every"), "too many keys");
    }

    proptest! {
        /// Two replicas with clocks that differ, and pauses of any length, run the schedule on the
        /// same keys.  Whatever signs was published everywhere for `publish_ahead` before (except
        /// the first key), and every key stays published until the last of its tokens has expired.
        #[test]
        fn every_token_is_verifiable_for_its_whole_life(
            every in 50u64..200,
            ahead in 10u64..40,
            retire in 10u64..120,
            skew in 0i64..5,
            pauses in proptest::collection::vec((1i64..20, any::<bool>(), 0u8..50), 200..400),
        ) {
            let rotation = rotation(every, ahead, retire);
            let mut keys: Vec<KeyTime> = Vec::new();
            // When each key was published, and when it last signed.
            let mut published = BTreeMap::new();
            let mut last_use: BTreeMap<u64, i64> = BTreeMap::new();
            let mut now = START;
            for (pause, is_second, long) in pauses {
                now += if long == 0 { pause * 100 } else { pause };
                let clock = Timestamp(if is_second { now + skew } else { now });
                let plan = rotation.plan(&keys, clock);
                if let Some(signs_from) = plan.create {
                    let number = keys.last().map_or(1, |key| key.number + 1);
                    keys.push(KeyTime { number, signs_from });
                    published.insert(number, now);
                }
                let plan = rotation.plan(&keys, clock);
                prop_assert_eq!(plan.create, None, "one key at a time");
                let signs = plan.signs.expect("a key");
                if signs > 1 {
                    let ahead = i64::try_from(ahead).expect("small") - skew;
                    prop_assert!(now - published[&signs] >= ahead, "signs too early");
                }
                last_use.insert(signs, now);
                let life = i64::try_from(retire).expect("small") - skew;
                for number in &plan.retired {
                    prop_assert!(*number != signs);
                    let used = last_use.get(number).copied().unwrap_or(START);
                    prop_assert!(now - used >= life, "retired while its tokens live");
                }
                keys.retain(|key| !plan.retired.contains(&key.number));
                prop_assert!(keys.len() as u64 <= MAX_PUBLISHED);
                prop_assert!(keys.windows(2).all(|pair| pair[0].signs_from < pair[1].signs_from));
            }
        }
    }
}
