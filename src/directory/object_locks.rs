//! Per-object locks: changes to one object run one at a time.
//!
//! The store rejects a change if the object has changed since it was read, and the directory then
//! applies the change again to the new version.  Without locks, many writers of one object would retry
//! most changes several times, and some changes would fail.  With locks, each change is applied once,
//! unless another replica changes the object.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Number of locks.  Two objects that share a lock only wait for each other.
const SLOTS: usize = 1024;

pub(super) struct ObjectLocks {
    slots: Vec<Mutex<()>>,
    hash: RandomState,
}

impl ObjectLocks {
    pub(super) fn new() -> Self {
        let slots = std::iter::repeat_with(|| Mutex::new(())).take(SLOTS).collect();
        Self { slots, hash: RandomState::new() }
    }

    /// Waits for the lock of the object `id`.
    pub(super) async fn lock(&self, id: &str) -> MutexGuard<'_, ()> {
        let slot = self.hash.hash_one(id) % self.slots.len() as u64;
        self.slots[slot as usize].lock().await
    }
}
