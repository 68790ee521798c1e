//! Bounds the memory of responses that are being built or wait to be sent.
//!
//! # Design notes
//! A client can request many pages and read none of them.  HTTP/2 allows 64 requests on a connection and
//! the listener many connections, so a limit for each connection does not help.  A response therefore
//! reserves memory before it is built and releases it when its last byte was handed to the connection or
//! the connection ended.  One caller can use a third of the memory, and the pages that callers share another
//! third, so that a caller that fills both does not lock out the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reserved for a page of a list: twice the maximum of its objects.
pub(super) const PAGE: usize = 16 * 1024 * 1024;
/// Reserved for one object: twice the maximum of a request body.
pub(super) const OBJECT: usize = 2 * 1024 * 1024;

const ALL: usize = 96 * 1024 * 1024;
const CALLER: usize = ALL / 3;
/// Bytes of one permit.
const UNIT: usize = 1024;
/// Number of callers from which those without a response are removed.
const MANY_CALLERS: usize = 64;

/// Memory for responses of one process.
pub(super) struct InFlight {
    all: Arc<Semaphore>,
    callers: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// Reserved memory.
pub(super) struct Reserved([OwnedSemaphorePermit; 2]);

/// A body with its memory.
struct Held {
    body: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL / UNIT)), callers: Mutex::default() }
    }

    /// Waits until `caller` can have `bytes`, at most [`PAGE`].
    pub(super) async fn reserve(&self, caller: &str, bytes: usize) -> Reserved {
        let units = units(bytes);
        let acquire = |of: Arc<Semaphore>| async move {
            // The semaphores are never closed.
            of.acquire_many_owned(units).await.ok()
        };
        loop {
            let own = acquire(self.of(caller)).await;
            let all = acquire(Arc::clone(&self.all)).await;
            if let (Some(own), Some(all)) = (own, all) {
                return Reserved([own, all]);
            }
        }
    }

    /// Like [`InFlight::reserve`], without waiting.
    pub(super) fn try_reserve(&self, caller: &str, bytes: usize) -> Option<Reserved> {
        let acquire = |of: Arc<Semaphore>| of.try_acquire_many_owned(units(bytes)).ok();
        let own = acquire(self.of(caller))?;
        Some(Reserved([own, acquire(Arc::clone(&self.all))?]))
    }

    fn of(&self, caller: &str) -> Arc<Semaphore> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = callers.get(caller).and_then(Weak::upgrade) {
            return known;
        }
        if callers.len() >= MANY_CALLERS {
            callers.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(CALLER / UNIT));
        callers.insert(caller.to_owned(), Arc::downgrade(&own));
        own
    }
}

/// Number of permits for `bytes`, at most [`PAGE`].
fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.min(PAGE).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Reserved {
    /// Returns a body that keeps memory of its size until it is dropped, and releases the rest now.
    pub(super) fn hold(mut self, body: Bytes) -> Bytes {
        for permits in &mut self.0 {
            let unused = permits.num_permits().saturating_sub(body.len().div_ceil(UNIT));
            drop(permits.split(unused));
        }
        Bytes::from_owner(Held { body, _reserved: self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn bounds_what_one_caller_and_all_callers_hold() {
        let in_flight = InFlight::new();
        let now = |caller, bytes| in_flight.reserve(caller, bytes).now_or_never();
        let first = now("a", PAGE).expect("free");
        let second = now("a", PAGE).expect("free");
        assert!(now("a", OBJECT).is_none(), "a third of the memory");
        let _others = ["b", "b", "c", "c"].map(|caller| now(caller, PAGE).expect("free"));
        assert!(now("d", OBJECT).is_none(), "all of the memory");

        // A small body releases what it does not need, and the rest when it is dropped.
        let body = first.hold(Bytes::from(vec![7; UNIT + 1]));
        assert_eq!((body.len(), body[UNIT]), (UNIT + 1, 7));
        assert_eq!(in_flight.all.available_permits(), PAGE / UNIT - 2);
        let part = body.slice(..1);
        drop(body);
        assert_eq!(in_flight.all.available_permits(), PAGE / UNIT - 2, "a part is still in use");
        drop((part, second));
        assert_eq!(in_flight.all.available_permits(), 2 * PAGE / UNIT);
        assert!(now("a", PAGE).is_some());
    }

    #[tokio::test]
    async fn forgets_callers_without_a_response() {
        let in_flight = InFlight::new();
        for n in 0..10 * MANY_CALLERS {
            drop(in_flight.reserve(&n.to_string(), 1).await);
        }
        assert!(in_flight.callers.lock().expect("not poisoned").len() <= MANY_CALLERS);
    }
}
