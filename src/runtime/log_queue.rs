//! The queue between code that logs and the thread that writes.
//!
//! # Design notes
//! Standard error can be a pipe that is never read, a full disk or a closed terminal.  Code that logs
//! must not wait for it: it would hold a request, a poll or the shutdown.  Lines therefore pass through a
//! bounded queue to a thread of their own.  Lines that do not fit are dropped and counted, and the writer
//! reports the number as soon as it can write again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that wait to be written.
pub(super) const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Pause before another attempt to write to a destination that would block.
const WOULD_BLOCK: Duration = Duration::from_millis(20);

/// Error of a flush that tells how many lines are lost.
#[derive(Debug, thiserror::Error)]
#[error("{0} lines are lost")]
pub(super) struct Lost(pub(super) usize);

/// A bounded queue of lines.
pub(super) struct LogQueue {
    limit: usize,
    state: Mutex<State>,
    /// Notified when a line is added.
    filled: Condvar,
    /// Notified when lines were written.
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of lines that are not written yet, those in the writer's hands included.
    bytes: usize,
    /// Lines dropped since the last report.
    dropped: u64,
    /// The queue was full for longer than a caller's patience.  Later callers do not wait again until
    /// lines were written.
    is_stuck: bool,
}

impl LogQueue {
    /// Creates a queue of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), filled: Condvar::new(), written: Condvar::new() }
    }

    /// Starts the thread that writes to `out`.  `report` makes the line that reports dropped lines.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(
        self: &Arc<Self>,
        out: impl Write + Send + 'static,
        report: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<()> {
        let queue = Arc::clone(self);
        let thread = std::thread::Builder::new().name("log".to_owned());
        thread.spawn(move || queue.write(out, report)).map(drop)
    }

    /// Adds a line, and waits at most `patience` for room.  Returns false if the line is dropped.
    pub(super) fn push(&self, line: Vec<u8>, patience: Duration) -> bool {
        let mut state = self.lock();
        let is_full = |state: &State| state.bytes + line.len() > self.limit;
        if is_full(&state) && !patience.is_zero() && !state.is_stuck {
            let end = Instant::now() + patience;
            while is_full(&state) {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() || state.is_stuck {
                    state.is_stuck = true;
                    break;
                }
                state = self
                    .written
                    .wait_timeout(state, left)
                    .map_or_else(|error| error.into_inner().0, |(state, _)| state);
            }
        }
        if is_full(&state) {
            state.dropped += 1;
            return false;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.filled.notify_one();
        true
    }

    /// Waits at most `patience` until every line is written.
    pub(super) fn flush(&self, patience: Duration) {
        let (state, end) = (self.lock(), Instant::now() + patience);
        let _ =
            self.written.wait_timeout_while(state, end - Instant::now(), |state| state.bytes > 0);
    }

    fn write(&self, mut out: impl Write, report: impl Fn(u64) -> Vec<u8>) {
        loop {
            let mut state = self.lock();
            while state.lines.is_empty() {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let lines = std::mem::take(&mut state.lines);
            drop(state);
            let failed = lines.iter().filter(|line| !write_all(&mut out, line)).count();
            let failed = match out.flush() {
                Ok(()) => failed,
                Err(error) => match error.get_ref().and_then(|e| e.downcast_ref::<Lost>()) {
                    Some(Lost(lost)) => failed + lost,
                    None => lines.len(),
                },
            };
            let mut state = self.lock();
            state.dropped += failed as u64;
            state.bytes -= lines.iter().map(Vec::len).sum::<usize>();
            state.is_stuck = false;
            let dropped = std::mem::take(&mut state.dropped);
            drop(state);
            self.written.notify_all();
            // While nothing can be written, the number grows.
            if dropped > 0
                && (failed == lines.len()
                    || !write_all(&mut out, &report(dropped))
                    || out.flush().is_err())
            {
                self.lock().dropped += dropped;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The fields are consistent after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line.  Returns false after an error: there is no other place to report it, and the next line
/// may succeed, for example after a log rotation freed the disk.
fn write_all(out: &mut impl Write, mut line: &[u8]) -> bool {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return false,
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Standard error may share a non-blocking pipe with another program.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(WOULD_BLOCK);
            }
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// A destination that accepts one write for each permit, and shows what was written.
    struct Gate {
        permits: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.permits.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated(limit: usize) -> (Arc<LogQueue>, Sender<()>, Receiver<Vec<u8>>) {
        let (permits, inbox) = channel();
        let (written, outbox) = channel();
        let queue = Arc::new(LogQueue::new(limit));
        let gate = Gate { permits: inbox, written };
        queue.start(gate, |n| format!("{n} dropped").into_bytes()).expect("a thread");
        (queue, permits, outbox)
    }

    #[test]
    fn drops_lines_that_do_not_fit_and_reports_their_number() {
        let (queue, permits, written) = gated(10);
        assert!(queue.push(b"12345".to_vec(), Duration::ZERO));
        assert!(queue.push(b"67890".to_vec(), Duration::ZERO));
        assert!(!queue.push(b"x".to_vec(), Duration::ZERO), "full");
        assert!(!queue.push(b"y".to_vec(), Duration::ZERO));
        for _ in 0..3 {
            permits.send(()).expect("the thread runs");
        }
        let mut all: Vec<u8> = Vec::new();
        while !all.ends_with(b"dropped") {
            permits.send(()).expect("the thread runs");
            all.extend(written.recv().expect("written"));
        }
        assert_eq!(String::from_utf8_lossy(&all), "12345678902 dropped");
    }

    #[test]
    fn waits_no_longer_than_its_patience_and_once_only() {
        let (queue, _permits, _written) = gated(4);
        assert!(queue.push(b"1234".to_vec(), Duration::ZERO));
        assert!(!queue.push(b"5".to_vec(), Duration::from_millis(1)));
        // A stuck queue is not waited for again: this would take an hour.
        assert!(!queue.push(b"6".to_vec(), Duration::from_secs(3600)));
        queue.flush(Duration::from_millis(1));
    }

    #[test]
    fn a_patient_line_is_written_when_room_appears() {
        let (queue, permits, written) = gated(4);
        assert!(queue.push(b"1234".to_vec(), Duration::ZERO));
        let patient = Arc::clone(&queue);
        let waiting =
            std::thread::spawn(move || patient.push(b"5678".to_vec(), Duration::from_secs(60)));
        permits.send(()).expect("the thread runs");
        permits.send(()).expect("the thread runs");
        assert!(waiting.join().expect("no panic"));
        assert_eq!(written.recv().expect("written"), b"1234");
        assert_eq!(written.recv().expect("written"), b"5678");
        queue.flush(Duration::from_secs(60));
    }

    #[test]
    fn a_destination_that_fails_loses_the_line_only() {
        struct Broken(bool, Sender<Vec<u8>>);
        impl Write for Broken {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if std::mem::take(&mut self.0) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                let _ = self.1.send(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, written) = channel();
        let queue = Arc::new(LogQueue::new(100));
        queue.start(Broken(true, sender), |n| format!("{n} lost").into_bytes()).expect("a thread");
        assert!(queue.push(b"lost".to_vec(), Duration::ZERO));
        assert!(queue.push(b"kept".to_vec(), Duration::ZERO));
        assert_eq!(written.recv().expect("written"), b"kept");
        assert_eq!(written.recv().expect("written"), b"1 lost");
    }
}
