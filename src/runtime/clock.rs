//! The time of day, for every decision about certificates and tokens.
//!
//! A machine without a battery starts with a clock that is years behind, under which expired certificates
//! and tokens would be valid again.  No time before the release of this version is used.

use std::sync::Arc;
use std::time::SystemTime;

use crate::x509::time::Timestamp;

/// Version of the program, and a time before its release.  A new version gets a new time.
const RELEASE: (&str, Timestamp) = ("0.1.0", Timestamp(1_795_219_200));

/// A source of the time of day.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Returns the clock of the system.  It never shows a time before the release.
pub fn system() -> Clock {
    Arc::new(now)
}

/// Returns the time of day, or the time of the release if the clock is before it.
pub fn now() -> Timestamp {
    not_before_release(SystemTime::now().into())
}

/// Describes the fault if the clock of the system is before the release of this version.
pub fn problem() -> Option<String> {
    problem_of(SystemTime::now().into())
}

fn not_before_release(time: Timestamp) -> Timestamp {
    time.max(RELEASE.1)
}

fn problem_of(time: Timestamp) -> Option<String> {
    let (version, release) = RELEASE;
    (time < release).then(|| {
        format!(
            "the system clock ({time}) is before the release of version {version}: certificates and \
             tokens are judged by {release} until the clock is set"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_before_the_release_is_used() {
        let (version, release) = RELEASE;
        assert_eq!(version, env!("CARGO_PKG_VERSION"), "set the time of the new version");
        let later = Timestamp(release.0 + 1);
        for (time, used) in [(Timestamp(0), release), (release, release), (later, later)] {
            assert_eq!(not_before_release(time), used);
            assert_eq!(problem_of(time).is_some(), time < release);
        }
        assert!(now() >= release);
    }
}
