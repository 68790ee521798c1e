//! The ticket of the handshake that the current task polls.
//!
//! # Design notes
//! rustls asks for a ticket with the bytes of the session and nothing else.  As for the chain
//! ([`peer_chain`](crate::tls::peer_chain)), a task-local says which handshake it is for.  Here the client
//! certificate is known, which is not so when rustls asks for a configuration.  Without an answer, TLS 1.3
//! sends no ticket, and TLS 1.2 an empty one (RFC 5077 section 3.3).

use std::cell::Cell;
use std::net::IpAddr;

use rustls::server::ClientHello;
use tokio::time::Instant;

use crate::tls::ticket_readers::{Client, TicketReaders, kind, name_of};

tokio::task_local! {
    static HANDSHAKE: Slot;
}

struct Slot {
    address: IpAddr,
    /// The kind of a client that offers TLS 1.3.
    kind: Cell<Option<u64>>,
    /// The client sent a ticket that can be used.
    is_opened: Cell<bool>,
    sent: Cell<Option<Sent>>,
    is_withheld: Cell<bool>,
}

/// The ticket that a handshake asked for.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The client sent a ticket that can be used.
    pub is_opened: bool,
    /// A TLS 1.3 ticket was sent.
    pub sent: Option<Sent>,
    /// A ticket was not sent, because the client may not be able to read it.
    pub is_withheld: bool,
}

/// A ticket that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub client: Client,
    pub readers: TicketReaders,
}

/// Runs the handshake with a client at `address`.  Returns its output and its ticket.
pub(super) async fn observe<T>(
    address: IpAddr,
    handshake: impl Future<Output = T>,
) -> (T, Outcome) {
    let (kind, is_opened, sent, is_withheld) = Default::default();
    let slot = Slot { address, kind, is_opened, sent, is_withheld };
    let handshake = async {
        let output = handshake.await;
        let outcome = HANDSHAKE.with(|slot| Outcome {
            is_opened: slot.is_opened.get(),
            sent: slot.sent.take(),
            is_withheld: slot.is_withheld.get(),
        });
        (output, outcome)
    };
    HANDSHAKE.scope(slot, handshake).await
}

/// Notes the ClientHello.
pub(super) fn hello(hello: &ClientHello<'_>) {
    let _ = HANDSHAKE.try_with(|slot| slot.kind.set(kind(hello)));
}

/// Notes that the handshake is one of TLS 1.2, whatever the client offered.  A handshake of TLS 1.2 without a
/// client certificate counts as what the client offered.
pub(super) fn chose_tls12() {
    let _ = HANDSHAKE.try_with(|slot| slot.kind.set(None));
}

/// Notes that a ticket of the client can be used.
pub(super) fn opened() {
    let _ = HANDSHAKE.try_with(|slot| slot.is_opened.set(true));
}

/// Returns true in a handshake of TLS 1.3.
pub(super) fn is_tls13() -> bool {
    HANDSHAKE.try_with(|slot| slot.kind.get().is_some()).unwrap_or(false)
}

/// Decides whether the client of a TLS 1.3 handshake gets a ticket.  `leaf` names its certificate, if one
/// was judged.
pub(super) fn may_have_ticket(readers: &TicketReaders, leaf: Option<u64>) -> bool {
    let in_handshake = HANDSHAKE.try_with(|slot| {
        let kind = slot.kind.get()?;
        let name = match leaf {
            Some(leaf) => name_of(leaf, kind),
            None => name_of(slot.address, kind),
        };
        let client = Client { name, kind, is_judged: leaf.is_some() };
        let is_sent = slot.is_opened.get() || readers.may_have_ticket(&client, Instant::now());
        slot.is_withheld.set(!is_sent);
        slot.sent.set(is_sent.then(|| Sent { client, readers: readers.clone() }));
        Some(is_sent)
    });
    in_handshake.ok().flatten().unwrap_or(true)
}
