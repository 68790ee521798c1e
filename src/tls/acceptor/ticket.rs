//! Clients that close the connection after their session ticket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ProtocolVersion;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::tls::acceptor::TlsListener;

/// A client that cannot read a ticket closes the connection within this time.
const AFTER_TICKET: Duration = Duration::from_secs(5);

/// Facts about a connection and its session ticket.
pub(super) struct Ticket {
    /// A TLS 1.3 ticket was sent.
    is_sent: bool,
    completed: Instant,
    pub(super) has_request: Arc<AtomicBool>,
}

impl Ticket {
    pub(super) fn of(stream: &TlsStream<TcpStream>, listener: &TlsListener) -> Self {
        let is_tls13 = stream.get_ref().1.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let tls = &listener.live.current().tls;
        let is_sent = is_tls13 && (listener.tls)(tls).send_tls13_tickets > 0;
        Self { is_sent, completed: Instant::now(), has_request: Arc::default() }
    }

    /// Returns true if the connection has just ended and the ticket was the last message that its client
    /// read.
    pub(super) fn was_last(&self) -> bool {
        self.is_sent
            && !self.has_request.load(Ordering::Relaxed)
            && self.completed.elapsed() < AFTER_TICKET
    }
}
