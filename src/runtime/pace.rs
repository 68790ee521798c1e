//! Paces long work on a processor that also serves requests: short slices of work with rests between.
//!
//! # Design notes
//! A thread of low priority would need system calls that are neither portable nor safe Rust.  A scheduler
//! also lets such a thread run for milliseconds before it checks again, and a slice is shorter.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest work without a rest: about the delay that it may cause for one request.
pub(crate) const SLICE: Duration = Duration::from_micros(200);
/// Rest for each unit of work: the work uses a quarter of one processor.
pub(crate) const REST: u32 = 3;

/// The pace of one piece of work, on a thread that may block.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Start of the slice.
    began: Instant,
    /// Remaining time for rests.
    left: Duration,
}

impl Pace {
    /// The pace of background work.  After `most` of rest in total it does not rest any more, so that the
    /// work also ends on a slow or busy machine.
    pub(crate) fn background(most: Duration) -> Self {
        Self { began: Instant::now(), left: most }
    }

    /// The pace of urgent work: no rests.
    pub fn full() -> Self {
        Self::background(Duration::ZERO)
    }

    /// Begins a slice.  Call it after waiting for input, which does not count as work.
    pub fn begin(&mut self) {
        self.began = Instant::now();
    }

    /// Rests if the slice is over.  Call it between small portions of work.
    pub fn rest(&mut self) {
        if let Some(rest) = self.take(self.began.elapsed()) {
            sleep(rest);
            self.begin();
        }
    }

    /// The rest after `worked`; `None` if the slice is not over, or no time for rests remains.
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
    fn rests_in_proportion_to_the_work() {
        let mut pace = Pace::background(Duration::from_secs(1));
        assert_eq!(pace.take(SLICE - Duration::from_nanos(1)), None);
        assert_eq!(pace.take(SLICE), Some(SLICE * REST));
        // The proportion also holds for a long portion: the thread may have waited for its processor.
        assert_eq!(pace.take(SLICE * 10), Some(SLICE * 10 * REST));
    }

    #[test]
    fn stops_resting_after_the_total() {
        let mut pace = Pace::background(SLICE * (REST + 1));
        assert_eq!(pace.take(SLICE), Some(SLICE * REST));
        assert_eq!(pace.take(SLICE), Some(SLICE), "the remaining time");
        assert_eq!(pace.take(SLICE), None);
        assert_eq!(Pace::full().take(SLICE), None);
    }
}
