//! Bounds on the fetches that run at the same time, by trust domain.
//!
//! # Design notes
//! Addresses that do not respond hold a permit until the fetch times out.  Each trust domain has permits
//! of its own, so that the addresses of one domain never delay the lists of another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::select_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits for fetches.
pub(super) struct Permits {
    /// Fetches of one domain at the same time.
    parallel: usize,
    domains: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

impl Permits {
    /// Allows `parallel` fetches of each domain at the same time.
    pub(super) fn new(parallel: usize) -> Self {
        Self { parallel: parallel.max(1), domains: Mutex::default() }
    }

    /// Waits for a permit of one of these domains, which all name the address: whichever is free first.
    /// Returns `None` without a domain.
    pub(super) async fn acquire(&self, domains: &[Arc<str>]) -> Option<OwnedSemaphorePermit> {
        let permits = domains.iter().map(|domain| Box::pin(self.of(domain).acquire_owned()));
        let permits: Vec<_> = permits.collect();
        if permits.is_empty() {
            return None;
        }
        select_all(permits).await.0.ok()
    }

    fn of(&self, domain: &Arc<str>) -> Arc<Semaphore> {
        let mut domains = self.lock();
        let permits = domains
            .entry(Arc::clone(domain))
            .or_insert_with(|| Arc::new(Semaphore::new(self.parallel)));
        Arc::clone(permits)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Arc<Semaphore>>> {
        // The map is consistent after every statement.
        self.domains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn a_domain_waits_for_its_own_permits_only() {
        let permits = Permits::new(2);
        let (a, b): ([Arc<str>; 1], [Arc<str>; 1]) = (["a".into()], ["b".into()]);
        let both = [Arc::clone(&a[0]), Arc::clone(&b[0])];
        let held = [permits.acquire(&a).await, permits.acquire(&a).await];
        assert!(held.iter().all(Option::is_some));
        assert!(permits.acquire(&a).now_or_never().is_none(), "both are in use");
        assert!(permits.acquire(&b).now_or_never().is_some(), "another domain does not wait");
        assert!(permits.acquire(&both).now_or_never().is_some(), "one of its domains is free");
        drop(held);
        assert!(permits.acquire(&a).now_or_never().is_some());
        assert!(permits.acquire(&[]).await.is_none());
    }
}
