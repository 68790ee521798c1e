//! Order of the transactions: one at a time, each with the oldest queued changes, or a restore.

use std::sync::mpsc::TryRecvError;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::embedded::lock;
use crate::store::embedded::write::{Pending, Write, next_batch};
use crate::store::objects::{Collection, StoreError};

/// Changes that wait for a transaction.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Notified when a transaction has ended, and when changes are refused.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    pending: Vec<Pending>,
    is_writing: bool,
    is_restoring: bool,
}

impl Queue {
    /// Returns the result of a change.  `apply` writes a batch in one transaction.
    pub(super) fn write(
        &self,
        collection: Collection,
        write: Write,
        apply: impl Fn(&[Pending]),
    ) -> Result<u64, StoreError> {
        let (pending, done) = Pending::new(collection, write);
        let mut state = lock(&self.state);
        if state.is_restoring {
            return Err(restoring());
        }
        state.pending.push(pending);
        loop {
            // Another caller may have applied this change.
            match done.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    let why = "the transaction stopped unexpectedly";
                    return Err(StoreError::Unavailable(why.into()));
                }
            }
            if state.is_writing {
                state = self.wait(state);
                continue;
            }
            state.is_writing = true;
            let turn = Turn(self);
            let batch = next_batch(&mut state.pending);
            drop(state);
            apply(&batch);
            drop(batch);
            drop(turn);
            state = lock(&self.state);
        }
    }

    /// Refuses all changes, also those that wait, until the result is dropped.  Waits for the transaction
    /// that runs.
    ///
    /// # Errors
    /// Another restore runs.
    pub(super) fn refuse_changes(&self) -> Result<Restoring<'_>, StoreError> {
        let mut state = lock(&self.state);
        if state.is_restoring {
            return Err(restoring());
        }
        state.is_restoring = true;
        let restoring_now = Restoring(self);
        // Those that wait would keep threads that reads need.
        state.pending.drain(..).for_each(|one| one.done(Err(restoring())));
        self.ended.notify_all();
        while state.is_writing {
            state = self.wait(state);
        }
        Ok(restoring_now)
    }

    /// Waits until this many changes wait for a transaction.
    #[cfg(test)]
    pub(super) fn until_waiting(&self, count: usize) {
        while lock(&self.state).pending.len() < count {
            std::thread::yield_now();
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.ended.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

fn restoring() -> StoreError {
    let why = "a restore is running: the change is refused and has no effect. Repeat it after the restore";
    StoreError::Unavailable(why.into())
}

/// A transaction that runs; also a panic ends it.
struct Turn<'a>(&'a Queue);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).is_writing = false;
        self.0.ended.notify_all();
    }
}

/// A restore that runs.
pub(super) struct Restoring<'a>(&'a Queue);

impl Drop for Restoring<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).is_restoring = false;
    }
}
