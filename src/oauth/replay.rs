//! The used assertions of all clients, shared by concurrent requests.
//!
//! # Design notes
//! The cache is in the memory of one process.  Replicas do not share it, so an assertion that is
//! stolen in transit can be used once at each replica until it expires, and once more after a
//! restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::token::assertion::AssertionError;
use crate::token::replay::UsedAssertions;
use crate::x509::time::Timestamp;

/// Used assertions by client.  A client that reaches its limit does not affect the others.
#[derive(Debug, Default)]
pub(super) struct ReplayCache {
    by_client: Mutex<HashMap<String, Arc<Mutex<UsedAssertions>>>>,
}

impl ReplayCache {
    /// Rejects an assertion that was used.  Call it before the expensive checks.
    pub(super) fn check(&self, client: &str, jti: &str) -> Result<(), AssertionError> {
        self.with(client, |used| used.check(jti))
    }

    /// Records that a verified assertion is used.  Of two concurrent requests with the same
    /// assertion, one is rejected.
    pub(super) fn record(
        &self,
        client: &str,
        jti: &str,
        expiry: Timestamp,
        now: Timestamp,
    ) -> Result<(), AssertionError> {
        self.with(client, |used| used.record(jti, expiry, now))
    }

    fn with(
        &self,
        client: &str,
        apply: impl FnOnce(&mut UsedAssertions) -> Result<(), AssertionError>,
    ) -> Result<(), AssertionError> {
        let used = {
            let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
            match by_client.get(client) {
                Some(used) => Arc::clone(used),
                // The caller has found the client in the policy, so their number is bounded.
                None => Arc::clone(by_client.entry(client.to_owned()).or_default()),
            }
        };
        // An interrupted change leaves at worst an entry that is never removed.
        apply(&mut used.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::replay::MAX_REMEMBERED;

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds)
    }

    #[test]
    fn each_client_has_its_own_assertions() {
        let cache = ReplayCache::default();
        assert_eq!(cache.check("a", "1"), Ok(()));
        assert_eq!(cache.record("a", "1", at(100), at(0)), Ok(()));
        assert_eq!(cache.check("a", "1"), Err(AssertionError::Replayed));
        assert_eq!(cache.check("b", "1"), Ok(()));
        assert_eq!(cache.record("b", "1", at(100), at(0)), Ok(()));
    }

    #[test]
    fn a_full_client_does_not_affect_others() {
        let cache = ReplayCache::default();
        for n in 0..MAX_REMEMBERED {
            assert_eq!(cache.record("a", &n.to_string(), at(100), at(0)), Ok(()));
        }
        let full = AssertionError::Full { limit: MAX_REMEMBERED };
        assert_eq!(cache.record("a", "one more", at(100), at(99)), Err(full));
        assert_eq!(cache.record("b", "one more", at(100), at(99)), Ok(()));
    }
}
