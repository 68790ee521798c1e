//! One handshake: it waits for its turn, is answered, and ends with a peer or a reason.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ProtocolVersion::TLSv1_3;
use rustls::server::Acceptor;
use rustls::{Error as TlsError, HandshakeKind, ServerConnection};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::field::Empty;
use tracing::{Instrument as _, Span, debug, trace_span, warn};

use crate::http::Hosts;
use crate::http::connections::Connection;
use crate::http::peer::Peer;
use crate::http::proxy_protocol::Addresses;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::log_limit::LogLimit;
use crate::runtime::tasks::Stop;
use crate::runtime::telemetry::spans;
use crate::tls::acceptor::TlsListener;
use crate::tls::acceptor::closers::Closers;
use crate::tls::acceptor::ticket::Ticket;
use crate::tls::handshakes::{Handshake, Handshakes};
use crate::tls::lingering::Lingering;
use crate::tls::peer_chain::{self, Intermediates};
use crate::tls::ticket_slot;
use crate::tls::verifier::refused;
use crate::tls::wire::Wire;
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::Fingerprint;

/// Age from which a handshake makes room for another one if no more may begin.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// A listener and the state that its connections share.
pub(super) struct Edge {
    pub(super) listener: TlsListener,
    pub(super) handshakes: Arc<Handshakes>,
    pub(super) intermediates: Arc<Intermediates>,
    pub(super) lingering: Lingering,
    pub(super) failures: LogLimit,
    pub(super) ticket_hints: LogLimit,
    pub(super) closers: Closers,
    pub(super) stop: Stop,
}

/// A completed handshake.
pub(super) struct Completed {
    /// Boxed, because moving it would reserve its space in each future that it passes through.
    pub(super) stream: Box<TlsStream<Wire>>,
    pub(super) peer: Peer,
    pub(super) hosts: Hosts,
    pub(super) ticket: Ticket,
}

/// A handshake that did not complete.
enum Incomplete {
    /// It failed.  On the stream, the peer is to receive an alert.
    Failed(io::Error, Option<TcpStream>),
    /// It was given up, for this reason.
    Dropped(&'static str),
}

impl From<io::Error> for Incomplete {
    fn from(error: io::Error) -> Self {
        Self::Failed(error, None)
    }
}

impl Edge {
    /// Completes the handshake.  The error is the connection of a refused peer, which has to receive
    /// the alert.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
        number: u64,
    ) -> Result<Completed, Option<TcpStream>> {
        let Self { listener, intermediates, .. } = self;
        let (started, address) = (Instant::now(), addresses.client);
        let span = trace_span!(
            target: spans::TARGET,
            "TLS handshake",
            anchorgate.listener = listener.name,
            anchorgate.connection = number,
            client.address = %address.ip(),
            tls.protocol.version = Empty,
            tls.cipher = Empty,
            tls.curve = Empty,
            tls.resumed = Empty,
            error.type = Empty,
        );
        let accepted = self.accept(stream, connection, addresses, started).instrument(span.clone());
        let collected = peer_chain::collect(intermediates, accepted);
        let ((accepted, judged), ticket) = ticket_slot::observe(address.ip(), collected).await;
        let (kept, is_known) = judged.unzip();
        let (error, stream) = match accepted {
            Ok((stream, hosts)) => {
                let tls = stream.get_ref().1;
                let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
                describe(&span, tls, resumed);
                let kind = match (resumed, is_known) {
                    (true, _) => "resumed",
                    (false, Some(true)) => "known",
                    (false, _) => "full",
                };
                listener.metrics.completed(listener.name, kind, started.elapsed());
                listener.metrics.negotiated(listener.name, tls);
                let presented = tls.peer_certificates();
                let chain = match listener.keeps_chains {
                    true => presented
                        .ok_or_else(no_certificate)
                        .and_then(|sent| intermediates.share(sent, kept, &listener.live)),
                    false => Err(Refusal::new(Code::CertificateMissing, "no chain is kept")),
                };
                if let (Ok(chain), Some(false)) = (&chain, is_known) {
                    listener.metrics.tolerated(chain);
                }
                let certificate = match &chain {
                    Ok(chain) => Some(chain.leaf().fingerprint),
                    Err(_) => presented.and_then(<[_]>::first).map(|leaf| Fingerprint::of(leaf)),
                };
                let ticket = Ticket::new(ticket, tls);
                if ticket.is_withheld {
                    listener.metrics.ticket_withheld(listener.name);
                }
                let peer = Peer { address, connection: number, certificate, chain, resumed };
                return Ok(Completed { stream: Box::new(stream), peer, hosts, ticket });
            }
            Err(Incomplete::Dropped(reason)) => {
                span.record("error.type", reason);
                listener.metrics.failed(listener.name, reason);
                let after = started.elapsed();
                debug!(connection = number, %address, reason, ?after, "handshake not completed");
                return Err(None);
            }
            Err(Incomplete::Failed(error, stream)) => {
                span.record("error.type", "tls");
                (error, stream)
            }
        };
        match error.get_ref().and_then(|e| e.downcast_ref::<TlsError>()) {
            // The verifier knows the refusal code and has counted and audited it.
            Some(TlsError::InvalidCertificate(_)) => {}
            Some(TlsError::NoCertificatesPresented) => {
                refused(&listener.metrics, &no_certificate(), None, None);
            }
            Some(error) => {
                listener.metrics.failed(listener.name, "tls");
                debug!(connection = number, %address, %error, "handshake failed");
                self.audit_failure(error);
            }
            None => {
                listener.metrics.failed(listener.name, "io");
                debug!(connection = number, %address, %error, "handshake aborted");
                return Err(None);
            }
        }
        Err(stream)
    }

    /// Audits a handshake that failed before a certificate was judged.  Strangers can cause any number of
    /// these, so one in each second is written.
    fn audit_failure(&self, error: &TlsError) {
        let Some(suppressed) = self.failures.permit() else { return };
        let mut detail =
            format!("the TLS handshake with the {} listener failed: {error}", self.listener.name);
        if suppressed > 0 {
            detail += &format!("; {suppressed} failures before it are not in the log");
        }
        Record { detail: Some(&detail), ..Record::new(Event::Handshake, Outcome::Refused) }.emit();
    }

    /// Counts a client that ended the connection after its session ticket.  Several that get no further
    /// ticket are logged; a single one is likelier a probe.
    pub(super) fn closed_after_ticket(
        &self,
        connection: u64,
        address: SocketAddr,
        gets_no_ticket: bool,
    ) {
        self.listener.metrics.closed_after_ticket(self.listener.name);
        let is_likely = gets_no_ticket && self.closers.add(address.ip());
        if is_likely && self.ticket_hints.permit().is_some() {
            warn!(
                connection,
                %address,
                listener = self.listener.name,
                "several clients ended their connections after their TLS 1.3 session tickets, as wolfSSL \
                 built by default does. This can also be a health check or a client that closes at once. \
                 Their next connections get no ticket and can request a token; `tls.resumption` has more. \
                 anchorgate_closed_after_ticket_total counts these connections"
            );
        }
    }

    async fn accept(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
        started: Instant,
    ) -> Result<(TlsStream<Wire>, Hosts), Incomplete> {
        // The time runs from accept, so that all silent peers time out together.
        let deadline = started + self.listener.bounds.borrow().handshake;
        let accepted = async {
            tokio::select! {
                biased;
                ready = stream.readable() => ready?,
                () = connection.until_unwanted(&self.stop) => {
                    return Err(Incomplete::Dropped("silent"));
                }
            }
            let _work = connection.begin();
            tokio::select! {
                accepted = self.negotiate(stream, connection, addresses) => accepted,
                () = connection.until_overdue(&self.stop) => Err(Incomplete::Dropped("slow")),
            }
        };
        timeout_at(deadline, accepted).await.unwrap_or(Err(Incomplete::Dropped("timeout")))
    }

    /// Completes the handshake of a connection on which data has arrived.
    async fn negotiate(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
    ) -> Result<(TlsStream<Wire>, Hosts), Incomplete> {
        let address = addresses.client;
        let handshake = tokio::select! {
            biased;
            handshake = self.turn(connection, address) => handshake?,
            ended = given_up(&stream) => {
                ended?;
                return Err(Incomplete::Dropped("gone"));
            }
        };
        // A client that has given up meanwhile costs no cryptography.
        if handshake.has_waited() && is_closed(&stream).await? {
            return Err(Incomplete::Dropped("gone"));
        }
        // Boxed, so that a connection that waits or is idle does not keep the space that this needs.
        Box::pin(self.answer(stream, connection, addresses, handshake)).await
    }

    async fn turn(
        &self,
        connection: &Connection,
        address: SocketAddr,
    ) -> Result<Handshake, Incomplete> {
        let turn = self.handshakes.turn(address.ip(), connection.closing()).await;
        turn.ok_or(Incomplete::Dropped("queue"))
    }

    /// Completes the handshake of a connection whose turn it is.
    async fn answer(
        &self,
        stream: TcpStream,
        connection: &Connection,
        addresses: Addresses,
        mut handshake: Handshake,
    ) -> Result<(TlsStream<Wire>, Hosts), Incomplete> {
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), Wire(stream));
        let start = match poll_once(&mut hello).await {
            Poll::Ready(start) => start,
            // A part of the ClientHello is missing, and waiting for it must not use up a turn.
            Poll::Pending => {
                drop(handshake);
                let start = (&mut hello).await;
                handshake = self.turn(connection, addresses.client).await?;
                start
            }
        };
        let start = match start {
            Ok(start) => start,
            Err(error) => {
                let stream = hello.take_io().map(|wire| wire.0);
                return Err(Incomplete::Failed(error, stream));
            }
        };
        ticket_slot::hello(&start.client_hello());
        let tls = Arc::clone(&self.listener.live.current().tls);
        let hosts = Hosts::Of(Arc::clone(&tls.hosts), addresses.server.ip());
        let mut accept = start.into_stream(Arc::clone((self.listener.tls)(&tls))).into_fallible();
        let answered = poll_once(&mut accept).await;
        yield_now().await;
        handshake.answered();
        let accepted = match answered {
            Poll::Ready(accepted) => accepted,
            Poll::Pending => accept.await,
        };
        match accepted {
            Ok(stream) => Ok((stream, hosts)),
            Err((error, Wire(stream))) => Err(Incomplete::Failed(error, Some(stream))),
        }
    }
}

/// Records what a handshake agreed on.
fn describe(span: &Span, tls: &ServerConnection, resumed: bool) {
    if span.is_disabled() {
        return;
    }
    span.record("tls.resumed", resumed);
    if let Some(version) = tls.protocol_version() {
        span.record("tls.protocol.version", if version == TLSv1_3 { "1.3" } else { "1.2" });
    }
    if let Some(suite) = tls.negotiated_cipher_suite() {
        span.record("tls.cipher", suite.suite().as_str());
    }
    if let Some(group) = tls.negotiated_key_exchange_group() {
        span.record("tls.curve", group.name().as_str());
    }
}

/// Returns when a client that waits for its turn has closed the connection.  This is noticed up to
/// [`SLOW`] later.
async fn given_up(stream: &TcpStream) -> io::Result<()> {
    loop {
        sleep(SLOW).await;
        if is_closed(stream).await? {
            return Ok(());
        }
    }
}

/// Returns true if the peer has closed a connection on which data has arrived.
async fn is_closed(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.ready(Interest::READABLE).await?.is_read_closed())
}

/// Polls `future` once, so that it does what it can do now.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
}

fn no_certificate() -> Refusal {
    Refusal::new(Code::CertificateMissing, "no certificate was presented")
}
