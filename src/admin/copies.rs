//! Backup and restore of the gateway's own directory.
//!
//! A large directory takes longer than a request may.  The work therefore continues without the request,
//! and a caller that received `"running": true` asks again for the result of its work, by `id`.

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
use crate::runtime::random::guid;
use crate::store::{Backup, Store, StoreError};

/// Time that one request waits for the end of the work.
const WAIT: Duration = Duration::from_secs(15);

/// Result of the work; `None` while it runs.
type Outcome = Option<Result<Backup, StoreError>>;

/// A backup or restore that was started.
struct Work {
    id: String,
    outcome: watch::Receiver<Outcome>,
}

impl Work {
    fn is_running(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }
}

/// The store, and the work that began last.
pub(super) struct Copies {
    store: Option<Store>,
    last: Mutex<Option<Work>>,
}

impl Copies {
    pub(super) fn new(store: Option<Store>) -> Self {
        Self { store, last: Mutex::default() }
    }

    /// Writes a backup to the new file `path`.
    pub(super) async fn back_up(&self, path: PathBuf) -> Result<Value, Failure> {
        let store = self.store(&path)?;
        let id = self.begin("backed up", async move { store.backup(path).await })?;
        self.wait(&id).await
    }

    /// Replaces the directory by the backup `path`.
    pub(super) async fn restore(&self, path: PathBuf, accept: bool) -> Result<Value, Failure> {
        let store = self.store(&path)?;
        let id = self.begin("restored", async move { store.restore(path, accept).await })?;
        self.wait(&id).await
    }

    fn store(&self, path: &Path) -> Result<Store, Failure> {
        if !path.is_absolute() {
            let why = format!("`file`: `{}` is not an absolute path", path.display());
            return Err(Failure::bad_request(why));
        }
        let why = "this gateway has no directory of its own ([directory])";
        self.store.clone().ok_or_else(|| Failure(StatusCode::CONFLICT, why.into()))
    }

    /// Begins the work, unless other work is running, and returns its id.
    fn begin(
        &self,
        done: &'static str,
        work: impl Future<Output = Result<Backup, StoreError>> + Send + 'static,
    ) -> Result<String, Failure> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(Work::is_running) {
            let why = "a backup or restore is running; wait until it has ended";
            return Err(Failure(StatusCode::CONFLICT, why.into()));
        }
        let (ended, outcome) = watch::channel(None);
        let id = guid();
        *last = Some(Work { id: id.clone(), outcome });
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
        Ok(id)
    }

    /// Waits a limited time for the end of the work `id`.
    pub(super) async fn wait(&self, id: &str) -> Result<Value, Failure> {
        let outcome = {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.as_ref().filter(|work| work.id == id).map(|work| work.outcome.clone())
        };
        let Some(mut outcome) = outcome else {
            let why = "the result of this backup or restore is not known any more: another one has begun, \
                       or the gateway was restarted. The log of the gateway has it";
            return Err(Failure(StatusCode::CONFLICT, why.into()));
        };
        let outcome = match timeout(WAIT, outcome.wait_for(Option::is_some)).await {
            Err(_) => return Ok(json!({ "running": true, "id": id })),
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
                let why = "the backup or restore stopped unexpectedly: it is not known whether it was \
                           completed";
                Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, why.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_caller_gets_the_result_of_its_own_work() {
        let copies = Copies::new(None);
        let (fail, failed) = oneshot::channel::<()>();
        let first = copies.begin("backed up", async {
            let _ = failed.await;
            Err(StoreError::Refused("first".into()))
        });
        let first = first.expect("begun");
        let second =
            || copies.begin("restored", async { Err(StoreError::Refused("second".into())) });
        assert!(second().is_err(), "one at a time");
        fail.send(()).expect("it waits");
        assert_eq!(copies.wait(&first).await.expect_err("failed").1, "first");
        assert_eq!(copies.wait(&first).await.expect_err("failed").1, "first", "asked again");
        let second = second().expect("begun");
        let why = copies.wait(&first).await.expect_err("another one has begun").1;
        assert!(why.contains("not known any more"), "{why}");
        assert_eq!(copies.wait(&second).await.expect_err("failed").1, "second");
    }

    #[tokio::test]
    async fn work_that_stops_unexpectedly_is_not_reported_as_undone() {
        let copies = Copies::new(None);
        let id = copies.begin("restored", async { panic!("after the commit") }).expect("begun");
        let why = copies.wait(&id).await.expect_err("stopped").1;
        assert!(why.contains("it is not known whether"), "{why}");
    }
}
