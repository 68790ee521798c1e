//! Activity on a connection, as its watchdog sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http::serve::{Limits, Protocol};

/// The facts that the watchdog checks.
pub(super) struct Activity {
    start: Instant,
    pub(super) protocol: Protocol,
    /// Requests whose header was read and whose response is not ready.
    pub(super) handling: AtomicUsize,
    /// Requests that are handled and whose body has not arrived completely.
    pub(super) receiving: AtomicUsize,
    /// Signalled when the connection should not receive further requests.
    pub(super) last_request: Notify,
    /// Bytes arrived while no request was handled: a request has begun.
    pub(super) reading: AtomicBool,
    /// Time of the last change of `handling` or `reading`, in milliseconds since `start`.
    since: AtomicU64,
    /// The target of the request that is being read has a fragment.
    pub(super) has_fragment: AtomicBool,
    /// On HTTP/1: the body of the current request has not been read to its end.
    pub(super) unread: AtomicBool,
    /// A part of a response could not be written yet.
    unsent: AtomicBool,
}

impl Activity {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self {
            start: Instant::now(),
            protocol,
            handling: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            last_request: Notify::new(),
            // The header limit also applies to the first request of a connection.
            reading: AtomicBool::new(true),
            since: AtomicU64::new(0),
            has_fragment: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
        }
    }

    pub(super) fn mark(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(ms, Ordering::Relaxed);
    }

    pub(super) fn deadline(&self, limits: &Limits) -> Instant {
        if self.handling.load(Ordering::Relaxed) > 0 {
            // Each request that is handled has its own limit.  Check again after it.
            return Instant::now() + limits.request;
        }
        let since = self.start + Duration::from_millis(self.since.load(Ordering::Relaxed));
        since + if self.is_reading() { limits.header_read } else { limits.idle }
    }

    /// True if no response depends on this side: each unfinished request waits for the peer.
    pub(super) fn waits_for_peer(&self) -> bool {
        self.receiving.load(Ordering::Relaxed) >= self.handling.load(Ordering::Relaxed)
    }

    /// Notes whether a response waits for the peer to read it.
    pub(super) fn note_unsent(&self, is_unsent: bool) {
        if self.unsent.load(Ordering::Relaxed) != is_unsent {
            self.unsent.store(is_unsent, Ordering::Relaxed);
        }
    }

    /// True if no request was read, handled or answered for `time`.
    pub(super) fn is_idle_for(&self, time: Duration) -> bool {
        let since = self.start + Duration::from_millis(self.since.load(Ordering::Relaxed));
        self.handling.load(Ordering::Relaxed) == 0
            && !self.is_reading()
            && !self.unsent.load(Ordering::Relaxed)
            && since.elapsed() >= time
    }

    /// True if a request has begun.  There is nothing to finish gracefully then.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.load(Ordering::Relaxed)
    }
}

/// Counts one request as being handled until it is dropped.
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
}

impl RequestGuard {
    pub(super) fn begin(activity: &Arc<Activity>) -> Self {
        activity.handling.fetch_add(1, Ordering::Relaxed);
        activity.reading.store(false, Ordering::Relaxed);
        activity.mark();
        Self { activity: Arc::clone(activity) }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.handling.fetch_sub(1, Ordering::Relaxed);
        self.activity.mark();
    }
}
