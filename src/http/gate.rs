//! Decides when a listener accepts connections.
//!
//! # Design notes
//! A connection that is accepted and then refused costs a part of what serving it costs.  At several
//! times the capacity these parts add up to all of it.  So a listener accepts no more connections
//! than it can serve soon: while the handshakes that wait for their turn need longer than [`TARGET`],
//! the gate is closed, and connections wait in the kernel's queue at no cost here.
//!
//! A long queue in the kernel is no better, because its clients give up before they are reached.
//! After [`BURST`] of overload it is as short as the queue here.  The kernel ignores further
//! connection attempts, and clients repeat them after a second.  Before that it is long: clients that
//! all connect at once, as after an outage, are served in the order of their arrival.
//!
//! Only connections that have sent data wait for a turn.  Silent ones do not close the gate.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// Time in which the handshakes that wait may have their turn.
const TARGET: Duration = Duration::from_millis(100);
/// Limits of the number of handshakes that may wait.
const FEWEST: usize = 8;
const MOST: usize = 1_024;
/// Time between two turns before any was measured.
const FIRST_INTERVAL: Duration = Duration::from_millis(2);
/// Longest time between two turns that is counted: a pause of the machine is not a measurement.
const MAX_INTERVAL: Duration = Duration::from_millis(500);
/// Number of turns that the mean interval covers.
const WEIGHT: u32 = 16;

/// Connections that the kernel queues while there is no overload, as after a mass reconnect.
pub(super) const BACKLOG: i32 = 4096;
/// Overload after which the kernel's queue becomes short.
const BURST: Duration = Duration::from_secs(1);
/// Time with an open gate after which an overload has ended.
const QUIET: Duration = Duration::from_secs(1);
/// Interval between two adjustments of the kernel's queue during an overload.
const ADJUST: Duration = Duration::from_millis(250);

/// The gate of one listener.  It is open until handshakes wait.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    opened: Notify,
}

struct State {
    waiting: usize,
    /// Mean time between two turns while handshakes wait.
    interval: Duration,
    /// End of the last turn, if handshakes waited then.
    last_turn: Option<Instant>,
    closed_since: Option<Instant>,
    /// Time with a closed gate, without the present one.
    closed: Duration,
    last_closed: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            waiting: 0,
            interval: FIRST_INTERVAL,
            last_turn: None,
            closed_since: None,
            closed: Duration::ZERO,
            last_closed: None,
        }
    }
}

impl Gate {
    /// Notes the number of handshakes that wait for their turn.
    pub(crate) fn set_waiting(&self, waiting: usize) {
        let mut state = self.lock();
        state.waiting = waiting;
        let limit = state.limit();
        match state.closed_since {
            None if waiting >= limit => state.closed_since = Some(Instant::now()),
            // Opened for several at a time.
            Some(since) if waiting <= limit / 2 => {
                let now = Instant::now();
                state.closed += now - since;
                state.closed_since = None;
                state.last_closed = Some(now);
                self.opened.notify_waiters();
            }
            _ => {}
        }
    }

    /// Notes that a turn has ended.
    pub(crate) fn turn_ended(&self) {
        let mut state = self.lock();
        let now = Instant::now();
        if let Some(last) = state.last_turn {
            let interval = (now - last).min(MAX_INTERVAL);
            state.interval = (state.interval * (WEIGHT - 1) + interval) / WEIGHT;
        }
        state.last_turn = (state.waiting > 0).then_some(now);
    }

    /// Returns the number of handshakes that may wait.
    pub(crate) fn limit(&self) -> usize {
        self.lock().limit()
    }

    /// Returns the time for which the gate has been closed in total.
    pub(crate) fn closed(&self) -> Duration {
        let state = self.lock();
        state.closed + state.closed_since.map(|since| since.elapsed()).unwrap_or_default()
    }

    /// Waits until the gate is open.
    pub(super) async fn open(&self) {
        loop {
            let mut opened = pin!(self.opened.notified());
            opened.as_mut().enable();
            if self.lock().closed_since.is_none() {
                return;
            }
            opened.await;
        }
    }

    /// Returns the last time at which the gate was closed.
    fn last_closed(&self) -> Option<Instant> {
        let state = self.lock();
        state.closed_since.map(|_| Instant::now()).or(state.last_closed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn limit(&self) -> usize {
        let turns = TARGET.as_nanos() / self.interval.as_nanos().max(1);
        usize::try_from(turns).unwrap_or(MOST).clamp(FEWEST, MOST)
    }
}

/// Length of the kernel's queue for a listener.
pub(super) struct Backlog {
    gate: Arc<Gate>,
    /// Start of the overload.
    overload: Option<Instant>,
    length: i32,
}

impl Backlog {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self { gate, overload: None, length: BACKLOG }
    }

    /// Returns when the length has to be looked at again.
    pub(super) async fn due(&self) {
        match self.overload {
            Some(_) => sleep(ADJUST).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the length, if it has changed.
    pub(super) fn change(&mut self) -> Option<i32> {
        let is_closed_lately = |closed: Instant| closed.elapsed() < QUIET;
        self.overload = match self.gate.last_closed() {
            Some(closed) if is_closed_lately(closed) => {
                Some(self.overload.unwrap_or_else(Instant::now))
            }
            _ => None,
        };
        let length = match self.overload {
            Some(start) if start.elapsed() >= BURST => {
                i32::try_from(self.gate.limit()).unwrap_or(BACKLOG)
            }
            _ => BACKLOG,
        };
        // A change by a few is not worth a system call.
        let is_like = |length: i32| length.abs_diff(self.length) <= self.length.unsigned_abs() / 4;
        if is_like(length) {
            return None;
        }
        self.length = length;
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use tokio::time::advance;

    fn is_open(gate: &Gate) -> bool {
        gate.open().now_or_never().is_some()
    }

    /// Ends turns at this interval while handshakes wait.
    async fn measure(gate: &Gate, interval: Duration) {
        gate.set_waiting(1);
        for _ in 0..200 {
            gate.turn_ended();
            advance(interval).await;
        }
        gate.set_waiting(0);
        gate.turn_ended();
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_handshakes_wait_as_have_their_turn_in_the_target() {
        let gate = Gate::default();
        for (interval, limit) in [(25, FEWEST), (5, 20), (1, 100)] {
            measure(&gate, Duration::from_millis(interval)).await;
            assert!(gate.limit().abs_diff(limit) <= 1, "{} for {interval} ms", gate.limit());
        }
        // Time without handshakes that wait is not a measurement.
        let before = gate.limit();
        gate.turn_ended();
        advance(Duration::from_secs(60)).await;
        gate.turn_ended();
        assert_eq!(gate.limit(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn closes_at_the_limit_and_opens_at_half_of_it() {
        let gate = Gate::default();
        let limit = gate.limit();
        gate.set_waiting(limit - 1);
        assert!(is_open(&gate));
        gate.set_waiting(limit);
        let mut waiting = Box::pin(gate.open());
        assert!(waiting.as_mut().now_or_never().is_none());
        advance(Duration::from_secs(2)).await;
        gate.set_waiting(limit / 2 + 1);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(gate.closed(), Duration::from_secs(2));
        gate.set_waiting(limit / 2);
        assert!(waiting.as_mut().now_or_never().is_some());
        advance(Duration::from_secs(2)).await;
        assert_eq!(gate.closed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernels_queue_is_short_from_one_second_of_overload_until_one_second_after_it() {
        let gate = Arc::new(Gate::default());
        let mut backlog = Backlog::new(Arc::clone(&gate));
        let step = Duration::from_millis(100);
        let short = i32::try_from(gate.limit()).expect("small");
        assert!(backlog.change().is_none());
        assert!(backlog.due().now_or_never().is_none());
        // The gate is never closed for long.
        for _ in 0..10 {
            gate.set_waiting(gate.limit());
            assert_eq!(backlog.change(), None);
            gate.set_waiting(0);
            advance(step).await;
        }
        gate.set_waiting(gate.limit());
        assert_eq!(backlog.change(), Some(short));
        assert_eq!(backlog.change(), None);
        gate.set_waiting(0);
        let start = Instant::now();
        let length = loop {
            backlog.due().await;
            if let Some(length) = backlog.change() {
                break length;
            }
        };
        assert_eq!((length, start.elapsed()), (BACKLOG, QUIET));
    }
}
