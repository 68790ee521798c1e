//! Check that the state can be written.
//!
//! # Design notes
//! A gateway whose disk is full or read-only still serves, with the state in memory.  A crash then brings
//! the older state of the disk back: a list without the newest revocations, while the servers of the lists
//! may not be reachable.  A short failure is therefore a warning.  One that lasts makes the gateway not
//! ready, so that balancers use replicas whose state is on disk.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use crate::app::base::Base;
use crate::config::Config;
use crate::runtime::health::Ready;
use crate::runtime::state_files;

/// Interval between two checks.
const INTERVAL: Duration = Duration::from_secs(60);
/// Bytes that a check writes: more than the space that is left in the last block of a full disk.
const PROBE: &[u8] = &[0; 64 * 1024];
/// Name of the part in `/readyz`.
const PART: &str = "data_dir";

/// Starts the check of a gateway that follows a directory.  A hub has no such state: its directory
/// refuses a change that it cannot write.
pub(super) fn start(config: &Config, base: &mut Base) {
    if config.graph.is_empty() {
        return;
    }
    let writable = Gauge::<i64>::default();
    base.registry.register(
        "data_dir_writable",
        "1 if the last check could write to the data directory and all state in force is on disk, else 0",
        writable.clone(),
    );
    let (directory, limit) = (config.data_dir.clone(), config.unwritable_limit);
    let unsaved = base.unsaved.clone();
    let check = move || {
        let (directory, unsaved) = (directory.clone(), unsaved.clone());
        async move {
            let checked = spawn_blocking(move || probe(&directory)).await;
            checked.unwrap_or_else(|error| Err(io::Error::other(error).to_string()))?;
            // There can be room for a small file and none for the state.
            unsaved.check()
        }
    };
    base.tasks.spawn_until_stop(watch(check, limit, base.ready.clone(), writable));
}

/// Writes a file to the disk and removes it.
fn probe(directory: &Path) -> Result<(), String> {
    let path: PathBuf = directory.join("write-check");
    let write = || {
        let mut file = state_files::create(&path)?;
        file.write_all(PROBE)?;
        file.sync_all()
    };
    let written = write();
    // Also after an error: an empty file is of no use.
    let removed = fs::remove_file(&path);
    written.and(removed).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs `check` in each interval.  After `limit` without success, the gateway is not ready until a check
/// succeeds.
async fn watch<F>(check: impl Fn() -> F, limit: Duration, ready: Ready, writable: Gauge)
where
    F: Future<Output = Result<(), String>>,
{
    let mut failing_since = None;
    let mut not_ready = None;
    // One that a hanging disk delays goes on; another would hang too.
    let mut pending = None;
    loop {
        let running = pending.get_or_insert_with(|| Box::pin(check()));
        let result = timeout(INTERVAL, running).await;
        if result.is_ok() {
            pending = None;
        }
        let result = result.unwrap_or_else(|_| Err(format!("not written in {INTERVAL:?}")));
        writable.set(i64::from(result.is_ok()));
        match result {
            Ok(()) => {
                if failing_since.take().is_some() {
                    info!("data directory writable again");
                }
                not_ready = None;
                ready.warn(PART, None);
            }
            Err(why) => {
                let since = *failing_since.get_or_insert_with(|| {
                    warn!(
                        "data directory not writable: {why}. The state in memory is used; after {limit:?} \
                         the gateway is not ready"
                    );
                    Instant::now()
                });
                if since.elapsed() >= limit && not_ready.is_none() {
                    error!(
                        "data directory not writable for {limit:?}: {why}. The gateway is not ready until \
                         it can write, because a crash would bring back the older state on disk"
                    );
                    not_ready = Some(ready.latch(PART));
                }
                ready.warn(PART, Some(format!("not writable: {why}")));
            }
        }
        if pending.is_none() {
            sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_that_lasts_ends_readiness_until_a_check_succeeds() {
        let (ready, gauge) = (Ready::default(), Gauge::default());
        let works = Arc::new(AtomicBool::new(true));
        let check = {
            let works = Arc::clone(&works);
            move || {
                let works = works.load(Ordering::Relaxed);
                async move { if works { Ok(()) } else { Err("No space left".to_owned()) } }
            }
        };
        let limit = INTERVAL * 10;
        let watching = tokio::spawn(watch(check, limit, ready.clone(), gauge.clone()));
        let state = || (ready.missing(), ready.warnings().len(), gauge.get());
        sleep(INTERVAL / 2).await;
        assert_eq!(state(), (vec![], 0, 1));
        works.store(false, Ordering::Relaxed);
        sleep(INTERVAL).await;
        assert_eq!(state(), (vec![], 1, 0), "a short failure is a warning");
        sleep(limit - INTERVAL).await;
        assert_eq!(state(), (vec![], 1, 0));
        sleep(INTERVAL).await;
        assert_eq!(state(), (vec![PART], 1, 0));
        works.store(true, Ordering::Relaxed);
        sleep(INTERVAL).await;
        assert_eq!(state(), (vec![], 0, 1));
        // The time begins again with the next failure.
        works.store(false, Ordering::Relaxed);
        sleep(limit).await;
        assert_eq!(state(), (vec![], 1, 0));
        watching.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_is_a_failure() {
        let (ready, gauge) = (Ready::default(), Gauge::default());
        let (works, checks) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let check = {
            let (works, checks) = (Arc::clone(&works), Arc::clone(&checks));
            move || {
                let works = Arc::clone(&works);
                checks.fetch_add(1, Ordering::Relaxed);
                async move {
                    works.notified().await;
                    Ok(())
                }
            }
        };
        let watching = tokio::spawn(watch(check, INTERVAL * 3, ready.clone(), gauge.clone()));
        sleep(INTERVAL + Duration::from_secs(1)).await;
        let warning = ready.warnings().get(PART).cloned();
        assert_eq!(warning.as_deref(), Some("not writable: not written in 60s"));
        sleep(INTERVAL * 3).await;
        assert_eq!((ready.missing(), gauge.get()), (vec![PART], 0));
        assert_eq!(checks.load(Ordering::Relaxed), 1, "no second thread waits");
        works.notify_one();
        sleep(Duration::from_secs(1)).await;
        assert_eq!((ready.missing(), gauge.get()), (vec![], 1));
        watching.abort();
    }

    #[test]
    fn the_check_leaves_nothing_behind_and_names_the_file() {
        let directory = tempfile::tempdir().expect("a directory");
        probe(directory.path()).expect("writable");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
        let why = probe(&directory.path().join("missing")).expect_err("not a directory");
        assert!(why.contains("missing/write-check: No such file"), "{why}");
    }
}
