//! Tasks start here, stop on one signal, and end by a deadline.
//!
//! # Why a panic stops everything
//! A gateway whose publisher or poller is gone would go on with trust that nobody renews, and look well.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

/// The running tasks of one process, and the signal that ends them.
#[derive(Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
    panicked: Arc<AtomicBool>,
}

impl Tasks {
    /// Starts a task.  A task ends by itself soon after [`Tasks::stopping`] is signalled; one that
    /// panics signals it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, panicked) = (self.stop.clone(), Arc::clone(&self.panicked));
        let running = tokio::spawn(task);
        self.tracker.spawn(async move {
            if let Err(error) = running.await {
                error!(%error, "a part of the gateway ended; stopping the rest");
                panicked.store(true, Ordering::Relaxed);
                stop.cancel();
            }
        });
    }

    /// Starts a task that is simply dropped at the stop signal, wherever it waits.
    pub fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// The stop signal, to wait for.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Signals the stop and waits for the tasks.  True when all ended within `grace`, none in a panic.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.stop.cancel();
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
    async fn drain_gives_up_at_the_deadline() {
        let tasks = Tasks::default();
        tasks.spawn(std::future::pending());
        let before = Instant::now();
        assert!(!tasks.drain(Duration::from_secs(5)).await);
        assert_eq!(before.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_ends_what_waits() {
        let tasks = Tasks::default();
        tasks.spawn_until_stop(std::future::pending());
        assert!(tasks.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_stops_the_rest_and_is_told() {
        let tasks = Tasks::default();
        tasks.spawn_until_stop(std::future::pending());
        tasks.spawn_until_stop(async { panic!("on purpose") });
        let stopped =
            tokio::time::timeout(Duration::from_secs(1), tasks.stopping().cancelled_owned());
        assert!(stopped.await.is_ok(), "the rest goes on");
        assert!(!tasks.drain(Duration::from_secs(5)).await);
    }
}
