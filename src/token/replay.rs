//! Which assertions were used: each may be once (RFC 7523 section 3, `jti`).
//!
//! Kept in this process's memory.  Replicas do not tell each other, so an assertion that is stolen
//! while it is on its way could be used once at each of them for as long as it lives, and once more after
//! a restart.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use crate::token::assertion::AssertionError;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Assertions of one client that are remembered at once, each until it ends; some 100 bytes each.
pub const MAX_REMEMBERED: usize = 16_384;

/// The assertions that were used, client by client: a client that uses too many hinders itself alone.
#[derive(Debug, Default)]
pub struct Replays {
    by_client: HashMap<String, Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    /// The end of each, by the SHA-256 of its `jti`.
    ends: HashMap<Fingerprint, Timestamp>,
    in_order: BTreeSet<(Timestamp, Fingerprint)>,
    /// All that ended by then is forgotten.
    forgotten: Option<Timestamp>,
}

impl Replays {
    /// Nothing was used yet by these clients, the only ones there are.
    pub fn new<'a>(clients: impl IntoIterator<Item = &'a str>) -> Self {
        let used = |id: &str| (id.to_owned(), Mutex::default());
        Self { by_client: clients.into_iter().map(used).collect() }
    }

    /// Refuses an assertion that was used; what costs nothing is asked before what does.
    ///
    /// # Errors
    /// [`AssertionError::Replayed`].
    pub fn look(&self, client: &str, jti: &str) -> Result<(), AssertionError> {
        self.with(client, |used| match used.ends.contains_key(&Fingerprint::of(jti.as_bytes())) {
            true => Err(AssertionError::Replayed),
            false => Ok(()),
        })
    }

    /// Notes that a good assertion is used now; of two at once one is refused.  It must not be
    /// accepted from `until` on for its own reasons.
    ///
    /// # Errors
    /// [`AssertionError::Replayed`], or [`AssertionError::Full`].
    pub fn note(
        &self,
        client: &str,
        jti: &str,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), AssertionError> {
        self.with(client, |used| used.note(Fingerprint::of(jti.as_bytes()), until, now))
    }

    fn with(
        &self,
        client: &str,
        act: impl FnOnce(&mut Used) -> Result<(), AssertionError>,
    ) -> Result<(), AssertionError> {
        // A client that is not known here uses no assertions.
        let used = self.by_client.get(client).ok_or(AssertionError::Issuer)?;
        // What a panic could interrupt leaves at worst an entry too many.
        act(&mut used.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Used {
    fn note(
        &mut self,
        id: Fingerprint,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<(), AssertionError> {
        while let Some(&(end, ended)) = self.in_order.first().filter(|(end, _)| *end <= now) {
            self.in_order.pop_first();
            self.ends.remove(&ended);
            self.forgotten = self.forgotten.max(Some(end));
        }
        // A clock that was put back must not bring back what is forgotten.
        if self.forgotten.is_some_and(|forgotten| until <= forgotten) || self.ends.contains_key(&id)
        {
            return Err(AssertionError::Replayed);
        }
        if self.ends.len() >= MAX_REMEMBERED {
            return Err(AssertionError::Full { limit: MAX_REMEMBERED });
        }
        self.ends.insert(id, until);
        self.in_order.insert((until, id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds)
    }

    #[test]
    fn an_assertion_is_used_once() {
        let replays = Replays::new(["a", "b"]);
        assert_eq!(replays.look("a", "1"), Ok(()));
        assert_eq!(replays.note("a", "1", at(100), at(0)), Ok(()));
        assert_eq!(replays.look("a", "1"), Err(AssertionError::Replayed));
        assert_eq!(replays.note("a", "1", at(200), at(99)), Err(AssertionError::Replayed));
        assert_eq!(replays.note("b", "1", at(100), at(0)), Ok(()), "another client's");
        assert_eq!(replays.note("c", "1", at(100), at(0)), Err(AssertionError::Issuer));
        // By then it has ended, and its name is free.
        assert_eq!(replays.note("a", "1", at(300), at(100)), Ok(()));
        // A clock that is put back does not bring the first one back.
        assert_eq!(replays.note("a", "2", at(100), at(50)), Err(AssertionError::Replayed));
    }

    #[test]
    fn what_is_remembered_is_bounded_for_each_client() {
        let replays = Replays::new(["a", "b"]);
        for n in 0..MAX_REMEMBERED {
            assert_eq!(replays.note("a", &n.to_string(), at(100), at(0)), Ok(()));
        }
        assert_eq!(
            replays.note("a", "one more", at(100), at(99)),
            Err(AssertionError::Full { limit: MAX_REMEMBERED })
        );
        assert_eq!(replays.note("b", "one more", at(100), at(99)), Ok(()));
        assert_eq!(replays.note("a", "one more", at(200), at(100)), Ok(()), "all have ended");
        assert!(AssertionError::Full { limit: MAX_REMEMBERED }.to_string().contains("16384"));
    }

    proptest! {
        /// As a list of everything that was ever used would decide it.
        #[test]
        fn it_decides_as_a_list_of_all_would(
            uses in proptest::collection::vec((0u8..6, 1i64..20, 0i64..4), 0..60),
        ) {
            let (replays, mut all, mut now) = (Replays::new(["a"]), Vec::new(), 0);
            for (id, life, pause) in uses {
                now += pause;
                let known = all.iter().any(|&(other, end)| other == id && end > now);
                let until = now + life;
                let noted = replays.note("a", &id.to_string(), at(until), at(now));
                prop_assert_eq!(noted.is_err(), known);
                if !known {
                    all.push((id, until));
                }
            }
        }
    }
}
