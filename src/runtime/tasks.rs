//! Background tasks: they stop on one signal and end before a deadline.
//!
//! # Design notes
//! A panic in one task stops the process.  Without its publisher or a poller, the gateway would continue
//! with stale trust and appear healthy.  Tasks that can go on with what is in force start again instead
//! (`runtime/restarts`).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// The end of a process, in two steps.  First it is announced: everything is served, and clients are
/// told to use another connection.  Then the process stops.
#[derive(Clone, Default)]
pub struct Stop {
    announced: CancellationToken,
    now: CancellationToken,
}

impl Stop {
    /// Announces the stop.
    pub(crate) fn announce(&self) {
        self.announced.cancel();
    }

    /// Returns true once the stop is announced or signalled.
    pub(crate) fn is_announced(&self) -> bool {
        self.announced.is_cancelled() || self.is_cancelled()
    }

    /// Returns true once the stop is signalled.
    pub fn is_cancelled(&self) -> bool {
        self.now.is_cancelled()
    }

    /// Waits for the stop.
    pub(crate) async fn cancelled(&self) {
        self.now.cancelled().await;
    }
}

/// A stop without an announcement.
impl From<CancellationToken> for Stop {
    fn from(now: CancellationToken) -> Self {
        Self { announced: CancellationToken::new(), now }
    }
}

/// The running tasks of one process, and their stop signal.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    stop: Stop,
    tracker: TaskTracker,
    panicked: Arc<AtomicBool>,
}

impl Tasks {
    /// Starts a task.  The task must end soon after [`Tasks::stopping`] is signalled.  A panic signals it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, panicked) = (self.stopping(), Arc::clone(&self.panicked));
        let running = tokio::spawn(task);
        self.tracker.spawn(async move {
            if let Err(error) = running.await {
                // First the stop: it must not depend on the log.
                panicked.store(true, Ordering::Relaxed);
                stop.cancel();
                error!(%error, "background task panicked; the process stops");
            }
        });
    }

    /// Starts a task that is dropped at the stop signal, at whichever await it waits.
    pub(crate) fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stopping();
        self.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// The stop signal.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.now.clone()
    }

    /// Both steps of the stop.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Signals the stop and waits for the tasks.  Returns true if all of them ended within `grace` and
    /// none panicked.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.stop.now.cancel();
        self.tracker.close();
        let ended = tokio::time::timeout(grace, self.tracker.wait()).await.is_ok();
        ended && !self.panicked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn drain_returns_at_the_deadline() {
        let tasks = Tasks::default();
        tasks.spawn(std::future::pending());
        let before = Instant::now();
        assert!(!tasks.drain(Duration::from_secs(5)).await);
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_drops_waiting_tasks() {
        let tasks = Tasks::default();
        tasks.spawn_until_stop(std::future::pending());
        assert!(tasks.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_the_other_tasks_and_is_reported() {
        let tasks = Tasks::default();
        tasks.spawn_until_stop(std::future::pending());
        tasks.spawn_until_stop(async { panic!("on purpose") });
        let stopped =
            tokio::time::timeout(Duration::from_secs(1), tasks.stopping().cancelled_owned());
        assert!(stopped.await.is_ok(), "the other tasks continue");
        assert!(!tasks.drain(Duration::from_secs(5)).await);
    }
}
