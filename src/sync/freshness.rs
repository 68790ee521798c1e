//! When the directory confirmed what is in force, and what becomes of it when that is too long ago.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::config::{Config, TooOld};
use crate::x509::time::Timestamp;

/// The age of what is in force.
pub(super) struct Confirmed {
    max_age: Duration,
    too_old: TooOld,
    /// A wall clock's word for people, and an instant for its age, which no change of the wall clock
    /// makes jump.
    last: Option<(Timestamp, Instant)>,
    /// What is in force is withdrawn because it is too old.
    withdrawn: bool,
}

/// What the policy makes of what is too old.
pub(super) struct Expiry {
    /// In words, for the log.
    pub policy: &'static str,
    /// It was in force until now, and is to be withdrawn.
    pub withdraws: bool,
}

impl Confirmed {
    pub(super) fn new(config: &Config) -> Self {
        Self { max_age: config.max_age, too_old: config.too_old, last: None, withdrawn: false }
    }

    /// The directory confirmed it now.
    pub(super) fn confirm(&mut self, now: Timestamp) {
        self.last = Some((now, Instant::now()));
    }

    /// It was confirmed at `at`, in an earlier run.  True when the policy lets it be used.
    pub(super) fn restore(&mut self, at: Timestamp, now: Timestamp) -> bool {
        let age = now.since(at);
        let instant = Instant::now();
        // What is older than the machine's uptime cannot be placed before the clock's zero.
        self.last = Some((at, instant.checked_sub(age).unwrap_or(instant)));
        age < self.max_age || self.too_old == TooOld::Continue
    }

    /// When it was confirmed last.
    pub(super) fn at(&self) -> Option<Timestamp> {
        self.last.map(|(at, _)| at)
    }

    /// When it gets too old.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.last.and_then(|(_, at)| at.checked_add(self.max_age))
    }

    /// It is too old.
    pub(super) fn expire(&mut self) -> Expiry {
        match self.too_old {
            TooOld::Refuse => Expiry {
                policy: "in force no longer",
                withdraws: !std::mem::replace(&mut self.withdrawn, true),
            },
            TooOld::Continue => {
                Expiry { policy: "still in force, as the policy says", withdraws: false }
            }
        }
    }

    /// It is in force again; true when it was withdrawn.
    pub(super) fn put_back(&mut self) -> bool {
        std::mem::take(&mut self.withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp(1_767_225_600);

    fn confirmed(too_old: TooOld) -> Confirmed {
        Confirmed { max_age: DAY, too_old, last: None, withdrawn: false }
    }

    #[tokio::test(start_paused = true)]
    async fn age_counts_from_the_last_word_of_the_directory() {
        let mut age = confirmed(TooOld::Refuse);
        assert_eq!((age.at(), age.expires_at()), (None, None), "nothing is too old yet");
        tokio::time::advance(3 * DAY).await;
        let now = Instant::now();
        age.confirm(NOW);
        assert_eq!((age.at(), age.expires_at()), (Some(NOW), Some(now + DAY)));
        let yesterday = Timestamp(NOW.0 - 86_400 + 60);
        assert!(age.restore(yesterday, NOW), "a minute is left");
        assert_eq!((age.at(), age.expires_at()), (Some(yesterday), Some(now + DAY / 1440)));
        let ages_ago = Timestamp(0);
        assert!(!age.restore(ages_ago, NOW));
        assert!(confirmed(TooOld::Continue).restore(ages_ago, NOW), "as the policy says");
    }

    #[test]
    fn what_is_too_old_is_withdrawn_once_and_put_back() {
        let mut age = confirmed(TooOld::Refuse);
        assert!(!age.put_back());
        assert!(age.expire().withdraws);
        assert!(!age.expire().withdraws, "it is already");
        assert!(age.put_back());
        assert!(!age.put_back());
        let mut age = confirmed(TooOld::Continue);
        assert!(!age.expire().withdraws && !age.put_back());
    }
}
