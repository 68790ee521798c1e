//! Backup and restore of the gateway's own directory.
//!
//! A large directory takes longer than a request may.  The work therefore continues without the request,
//! and a caller that received `"running": true` asks again for its result.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::actions::Failure;
use crate::store::{Backup, Store, StoreError};

/// Time that one request waits for the end of the work.
const WAIT: Duration = Duration::from_secs(15);

/// Result of the work; `None` while it runs.
type Outcome = Option<Result<Backup, StoreError>>;

/// The store, and the work that began last.
pub(super) struct Copies {
    store: Option<Store>,
    last: Mutex<Option<watch::Receiver<Outcome>>>,
}

impl Copies {
    pub(super) fn new(store: Option<Store>) -> Self {
        Self { store, last: Mutex::default() }
    }

    /// Writes a backup to the new file `path`.
    pub(super) async fn back_up(&self, path: PathBuf) -> Result<Value, Failure> {
        let store = self.store(&path)?;
        self.begin("backed up", async move { store.backup(path).await })?;
        self.wait().await
    }

    /// Replaces the directory by the backup `path`.
    pub(super) async fn restore(&self, path: PathBuf, accept: bool) -> Result<Value, Failure> {
        let store = self.store(&path)?;
        self.begin("restored", async move { store.restore(path, accept).await })?;
        self.wait().await
    }

    fn store(&self, path: &Path) -> Result<Store, Failure> {
        if !path.is_absolute() {
            let why = format!("`file`: `{}` is not an absolute path", path.display());
            return Err(Failure::bad_request(why));
        }
        let why = "this gateway has no directory of its own ([directory])";
        self.store.clone().ok_or_else(|| Failure(StatusCode::CONFLICT, why.into()))
    }

    /// Begins the work, unless other work is running.
    fn begin(
        &self,
        done: &'static str,
        work: impl Future<Output = Result<Backup, StoreError>> + Send + 'static,
    ) -> Result<(), Failure> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running =
            |one: &watch::Receiver<Outcome>| one.borrow().is_none() && one.has_changed().is_ok();
        if last.as_ref().is_some_and(is_running) {
            let why = "a backup or restore is running; wait until it has ended";
            return Err(Failure(StatusCode::CONFLICT, why.into()));
        }
        let (ended, outcome) = watch::channel(None);
        *last = Some(outcome);
        tokio::spawn(async move {
            let result = work.await;
            match &result {
                Ok(backup) => info!(
                    objects = backup.objects,
                    version = backup.version,
                    created = %backup.created,
                    sha256 = %backup.sha256,
                    "directory {done}"
                ),
                Err(error) => warn!("directory not {done}: {error}"),
            }
            ended.send_replace(Some(result));
        });
        Ok(())
    }

    /// Waits a limited time for the end of the work that began last.
    pub(super) async fn wait(&self) -> Result<Value, Failure> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut last) = last else {
            let why = "no backup or restore was started";
            return Err(Failure(StatusCode::CONFLICT, why.into()));
        };
        let outcome = match timeout(WAIT, last.wait_for(Option::is_some)).await {
            Err(_) => return Ok(json!({ "running": true })),
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => None,
        };
        match outcome {
            Some(Ok(backup)) => Ok(json!(backup)),
            Some(Err(error @ StoreError::Refused(_))) => {
                Err(Failure(StatusCode::CONFLICT, error.to_string()))
            }
            Some(Err(error)) => Err(Failure(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
            None => {
                let why = "the backup or restore stopped unexpectedly; the directory is unchanged";
                Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, why.into()))
            }
        }
    }
}
