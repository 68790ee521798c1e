//! Who changes an object waits for who is changing it.
//!
//! The store refuses a change of what has changed since it was read, and the change is then made anew of
//! what is there.  With many writers of one object most would be made anew many times, and some be given
//! up; in turn, each is made once.  Only another replica can come in between.

use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Objects that are changed side by side; two that share a place wait for each other, and no more.
const PLACES: usize = 1024;

pub(super) struct Turns {
    places: Vec<Mutex<()>>,
    hash: RandomState,
}

impl Turns {
    pub(super) fn new() -> Self {
        let places = std::iter::repeat_with(|| Mutex::new(())).take(PLACES).collect();
        Self { places, hash: RandomState::new() }
    }

    /// The turn to change the object `id`.
    pub(super) async fn take(&self, id: &str) -> MutexGuard<'_, ()> {
        let place = self.hash.hash_one(id) % self.places.len() as u64;
        self.places[place as usize].lock().await
    }
}
