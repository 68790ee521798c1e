//! When the directory confirmed what is in force, and what becomes of it when that is too long ago.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::time::Timestamp;
use crate::graph::{Config, TooOld};

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
