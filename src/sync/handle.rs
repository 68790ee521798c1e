//! Handles of followers: status and operators' commands.

use tokio::sync::{mpsc, oneshot, watch};

use crate::sync::status::Status;

/// An operator's command failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The fetch failed; the data in force stays.
    #[error("{0}")]
    Failed(String),
    /// No change waits for approval.
    #[error("nothing is held back")]
    NothingHeld,
    /// Another change than the approved one is held back.
    #[error(
        "`{approved}` is not the digest of the change that is held back ({held}); read it with \
         `anchorgate trust show`"
    )]
    OtherHeld {
        /// Digest that the operator approved.
        approved: String,
        /// Digest of the change that is held back.
        held: String,
    },
    /// The process is stopping.
    #[error("the follower has stopped")]
    Stopped,
}

/// Receives the result of a command.
pub(super) type Reply<C> = oneshot::Sender<Result<C, HandleError>>;

/// An operator's command.
pub(super) enum Command<C> {
    /// Fetch now.
    Refresh(Reply<C>),
    /// Apply the change that is held back, if it has this digest.
    Approve(String, Reply<C>),
}

/// A handle of a follower whose data changes by `C` and is described by `D`.
pub struct Handle<C, D> {
    pub(super) commands: mpsc::Sender<Command<C>>,
    pub(super) status: watch::Receiver<Status<C, D>>,
}

impl<C, D> Clone for Handle<C, D> {
    fn clone(&self) -> Self {
        Self { commands: self.commands.clone(), status: self.status.clone() }
    }
}

impl<C: Clone, D: Clone> Handle<C, D> {
    /// Current status.
    pub fn status(&self) -> Status<C, D> {
        self.status.borrow().clone()
    }

    /// The worst problem, without its details.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let status = self.status.borrow();
        [
            (status.too_old, "too old"),
            (status.held_back.is_some(), "a change waits for approval"),
            (status.failures > 0, "the last poll failed"),
        ]
        .into_iter()
        .find_map(|(is_so, problem)| is_so.then_some(problem))
    }

    /// Waits until data was loaded, from the directory or from disk.
    ///
    /// # Errors
    /// The follower stopped before.
    pub(crate) async fn wait_until_loaded(&self) -> Result<(), HandleError> {
        let mut status = self.status.clone();
        let loaded = status.wait_for(|status| status.loaded).await;
        loaded.map(drop).map_err(|_| HandleError::Stopped)
    }

    /// Fetches now and returns the changes.  The first enumeration is waited for.
    ///
    /// # Errors
    /// The fetch failed.
    pub async fn refresh(&self) -> Result<C, HandleError> {
        self.send(Command::Refresh).await
    }

    /// Applies the change that is held back if it has this digest, and returns it.
    ///
    /// # Errors
    /// No change is held back, or another one.
    pub async fn approve(&self, digest: &str) -> Result<C, HandleError> {
        self.send(|reply| Command::Approve(digest.to_owned(), reply)).await
    }

    async fn send(&self, command: impl FnOnce(Reply<C>) -> Command<C>) -> Result<C, HandleError> {
        let (reply, result) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| HandleError::Stopped)?;
        result.await.unwrap_or(Err(HandleError::Stopped))
    }
}
