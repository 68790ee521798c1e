//! Used assertions of one client: each assertion is accepted once (RFC 7523 section 3, `jti`).

use std::collections::{BTreeMap, BTreeSet};

use crate::token::assertion::AssertionError;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Used assertions of one client that are remembered until they expire, about 100 bytes each.
pub(crate) const MAX_REMEMBERED: usize = 16_384;

/// The used assertions of one client.
#[derive(Debug, Default)]
pub(crate) struct UsedAssertions {
    /// Expiry by the SHA-256 of the `jti`.
    expiries: BTreeMap<Fingerprint, Timestamp>,
    by_expiry: BTreeSet<(Timestamp, Fingerprint)>,
    /// Latest expiry among the removed entries.
    removed_until: Option<Timestamp>,
}

impl UsedAssertions {
    /// Rejects an assertion that was used.
    ///
    /// # Errors
    /// [`AssertionError::Replayed`].
    pub fn check(&self, jti: &str) -> Result<(), AssertionError> {
        match self.expiries.contains_key(&Fingerprint::of(jti.as_bytes())) {
            true => Err(AssertionError::Replayed),
            false => Ok(()),
        }
    }

    /// Records that a verified assertion is used at `now`.  From `expiry` on, its own claims must
    /// reject it.
    ///
    /// # Errors
    /// [`AssertionError::Replayed`], or [`AssertionError::Full`].
    pub fn record(
        &mut self,
        jti: &str,
        expiry: Timestamp,
        now: Timestamp,
    ) -> Result<(), AssertionError> {
        let id = Fingerprint::of(jti.as_bytes());
        while let Some(&(end, expired)) = self.by_expiry.first().filter(|(end, _)| *end <= now) {
            self.by_expiry.pop_first();
            self.expiries.remove(&expired);
            self.removed_until = self.removed_until.max(Some(end));
        }
        // After the clock was set back, a removed assertion must not be accepted again.
        if self.removed_until.is_some_and(|removed| expiry <= removed)
            || self.expiries.contains_key(&id)
        {
            return Err(AssertionError::Replayed);
        }
        if self.expiries.len() >= MAX_REMEMBERED {
            return Err(AssertionError::Full { limit: MAX_REMEMBERED });
        }
        self.expiries.insert(id, expiry);
        self.by_expiry.insert((expiry, id));
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
    fn accepts_an_assertion_once() {
        let mut used = UsedAssertions::default();
        assert_eq!(used.check("1"), Ok(()));
        assert_eq!(used.record("1", at(100), at(0)), Ok(()));
        assert_eq!(used.check("1"), Err(AssertionError::Replayed));
        assert_eq!(used.record("1", at(200), at(99)), Err(AssertionError::Replayed));
        // The first assertion has expired, so its `jti` may be used again.
        assert_eq!(used.record("1", at(300), at(100)), Ok(()));
        // Setting the clock back does not make the first one acceptable.
        assert_eq!(used.record("2", at(100), at(50)), Err(AssertionError::Replayed));
    }

    #[test]
    fn remembers_a_bounded_number() {
        let mut used = UsedAssertions::default();
        for n in 0..MAX_REMEMBERED {
            assert_eq!(used.record(&n.to_string(), at(100), at(0)), Ok(()));
        }
        assert_eq!(
            used.record("one more", at(100), at(99)),
            Err(AssertionError::Full { limit: MAX_REMEMBERED })
        );
        assert_eq!(used.record("one more", at(200), at(100)), Ok(()), "all others have expired");
        assert!(AssertionError::Full { limit: MAX_REMEMBERED }.to_string().contains("16384"));
    }

    proptest! {
        /// A list of all assertions ever used is the model.
        #[test]
        fn agrees_with_an_unbounded_list(
            uses in proptest::collection::vec((0u8..6, 1i64..20, 0i64..4), 0..60),
        ) {
            let (mut used, mut all, mut now) = (UsedAssertions::default(), Vec::new(), 0);
            for (id, life, pause) in uses {
                now += pause;
                let known = all.iter().any(|&(other, end)| other == id && end > now);
                let expiry = now + life;
                let recorded = used.record(&id.to_string(), at(expiry), at(now));
                prop_assert_eq!(recorded.is_err(), known);
                if !known {
                    all.push((id, expiry));
                }
            }
        }
    }
}
