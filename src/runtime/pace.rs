//! Long work on a processor that requests need too: in slices, with rests between.
//!
//! # Why not a thread of low priority
//! It takes calls that are not portable and not safe Rust.  And a scheduler lets even such a thread run
//! on for milliseconds before it looks again; a slice is over sooner.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Work without a rest: about what one request may be delayed by it.
pub const SLICE: Duration = Duration::from_micros(200);
/// Rest for each unit of work: the work has a quarter of one processor.
pub const REST: u32 = 3;

/// The pace of one piece of work, on a thread that may be blocked.
#[derive(Debug)]
pub struct Pace {
    /// When the slice began.
    began: Instant,
    /// Time that is left to rest in.
    left: Duration,
}

impl Pace {
    /// For work that nobody waits for.  When it has rested for `most`, it rests no more: on a machine
    /// that is slow or busy it must come to its end too.
    pub fn gentle(most: Duration) -> Self {
        Self { began: Instant::now(), left: most }
    }

    /// For work that somebody waits for: without rests.
    pub fn full() -> Self {
        Self::gentle(Duration::ZERO)
    }

    /// Begins a slice: what came before was no work but waiting.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// Rests, if the slice is over.  To be called between small portions of work.
    pub fn rest(&mut self) {
        if let Some(rest) = self.take(self.began.elapsed()) {
            sleep(rest);
            self.begin();
        }
    }

    /// How long to rest after `worked`; `None` when the slice is not over, or no time is left.
    fn take(&mut self, worked: Duration) -> Option<Duration> {
        let rest = worked.saturating_mul(REST).min(self.left);
        if worked < SLICE || rest.is_zero() {
            return None;
        }
        self.left -= rest;
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_worked_through_and_then_rested_from() {
        let mut pace = Pace::gentle(Duration::from_secs(1));
        assert_eq!(pace.take(SLICE - Duration::from_nanos(1)), None);
        assert_eq!(pace.take(SLICE), Some(SLICE * REST));
        // However long a portion was (the thread may have waited for its processor), the share holds.
        assert_eq!(pace.take(SLICE * 10), Some(SLICE * 10 * REST));
    }

    #[test]
    fn rests_end_and_work_goes_on() {
        let mut pace = Pace::gentle(SLICE * (REST + 1));
        assert_eq!(pace.take(SLICE), Some(SLICE * REST));
        assert_eq!(pace.take(SLICE), Some(SLICE), "what is left");
        assert_eq!(pace.take(SLICE), None);
        assert_eq!(Pace::full().take(SLICE), None);
    }
}
