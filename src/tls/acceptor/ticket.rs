//! Clients that end the connection after their session ticket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::{ProtocolVersion, ServerConnection};
use tokio::time::Instant;

use crate::http::serve::Ended;
use crate::tls::ticket_slot::{Outcome, Sent};

/// A client that cannot read a ticket and sends no alert ends the connection within this time.
const AFTER_TICKET: Duration = Duration::from_secs(5);

/// Facts about a connection and its session ticket.
pub(super) struct Ticket {
    /// A TLS 1.3 ticket was sent to a client that is not known to read tickets.
    sent: Option<Sent>,
    /// A TLS 1.3 ticket was not sent, because the client may not be able to read it.
    pub(super) is_withheld: bool,
    completed: Instant,
    pub(super) has_request: Arc<AtomicBool>,
}

impl Ticket {
    /// Takes the ticket of a completed handshake.  A client that resumed has read one before.
    pub(super) fn new(outcome: Outcome, tls: &ServerConnection) -> Self {
        let is_tls13 = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let mut sent = outcome.sent.filter(|_| is_tls13);
        if outcome.is_opened
            && let Some(sent) = sent.take()
        {
            sent.readers.resumed(&sent.client);
        }
        let is_withheld = is_tls13 && outcome.is_withheld;
        Self { sent, is_withheld, completed: Instant::now(), has_request: Arc::default() }
    }

    /// Notes the end of the connection.  Returns `None` unless the client may not be able to read the
    /// ticket, and then whether it gets none for a while.
    pub(super) fn ended(&self, ended: Ended) -> Option<bool> {
        let now = Instant::now();
        let has_alert = ended == Ended::Broken;
        let is_silent = ended == Ended::Closed
            && !self.has_request.load(Ordering::Relaxed)
            && now - self.completed < AFTER_TICKET;
        let failed = self.sent.as_ref().filter(|_| has_alert || is_silent);
        failed.map(|sent| sent.readers.failed(&sent.client, has_alert, now))
    }
}
