//! Decides which handshakes of one listener run, and which wait.
//!
//! # Design notes
//! A handshake has two costs: the answer to the ClientHello (key exchange, our signature), and the
//! check of the client's certificate, after the client has answered.  If every ClientHello is
//! answered at once, an overloaded gateway has more handshakes open than it can finish, all of them
//! end too late, and it serves no client.
//!
//! So the first cost needs a turn.  There are as many turns at a time as processors.  A turn ends
//! when the task has been scheduled once more, after everything that was ready before it: the
//! requests on open connections, and the answers of the clients whose handshake has begun.
//! Handshakes therefore start only as fast as they are finished.
//!
//! While many connections wait for their turn, the listener accepts no more ([`Gate`]).  So the queue
//! is short, and turns go to the connection that has waited longest.  Connections that were accepted
//! before and send their ClientHello late, many at a time, can still make it long.  Then turns go to
//! the newest: those that arrived first have the least time left, and those that have waited too long
//! are closed before any cryptography.
//!
//! A peer that stops responding after our flight holds no turn.  It still counts as an open
//! handshake.  When these are used up, one that is older than [`Limits::slow`] makes room for another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::http::gate::Gate;

/// Limits on the handshakes of one listener.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// Handshakes whose ClientHello is being answered.
    pub starting: usize,
    /// Handshakes that have begun.
    pub open: usize,
    /// Handshakes of one address that have begun.  An IPv6 /64 counts as one address: a host that
    /// has one address of a /64 usually has all of them.
    pub per_address: usize,
    /// Longest wait for a turn.
    pub wait: Duration,
    /// Age from which a handshake that has begun makes room for another.
    pub slow: Duration,
}

/// The handshakes of one listener.
pub(super) struct Handshakes {
    gate: Arc<Gate>,
    state: Mutex<State>,
}

struct State {
    limits: Limits,
    starting: usize,
    next: u64,
    /// Handshakes that have begun, in this order.
    open: BTreeMap<u64, Open>,
    addresses: HashMap<IpAddr, BTreeSet<u64>>,
    /// Connections that wait, in the order of their arrival.
    waiting: BTreeMap<u64, Waiting>,
    /// Connections that wait for another one of their address to end.  Looking at each of them at
    /// every turn would cost more than the handshakes of others.
    held: HashMap<IpAddr, BTreeMap<u64, Waiting>>,
}

struct Open {
    address: IpAddr,
    since: Instant,
    close: CancellationToken,
}

struct Waiting {
    address: IpAddr,
    close: CancellationToken,
    turn: oneshot::Sender<Handshake>,
}

impl Handshakes {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { gate: Arc::default(), state: Mutex::new(State::new(limits)) })
    }

    /// Replaces the limits.  Those that wait keep their longest wait.
    pub(super) fn limit(self: &Arc<Self>, limits: Limits) {
        self.lock().limits = limits;
        self.give_turns();
    }

    /// Returns the gate that is closed while many connections wait for their turn.
    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Returns the number of handshakes that have begun.
    pub(super) fn begun(&self) -> usize {
        self.lock().open.len()
    }

    /// Returns the number of handshakes that may have begun.
    pub(super) fn most(&self) -> usize {
        self.lock().limits.open
    }

    /// Returns the number of connections that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        let state = self.lock();
        state.waiting.len() + state.held.values().map(BTreeMap::len).sum::<usize>()
    }

    /// Waits for a turn.  Returns `None` after [`Limits::wait`].  `close` is signalled when the
    /// handshake has begun and must make room for another.
    pub(super) async fn turn(
        self: &Arc<Self>,
        address: IpAddr,
        close: &CancellationToken,
    ) -> Option<Handshake> {
        let address = network(address);
        let (turn, waiting) = oneshot::channel();
        let (place, limits) = {
            let mut state = self.lock();
            let full = match self.start(&mut state, address, close) {
                Ok(handshake) => return Some(handshake),
                Err(full) => full,
            };
            let number = state.next;
            state.next += 1;
            let queue = match full {
                Full::Address => state.held.entry(address).or_default(),
                Full::Listener => &mut state.waiting,
            };
            queue.insert(number, Waiting { address, close: close.clone(), turn });
            self.gate.set_waiting(state.waiting.len());
            (Place { handshakes: self, number, address }, state.limits.clone())
        };
        match timeout(limits.wait, self.wait(waiting, limits.slow)).await {
            Ok(handshake) => handshake,
            Err(_) => {
                drop(place);
                // All that had begun before this connection arrived may make room for it now.
                self.start(&mut self.lock(), address, close).ok()
            }
        }
    }

    async fn wait(
        self: &Arc<Self>,
        mut waiting: oneshot::Receiver<Handshake>,
        slow: Duration,
    ) -> Option<Handshake> {
        loop {
            tokio::select! {
                biased;
                handshake = &mut waiting => return handshake.ok(),
                // Handshakes that have become slow make room, also if the gate is closed and no
                // other connection arrives.
                () = sleep(slow) => self.give_turns(),
            }
        }
    }

    fn start(
        self: &Arc<Self>,
        state: &mut State,
        address: IpAddr,
        close: &CancellationToken,
    ) -> Result<Handshake, Full> {
        if state.starting >= state.limits.starting {
            return Err(Full::Listener);
        }
        state.make_room(address)?;
        let number = state.next;
        state.next += 1;
        state.starting += 1;
        state.addresses.entry(address).or_default().insert(number);
        state.open.insert(number, Open { address, since: Instant::now(), close: close.clone() });
        Ok(Handshake { handshakes: Arc::clone(self), number, is_starting: true, waited: false })
    }

    /// Gives free turns to the next connections that may begin.
    fn give_turns(self: &Arc<Self>) {
        let mut given = Vec::new();
        let mut state = self.lock();
        while let Some((number, waiting)) = state.next_waiting(2 * self.gate.limit()) {
            match self.start(&mut state, waiting.address, &waiting.close) {
                Ok(handshake) => given.push((waiting.turn, handshake)),
                Err(Full::Address) => {
                    state.held.entry(waiting.address).or_default().insert(number, waiting);
                }
                Err(Full::Listener) => {
                    state.waiting.insert(number, waiting);
                    break;
                }
            }
        }
        self.gate.set_waiting(state.waiting.len());
        drop(state);
        for (turn, mut handshake) in given {
            handshake.waited = true;
            // If the connection has ended meanwhile, the handshake is dropped and the next one
            // begins.
            let _ = turn.send(handshake);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic within a change leaves at most a number without a handshake, which is skipped.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(limits: Limits) -> Self {
        let (open, addresses, waiting, held) = Default::default();
        Self { limits, starting: 0, next: 0, open, addresses, waiting, held }
    }

    /// Makes sure that one more handshake of `address` may begin.  Ends a slow one if it must.
    fn make_room(&mut self, address: IpAddr) -> Result<(), Full> {
        let of_address = self.addresses.get(&address);
        let (oldest, full) = if of_address.is_some_and(|all| all.len() >= self.limits.per_address) {
            (of_address.and_then(|all| all.first().copied()), Full::Address)
        } else if self.open.len() >= self.limits.open {
            (self.open.first_key_value().map(|(number, _)| *number), Full::Listener)
        } else {
            return Ok(());
        };
        let is_slow = |open: &Open| open.since.elapsed() >= self.limits.slow;
        let slow = oldest.filter(|number| self.open.get(number).is_some_and(is_slow));
        let open = slow.and_then(|number| self.remove(number)).ok_or(full)?;
        open.close.cancel();
        Ok(())
    }

    fn remove(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        if let Some(numbers) = self.addresses.get_mut(&open.address) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.addresses.remove(&open.address);
            }
        }
        self.release(open.address);
        Some(open)
    }

    /// Removes the connection that is next: the oldest, or if more than `many` wait, the newest.
    fn next_waiting(&mut self, many: usize) -> Option<(u64, Waiting)> {
        if self.waiting.len() > many { self.waiting.pop_last() } else { self.waiting.pop_first() }
    }

    /// Lets the next connection that waits for this address wait for its turn.  Called whenever a
    /// handshake of the address ends or a connection of it gives up its turn, so that there is always
    /// another one that will call it while some are held.
    fn release(&mut self, address: IpAddr) {
        let Some(held) = self.held.get_mut(&address) else { return };
        if let Some((number, waiting)) = held.pop_first() {
            self.waiting.insert(number, waiting);
        }
        if held.is_empty() {
            self.held.remove(&address);
        }
    }

    /// Removes a connection that gives up its turn.
    fn leave(&mut self, number: u64, address: IpAddr) {
        if self.waiting.remove(&number).is_some() {
            self.release(address);
        } else if let Some(held) = self.held.get_mut(&address) {
            held.remove(&number);
            if held.is_empty() {
                self.held.remove(&address);
            }
        }
    }
}

/// A place in the queue.  Dropping it gives it up.
struct Place<'a> {
    handshakes: &'a Handshakes,
    number: u64,
    address: IpAddr,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.handshakes.lock();
        state.leave(self.number, self.address);
        self.handshakes.gate.set_waiting(state.waiting.len());
    }
}

/// The limit that a further handshake would exceed.
enum Full {
    Address,
    Listener,
}

/// Returns the address that the limit applies to: an IPv4 address, or the first one of an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A handshake that has begun.  Dropping it lets others begin.
pub(super) struct Handshake {
    handshakes: Arc<Handshakes>,
    number: u64,
    is_starting: bool,
    waited: bool,
}

impl Handshake {
    /// Returns true if the connection had to wait for its turn.
    pub(super) fn has_waited(&self) -> bool {
        self.waited
    }

    /// Ends the turn: the ClientHello was answered.
    pub(super) fn answered(&mut self) {
        if std::mem::take(&mut self.is_starting) {
            self.handshakes.lock().starting -= 1;
            self.handshakes.gate.turn_ended();
            self.handshakes.give_turns();
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        {
            let mut state = self.handshakes.lock();
            state.remove(self.number);
            state.starting -= usize::from(self.is_starting);
        }
        if self.is_starting {
            self.handshakes.gate.turn_ended();
        }
        self.handshakes.give_turns();
    }
}

#[cfg(test)]
mod tests;
