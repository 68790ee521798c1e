//! Age of the data in force, and the policy for data that is too old.

use std::time::Duration;

use tokio::time::Instant;

use crate::sync::config::{Config, TooOld};
use crate::x509::time::Timestamp;

/// Age of the data in force.
pub(super) struct Freshness {
    max_age: Duration,
    too_old: TooOld,
    /// Last confirmation by the directory: the wall-clock time for people, and an instant for the age,
    /// which changes of the wall clock do not affect.
    confirmed: Option<(Timestamp, Instant)>,
    /// The data is not in force because it is too old.
    withdrawn: bool,
}

/// The consequence of an expiry.
pub(super) struct Expiry {
    /// Description for the log.
    pub(super) effect: &'static str,
    /// The data was in force until now and must be withdrawn.
    pub(super) withdraw: bool,
}

impl Freshness {
    pub(super) fn new(config: &Config) -> Self {
        Self { max_age: config.max_age, too_old: config.too_old, confirmed: None, withdrawn: false }
    }

    /// Notes that the directory confirmed the data at `now`.
    pub(super) fn confirm(&mut self, now: Timestamp) {
        self.confirmed = Some((now, Instant::now()));
    }

    /// Notes that the directory confirmed the data at `at`, in an earlier run.  Returns true if the
    /// policy allows its use.
    pub(super) fn restore(&mut self, at: Timestamp, now: Timestamp) -> bool {
        let age = now.since(at);
        let instant = Instant::now();
        // An instant before the start of the machine cannot be represented.
        self.confirmed = Some((at, instant.checked_sub(age).unwrap_or(instant)));
        age < self.max_age || self.too_old == TooOld::Continue
    }

    /// Time of the last confirmation.
    pub(super) fn confirmed_at(&self) -> Option<Timestamp> {
        self.confirmed.map(|(at, _)| at)
    }

    /// Instant at which the data becomes too old.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.confirmed.and_then(|(_, at)| at.checked_add(self.max_age))
    }

    /// Applies the policy to data that is too old.
    pub(super) fn expire(&mut self) -> Expiry {
        match self.too_old {
            TooOld::Refuse => Expiry {
                effect: "no longer in force (`too_old` is `refuse`)",
                withdraw: !std::mem::replace(&mut self.withdrawn, true),
            },
            TooOld::Continue => {
                Expiry { effect: "still in force (`too_old` is `continue`)", withdraw: false }
            }
        }
    }

    /// True if the data is not in force until the directory confirms it.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    /// Notes that the data is not in force until the directory confirms it.
    pub(super) fn withdraw(&mut self) {
        self.withdrawn = true;
    }

    /// Notes that the data is in force.  Returns true if it was withdrawn before.
    pub(super) fn reinstate(&mut self) -> bool {
        std::mem::take(&mut self.withdrawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: Timestamp = Timestamp(1_767_225_600);

    fn freshness(too_old: TooOld) -> Freshness {
        Freshness { max_age: DAY, too_old, confirmed: None, withdrawn: false }
    }

    #[tokio::test(start_paused = true)]
    async fn age_counts_from_the_last_confirmation() {
        let mut age = freshness(TooOld::Refuse);
        assert_eq!((age.confirmed_at(), age.expires_at()), (None, None), "nothing is too old yet");
        tokio::time::advance(3 * DAY).await;
        let now = Instant::now();
        age.confirm(NOW);
        assert_eq!((age.confirmed_at(), age.expires_at()), (Some(NOW), Some(now + DAY)));
        let yesterday = Timestamp(NOW.0 - 86_400 + 60);
        assert!(age.restore(yesterday, NOW), "a minute is left");
        let minute = DAY / 1440;
        assert_eq!((age.confirmed_at(), age.expires_at()), (Some(yesterday), Some(now + minute)));
        let long_ago = Timestamp(0);
        assert!(!age.restore(long_ago, NOW));
        assert!(freshness(TooOld::Continue).restore(long_ago, NOW), "allowed by the policy");
    }

    #[test]
    fn outdated_data_is_withdrawn_once_and_reinstated() {
        let mut age = freshness(TooOld::Refuse);
        assert!(!age.reinstate());
        assert!(age.expire().withdraw);
        assert!(!age.expire().withdraw, "it was withdrawn before");
        assert!(age.reinstate());
        assert!(!age.reinstate());
        let mut age = freshness(TooOld::Continue);
        assert!(!age.expire().withdraw && !age.reinstate());
    }
}
