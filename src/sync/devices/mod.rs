//! The devices of a directory, followed by their changes (Graph's delta query).
//!
//! Only where a configuration admits registered devices alone.  The first answer enumerates every
//! device, page by page, and ends with a deltaLink; from then on the directory is asked there for what
//! changed.
//!
//! # Why a round is applied whole
//! A page could be put in force when it comes, since each names devices whole.  But objects may move
//! between pages and come twice, so that only the end of a round is a state that the directory was in;
//! and whether an answer removes too much can only be said of all of it.  So pages are applied to a
//! registry of their own, which costs the pages and not a second copy, and that one is put in force at
//! the end.  Of a round that failed the pages that were read are kept, and it goes on where it failed.
//!
//! # Why a removal can be held back
//! As in the trust list: an answer that removes too many devices is likelier a fault than meant.  What
//! the directory enables and disables is never held back alone, but waits with an answer that is.

mod follow;
mod round;
mod state;
mod status;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::sync::HandleError;
use crate::sync::devices::follow::Command;
use crate::trust::devices::Difference;

pub use follow::Sync;
pub use status::{HeldBack, Metrics, Status};

/// An operator's hold on a [`Sync`].
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    status: Arc<Mutex<Status>>,
}

impl Handle {
    /// How things stand.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Polls now, and tells what changed.  A first enumeration is waited for.
    ///
    /// # Errors
    /// When the poll fails.
    pub async fn sync_now(&self) -> Result<Difference, HandleError> {
        self.ask(Command::Sync).await
    }

    /// Applies the answer that is held back, and tells what changed.
    ///
    /// # Errors
    /// When none is.
    pub async fn approve(&self) -> Result<Difference, HandleError> {
        self.ask(Command::Approve).await
    }

    async fn ask(&self, command: impl FnOnce(follow::Reply) -> Command) -> follow::Answer {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| HandleError::Ended)?;
        answer.await.unwrap_or(Err(HandleError::Ended))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Status> {
        // Fields are assigned one by one: a panic elsewhere leaves at worst an older status.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
