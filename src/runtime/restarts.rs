//! Restarts of a task that panics.
//!
//! # Design notes
//! A task restarts if it holds state that stays valid, and if the gateway can serve with what is in force:
//! directories, revocation lists, and the files of keys.  Each task says what it checks again.  The publisher
//! does not restart, because it may have applied half of an update: its panic ends the process, and the
//! service manager starts one with the saved state.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::sleep;
use tracing::error;

use crate::runtime::health::Ready;

/// Pauses before the first restart, and before later ones.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Restarts of one task.
pub(crate) struct Restarts {
    part: &'static str,
    ready: Ready,
    pause: Duration,
}

impl Restarts {
    /// Restarts of the task that is responsible for `part`, for which `ready` shows a warning.
    pub(crate) fn new(part: &'static str, ready: &Ready) -> Self {
        Self { part, ready: ready.clone(), pause: MIN_PAUSE }
    }

    /// Runs one attempt.  Returns true if it ended without a panic.  After a panic, sets a warning, which
    /// stays because the cause does, and returns false after a pause.
    pub(crate) async fn ended(&mut self, attempt: impl Future<Output = ()>) -> bool {
        if AssertUnwindSafe(attempt).catch_unwind().await.is_ok() {
            return true;
        }
        let (part, pause) = (self.part, self.pause);
        error!(part, retry_in = ?pause, "task panicked; what is in force stays");
        let warning =
            "a task panicked and was started again; the log has the cause; what was in force stays";
        self.ready.warn(part, Some(warning.to_owned()));
        sleep(pause).await;
        self.pause = (pause * 2).min(MAX_PAUSE);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_starts_again_after_doubled_pauses_and_is_alarmed() {
        let ready = Ready::default();
        let mut restarts = Restarts::new("keys", &ready);
        let start = Instant::now();
        let mut attempts = 0;
        while !restarts
            .ended(async {
                attempts += 1;
                assert!(attempts > 8, "on purpose");
            })
            .await
        {
            assert!(ready.warnings()["keys"].contains("panicked"));
        }
        assert_eq!(attempts, 9);
        assert_eq!(start.elapsed().as_secs(), 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60);
    }
}
