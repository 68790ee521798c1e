//! Decisions of the last hour, in memory: their numbers by minute, and the newest refusals.
//!
//! # Design notes
//! Every decision passes the emitter of audit records, which notes them here, whatever the log filter is.
//! Memory is bounded: 60 minutes of at most `CODES` codes, and `REFUSALS` refusals, whose texts the
//! emitter bounds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::x509::time::Timestamp;

/// Minutes that are kept.
pub(crate) const MINUTES: usize = 60;
/// Refusals that are kept.
pub(crate) const REFUSALS: usize = 50;
/// Codes that are counted apart in one minute.  Others count as [`OTHER`].
const CODES: usize = 64;
/// Code of refusals without a code, and of those beyond [`CODES`].
const OTHER: &str = "other";
/// Code of refusals that have no record of their own, because one address caused many.
pub(crate) const SUPPRESSED: &str = "suppressed";

/// The activity of this process.
pub(crate) static ACTIVITY: Activity = Activity::new();

/// Numbers of decisions by minute, and the newest refusals.
pub(crate) struct Activity(Mutex<State>);

struct State {
    /// Oldest first, without minutes in which nothing happened.
    minutes: VecDeque<Minute>,
    /// Newest first.
    refusals: VecDeque<Refused>,
}

struct Minute {
    /// Minutes since 1970.
    number: i64,
    issued: u64,
    refused: BTreeMap<Box<str>, u64>,
}

/// A refused handshake or token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Time of the decision.
    pub at: Timestamp,
    /// `handshake` or `token`.
    pub event: &'static str,
    /// Refusal code, or else the OAuth error, or empty.
    pub code: String,
    /// Explanation of this refusal.
    pub detail: String,
    /// Name of the client: subject ID, or subject name of the certificate.
    pub subject: String,
    /// `client_id` of the request.
    pub client_id: String,
    /// SHA-256 of the certificate.
    pub certificate: String,
    /// Address of the peer.
    pub address: String,
}

/// Numbers of the last [`MINUTES`] minutes, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Issued tokens.
    pub issued: [u64; MINUTES],
    /// Refusals by code, the most frequent first.
    pub refused: Vec<(String, [u64; MINUTES])>,
}

impl Activity {
    const fn new() -> Self {
        Self(Mutex::new(State { minutes: VecDeque::new(), refusals: VecDeque::new() }))
    }

    /// Counts a token that was issued at `now`.
    pub fn issued(&self, now: Timestamp) {
        self.lock().minute(now).issued += 1;
    }

    /// Counts refusals that have no record of their own.
    pub(crate) fn suppressed(&self, number: u64, now: Timestamp) {
        self.lock().minute(now).refuse(SUPPRESSED, number);
    }

    /// Counts and keeps a refusal.
    pub fn refused(&self, refused: Refused) {
        let mut state = self.lock();
        state.minute(refused.at).refuse(&refused.code, 1);
        state.refusals.truncate(REFUSALS - 1);
        state.refusals.push_front(refused);
    }

    /// Returns the numbers of the minutes up to `now`.
    pub(crate) fn traffic(&self, now: Timestamp) -> Traffic {
        let first = now.0.div_euclid(60) - (MINUTES as i64 - 1);
        let mut issued = [0; MINUTES];
        let mut refused = BTreeMap::<&str, [u64; MINUTES]>::new();
        let state = self.lock();
        for minute in &state.minutes {
            let place = usize::try_from(minute.number - first).ok().filter(|at| *at < MINUTES);
            let Some(place) = place else { continue };
            issued[place] = minute.issued;
            for (code, count) in &minute.refused {
                refused.entry(code).or_insert([0; MINUTES])[place] = *count;
            }
        }
        let refused = refused.into_iter().map(|(code, counts)| (code.to_owned(), counts));
        let mut refused: Vec<_> = refused.collect();
        refused.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<u64>()));
        Traffic { issued, refused }
    }

    /// Returns the newest refusals, newest first.
    pub fn refusals(&self) -> Vec<Refused> {
        self.lock().refusals.iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each statement leaves the state consistent, so a poisoned lock is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The minute of `now`, or the newest one if the clock was set back.
    fn minute(&mut self, now: Timestamp) -> &mut Minute {
        let number = now.0.div_euclid(60);
        if self.minutes.back().is_none_or(|newest| newest.number < number) {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back(Minute { number, issued: 0, refused: BTreeMap::new() });
        }
        let newest = self.minutes.len() - 1;
        &mut self.minutes[newest]
    }
}

impl Minute {
    fn refuse(&mut self, code: &str, number: u64) {
        let is_counted = self.refused.contains_key(code) || self.refused.len() < CODES;
        let code = if is_counted && !code.is_empty() { code } else { OTHER };
        match self.refused.get_mut(code) {
            Some(count) => *count += number,
            None => drop(self.refused.insert(code.into(), number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_030);

    fn refused(code: &str, at: Timestamp) -> Refused {
        let text = String::new;
        Refused {
            at,
            event: "token",
            code: code.to_owned(),
            detail: text(),
            subject: text(),
            client_id: text(),
            certificate: text(),
            address: text(),
        }
    }

    #[test]
    fn counts_by_minute_and_forgets_after_an_hour() {
        let activity = Activity::new();
        let at = |minutes: i64| Timestamp(NOW.0 + minutes * 60);
        activity.issued(at(0));
        activity.refused(refused("crl_stale", at(0)));
        for minute in [1, 59] {
            activity.issued(at(minute));
            activity.issued(at(minute));
            activity.refused(refused("policy", at(minute)));
        }
        activity.suppressed(7, at(59));
        activity.refused(refused("", at(59)));
        let traffic = activity.traffic(at(59));
        assert_eq!([0, 1, 2, 59].map(|at| traffic.issued[at]), [1, 2, 0, 2]);
        let totals: Vec<(&str, u64)> =
            traffic.refused.iter().map(|(code, counts)| (&**code, counts.iter().sum())).collect();
        assert_eq!(totals, [("suppressed", 7), ("policy", 2), ("crl_stale", 1), (OTHER, 1)]);
        let later = activity.traffic(at(60));
        assert_eq!([0, 58, 59].map(|at| later.issued[at]), [2, 2, 0]);
        assert_eq!(later.refused.len(), 3, "{later:?}");
        // A clock that was set back counts in the newest minute.
        activity.issued(at(30));
        assert_eq!(activity.traffic(at(59)).issued[59], 3);
        assert_eq!(activity.traffic(at(1000)).issued, [0; MINUTES]);
    }

    #[test]
    fn memory_is_bounded_whatever_peers_send() {
        let activity = Activity::new();
        for n in 0..200 {
            activity.refused(refused(&format!("code {n}"), Timestamp(NOW.0 + 60 * n)));
        }
        for n in 0..200 {
            activity.refused(refused(&format!("code {n}"), Timestamp(NOW.0 + 60 * 200)));
        }
        let state = activity.lock();
        assert_eq!((state.minutes.len(), state.refusals.len()), (MINUTES, REFUSALS));
        let last = &state.minutes[MINUTES - 1].refused;
        assert_eq!((last.len(), last[OTHER]), (CODES + 1, 200 - CODES as u64));
        assert_eq!(state.refusals[0].code, "code 199", "the newest is first");
    }
}
