//! An operator's hold on the sync of a directory's configurations.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::graph::Collection;
use crate::sync::HandleError;
use crate::sync::configurations::changes::Changes;
use crate::sync::configurations::status::Status;
use crate::sync::devices;
use crate::trust::configurations::AnchorSet;

/// An operator's hold on a [`Sync`].
#[derive(Clone)]
pub struct Handle {
    pub(in crate::sync) source: Arc<str>,
    pub(in crate::sync) rules: Rules,
    pub(in crate::sync) commands: mpsc::Sender<Command>,
    pub(in crate::sync) shared: Arc<Mutex<Shared>>,
    pub(in crate::sync) devices: Option<devices::Handle>,
}

/// How an answer is read, and compared with what is in force.
#[derive(Clone)]
pub(in crate::sync) struct Rules {
    pub(in crate::sync) collection: Collection,
    /// What is put before ids: the directory's name, where there are several.
    pub(in crate::sync) prefix: Option<Arc<str>>,
    /// [`Config::max_removal`]; `None` where nothing is held back.
    pub(in crate::sync) max_removal: Option<f64>,
}

/// What the sync lets be seen.
pub(in crate::sync) struct Shared {
    pub(in crate::sync) status: Status,
    pub(in crate::sync) in_force: Arc<AnchorSet>,
}

impl Handle {
    /// The sync's name: the directory's, or that and `/applications`.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// What is followed.
    pub fn collection(&self) -> Collection {
        self.rules.collection
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let devices = self.devices.as_ref().map(devices::Handle::status);
        Status { devices, ..lock(&self.shared).status.clone() }
    }

    /// The sync of its devices, where a configuration needs them.
    pub fn devices(&self) -> Option<&devices::Handle> {
        self.devices.as_ref()
    }

    /// The configurations of this source that are in force, as last accepted.
    pub fn in_force(&self) -> Arc<AnchorSet> {
        Arc::clone(&lock(&self.shared).in_force)
    }

    /// Polls now, and tells what changed.
    ///
    /// # Errors
    /// When the poll fails.
    pub async fn sync_now(&self) -> Result<Changes, HandleError> {
        self.ask(Command::Sync).await
    }

    /// Applies the answer that is held back, and tells what changed.
    ///
    /// # Errors
    /// When none is.
    pub async fn approve(&self) -> Result<Changes, HandleError> {
        self.ask(Command::Approve).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<Changes, HandleError>>) -> Command,
    ) -> Result<Changes, HandleError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| HandleError::Ended)?;
        answer.await.unwrap_or(Err(HandleError::Ended))
    }
}

pub(super) fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    // Fields are assigned one by one: a panic elsewhere leaves at worst an older status.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an operator asks of the loop.
pub(in crate::sync) enum Command {
    /// Poll now.
    Sync(oneshot::Sender<Result<Changes, HandleError>>),
    /// Apply what is held back.
    Approve(oneshot::Sender<Result<Changes, HandleError>>),
}
