//! Tasks start here, stop on one signal, and end by a deadline.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The running tasks of one process, and the signal that ends them.
#[derive(Clone, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task.  A task ends by itself soon after [`Tasks::stopping`] is signalled.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(task);
    }

    /// Starts a task that is simply dropped at the stop signal, wherever it waits.
    pub fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tracker.spawn(async move {
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

    /// Signals the stop and waits for the tasks.  True when all ended within `grace`.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait()).await.is_ok()
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
}
