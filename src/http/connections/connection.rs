//! One connection of a listener: its work, its holders and its end.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::http::admission::Hosts;
use crate::http::connections::shares::{Holder, holders};
use crate::http::connections::{Admission, Reason, State};
use crate::http::reply::Reply;
use crate::http::serve::{Ended, Limits, Protocol, RequestBody, connection};
use crate::runtime::tasks::Stop;

/// Time in which an idle connection ends gracefully before it is dropped.
const CLOSE: Duration = Duration::from_secs(1);
/// Time after its start in which a connection may still send its first request to a process that
/// stops.
const FRESH: Duration = Duration::from_secs(1);

/// One admitted connection, silent at first.  Dropping it frees its place.
pub struct Connection {
    pub(super) admission: Arc<Admission>,
    pub(super) state: Arc<State>,
    pub(super) number: u64,
    pub(super) established: Instant,
}

impl Connection {
    /// Signalled when the connection must close.
    pub fn closing(&self) -> &CancellationToken {
        &self.state.close
    }

    /// Begins a handshake or a request.  Until the returned value is dropped, the connection is
    /// busy.
    pub fn begin(&self) -> Work {
        if self.state.is_silent.swap(false, Ordering::Relaxed) {
            self.admission.lock().silent.remove(&self.number);
        }
        Work::begin(&self.admission, &self.state)
    }

    /// Counts the connection for a client certificate, by its SHA-256.
    ///
    /// # Errors
    /// The certificate has as many connections as one may have, and none is idle.
    pub(crate) fn assign(&self, certificate: &[u8; 32]) -> Result<(), Reason> {
        let mut half = [0; 16];
        half.copy_from_slice(&certificate[..16]);
        self.hold(&[Holder::Certificate(half)], Reason::Certificate)
    }

    /// Counts a connection through a load balancer for the address of the client.
    ///
    /// # Errors
    /// The address has as many connections as one may have, and none is idle.
    pub(crate) fn assign_address(&self, client: IpAddr) -> Result<(), Reason> {
        self.hold(&holders(client), Reason::Address)
    }

    fn hold(&self, holders: &[Holder], reason: Reason) -> Result<(), Reason> {
        let mut table = self.admission.lock();
        if !self.admission.make_room_among(&mut table, holders) {
            (self.admission.observer)(reason);
            return Err(reason);
        }
        // A connection that was told to close is not in the table.
        if let Some(open) = table.open.get_mut(&self.number) {
            open.holders.extend(holders);
            for holder in holders {
                table.holders.entry(*holder).or_default().insert(self.number);
            }
        }
        Ok(())
    }

    /// Marks a connection that only waits for the peer to close it.  It counts as silent.
    pub(crate) fn linger(&self) {
        let mut table = self.admission.lock();
        if table.open.contains_key(&self.number) {
            self.state.is_silent.store(true, Ordering::Relaxed);
            table.silent.insert(self.number);
        }
    }

    /// Serves HTTP on `io`.  After `stop` is signalled, an idle connection closes at once, and
    /// requests have `unfinished` to end, less if they have not arrived completely.  A connection
    /// that has just been made may send its first request.
    #[allow(clippy::too_many_arguments)] // Each is of another type.
    pub async fn serve<IO, H, F>(
        &self,
        io: IO,
        protocol: Protocol,
        hosts: Hosts,
        limits: &Limits,
        stop: &Stop,
        unfinished: Duration,
        handler: H,
    ) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Fn(Request<RequestBody>) -> F + Clone + Send + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let (admission, state) = (Arc::clone(&self.admission), Arc::clone(&self.state));
        let number = self.number;
        let counted = move |request: Request<RequestBody>| {
            if !state.has_request.swap(true, Ordering::Relaxed) {
                state.first_request.notify_one();
            }
            if state.is_silent.swap(false, Ordering::Relaxed) {
                admission.lock().silent.remove(&number);
            }
            let work = Work::begin(&admission, &state);
            let response = handler(request);
            async move {
                let response = response.await;
                drop(work);
                response
            }
        };
        let graceful = CancellationToken::new();
        let served =
            connection(io, protocol, hosts, limits, graceful.clone(), stop.clone(), counted);
        let ended = tokio::select! {
            ended = served => ended,
            ended = self.until_cut(stop, unfinished, &graceful) => ended,
        };
        if ended == Ended::Cut {
            (self.admission.observer)(Reason::Stopping);
        }
        ended
    }

    /// Returns when the connection must be dropped.  Signals `graceful` before, unless there is
    /// nothing to end gracefully.
    async fn until_cut(
        &self,
        stop: &Stop,
        unfinished: Duration,
        graceful: &CancellationToken,
    ) -> Ended {
        let state = &self.state;
        tokio::select! {
            () = state.close.cancelled() => {
                if state.is_cut.load(Ordering::Relaxed) {
                    return Ended::TimedOut;
                }
                graceful.cancel();
                sleep(CLOSE).await;
                while state.work.load(Ordering::Relaxed) > 0 {
                    sleep(CLOSE).await;
                }
                Ended::TimedOut
            }
            () = stop.cancelled() => {
                if !state.has_request.load(Ordering::Relaxed) {
                    tokio::select! {
                        () = state.first_request.notified() => {}
                        () = state.close.cancelled() => {}
                        () = sleep_until(self.established + FRESH) => {}
                    }
                }
                graceful.cancel();
                sleep(unfinished).await;
                match state.work.load(Ordering::Relaxed) {
                    0 => Ended::TimedOut,
                    _ => Ended::Cut,
                }
            }
        }
    }

    /// Returns when a silent connection must be dropped: others need its place, or the process stops
    /// and the connection is not new.
    pub(crate) async fn until_unwanted(&self, stop: &Stop) {
        tokio::select! {
            () = self.state.close.cancelled() => {}
            () = stop.cancelled() => sleep_until(self.established + FRESH).await,
        }
    }

    /// Returns when a handshake must be dropped: others need its place, or the process stops and the
    /// handshake does not end soon.
    pub(crate) async fn until_overdue(&self, stop: &Stop) {
        tokio::select! {
            () = self.state.close.cancelled() => {}
            () = stop.cancelled() => sleep(FRESH).await,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.admission.lock().remove(self.number);
        self.admission.changed.notify_waiters();
    }
}

/// A handshake or a request in progress.
pub struct Work {
    admission: Arc<Admission>,
    state: Arc<State>,
}

impl Work {
    fn begin(admission: &Arc<Admission>, state: &Arc<State>) -> Self {
        state.work.fetch_add(1, Ordering::Relaxed);
        state.since.store(admission.now(), Ordering::Relaxed);
        Self { admission: Arc::clone(admission), state: Arc::clone(state) }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.state.since.store(self.admission.now(), Ordering::Relaxed);
        if self.state.work.fetch_sub(1, Ordering::SeqCst) == 1
            && self.admission.is_room_wanted.load(Ordering::SeqCst)
        {
            self.admission.changed.notify_waiters();
        }
    }
}
