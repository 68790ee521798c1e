//! Limits log lines that peers can cause in any number.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lets one log line through in each interval, and counts the others.
#[derive(Debug)]
pub(crate) struct LogLimit {
    interval: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Time from which the next line may pass.
    next: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// Lets one line through in each `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::default() }
    }

    /// Returns the number of lines that were suppressed since the last one, if a line may be written now.
    pub fn permit(&self) -> Option<u64> {
        // A panic within a change leaves at most a count that is too low.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.next.is_some_and(|next| now < next) {
            state.suppressed += 1;
            return None;
        }
        state.next = Some(now + self.interval);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_passes_in_each_interval() {
        let limit = LogLimit::new(Duration::from_secs(1));
        assert_eq!([limit.permit(), limit.permit(), limit.permit()], [Some(0), None, None]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!([limit.permit(), limit.permit()], [Some(2), None]);
    }
}
