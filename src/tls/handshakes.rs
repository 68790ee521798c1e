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
//! Turns go to the newest connection.  Under overload a queue in order of arrival makes every client
//! wait for as long as the most patient ones do.  The connections that arrived first have the least
//! time left; those that have waited too long are closed before any cryptography.
//!
//! A peer that stops responding after our flight holds no turn.  It still counts as an open
//! handshake.  When these are used up, one that is older than [`Limits::slow`] makes room for another.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

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
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
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
        Arc::new(Self { limits, state: Mutex::default() })
    }

    /// Returns the number of handshakes that have begun.
    pub(super) fn begun(&self) -> usize {
        self.lock().open.len()
    }

    /// Returns the number of handshakes that may have begun.
    pub(super) fn most(&self) -> usize {
        self.limits.open
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
        let waiting = {
            let mut state = self.lock();
            let room = match self.start(&mut state, address, close) {
                Ok(handshake) => return Some(handshake),
                Err(full) => full,
            };
            let (turn, waiting) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            let queue = match room {
                Full::Address => state.held.entry(address).or_default(),
                Full::Listener => &mut state.waiting,
            };
            queue.insert(number, Waiting { address, close: close.clone(), turn });
            state.forget_ended();
            waiting
        };
        match timeout(self.limits.wait, waiting).await {
            Ok(handshake) => handshake.ok(),
            // All that had begun before this connection arrived may make room for it now.
            Err(_) => self.start(&mut self.lock(), address, close).ok(),
        }
    }

    fn start(
        self: &Arc<Self>,
        state: &mut State,
        address: IpAddr,
        close: &CancellationToken,
    ) -> Result<Handshake, Full> {
        if state.starting >= self.limits.starting {
            return Err(Full::Listener);
        }
        self.make_room(state, address)?;
        let number = state.next;
        state.next += 1;
        state.starting += 1;
        state.addresses.entry(address).or_default().insert(number);
        state.open.insert(number, Open { address, since: Instant::now(), close: close.clone() });
        Ok(Handshake { handshakes: Arc::clone(self), number, is_starting: true, waited: false })
    }

    /// Makes sure that one more handshake of `address` may begin.  Ends a slow one if it must.
    fn make_room(&self, state: &mut State, address: IpAddr) -> Result<(), Full> {
        let of_address = state.addresses.get(&address);
        let (oldest, full) = if of_address.is_some_and(|all| all.len() >= self.limits.per_address) {
            (of_address.and_then(|all| all.first().copied()), Full::Address)
        } else if state.open.len() >= self.limits.open {
            (state.open.first_key_value().map(|(number, _)| *number), Full::Listener)
        } else {
            return Ok(());
        };
        let is_slow = |open: &Open| open.since.elapsed() >= self.limits.slow;
        let slow = oldest.filter(|number| state.open.get(number).is_some_and(is_slow));
        let open = slow.and_then(|number| state.remove(number)).ok_or(full)?;
        open.close.cancel();
        Ok(())
    }

    /// Gives free turns to the newest connections that may begin.
    fn continue_with_newest(self: &Arc<Self>) {
        let mut given = Vec::new();
        let mut state = self.lock();
        while let Some((number, waiting)) = state.waiting.pop_last() {
            if waiting.turn.is_closed() {
                state.release_newest(waiting.address);
                continue;
            }
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
    fn remove(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        if let Some(numbers) = self.addresses.get_mut(&open.address) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.addresses.remove(&open.address);
            }
        }
        self.release_newest(open.address);
        Some(open)
    }

    /// Removes connections that have waited too long.  They are the oldest.
    fn forget_ended(&mut self) {
        while let Some(oldest) = self.waiting.first_entry().filter(|w| w.get().turn.is_closed()) {
            let address = oldest.remove().address;
            self.release_newest(address);
        }
    }

    /// Lets the newest connection that waits for this address wait for its turn.  Called whenever a
    /// handshake of the address ends or a connection of it gives up its turn, so that there is always
    /// another one that will call it while some are held.
    fn release_newest(&mut self, address: IpAddr) {
        let Some(held) = self.held.get_mut(&address) else { return };
        while let Some((number, waiting)) = held.pop_last() {
            if !waiting.turn.is_closed() {
                self.waiting.insert(number, waiting);
                break;
            }
        }
        if held.is_empty() {
            self.held.remove(&address);
        }
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
            self.handshakes.continue_with_newest();
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
        self.handshakes.continue_with_newest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use std::pin::Pin;
    use tokio::time::advance;

    const LIMITS: Limits = Limits {
        starting: 1,
        open: 4,
        per_address: 4,
        wait: Duration::from_secs(2),
        slow: Duration::from_secs(1),
    };

    type Turn = Pin<Box<dyn Future<Output = Option<Handshake>>>>;

    fn turn_with(handshakes: &Arc<Handshakes>, address: &str, close: &CancellationToken) -> Turn {
        let (handshakes, close) = (Arc::clone(handshakes), close.clone());
        let address = address.parse().expect("an address");
        Box::pin(async move { handshakes.turn(address, &close).await })
    }

    fn turn(handshakes: &Arc<Handshakes>, address: &str) -> Turn {
        turn_with(handshakes, address, &CancellationToken::new())
    }

    /// Returns the handshake if it has begun; polls once.
    fn begun(turn: &mut Turn) -> Option<Handshake> {
        turn.as_mut().now_or_never().map(|turn| turn.expect("in time"))
    }

    #[tokio::test]
    async fn turns_go_to_the_newest_connection() {
        let handshakes = Handshakes::new(LIMITS);
        let mut first = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
        let (mut old, mut new) = (turn(&handshakes, "192.0.2.2"), turn(&handshakes, "192.0.2.3"));
        assert!(begun(&mut old).is_none() && begun(&mut new).is_none());
        first.answered();
        assert!(begun(&mut old).is_none());
        let newest = begun(&mut new).expect("its turn");
        // A handshake that ends during its turn frees it, too.
        drop(newest);
        assert!(begun(&mut old).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_too_long_is_refused() {
        let handshakes = Handshakes::new(LIMITS);
        let _first = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
        let before = Instant::now();
        assert!(turn(&handshakes, "192.0.2.2").await.is_none());
        assert_eq!(before.elapsed(), LIMITS.wait);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_have_ended_are_forgotten() {
        let handshakes = Handshakes::new(Limits { per_address: 1, ..LIMITS });
        let mut first = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
        first.answered();
        let _second = begun(&mut turn(&handshakes, "192.0.2.2")).expect("free");
        for n in 0..9 {
            assert!(begun(&mut turn(&handshakes, &format!("192.0.2.{n}"))).is_none());
        }
        let mut waiting = turn(&handshakes, "198.51.100.1");
        assert!(begun(&mut waiting).is_none());
        assert_eq!(handshakes.lock().waiting.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn all_connections_of_an_address_at_its_limit_have_their_turn() {
        let handshakes = Handshakes::new(Limits { per_address: 1, ..LIMITS });
        let mut open = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
        open.answered();
        let mut waiting: Vec<_> = (0..9).map(|_| turn(&handshakes, "192.0.2.1")).collect();
        for turn in &mut waiting {
            assert!(begun(turn).is_none());
        }
        assert_eq!(handshakes.lock().held.values().map(BTreeMap::len).sum::<usize>(), 9);
        // One gives up while it is held, and one after it was released.
        drop(waiting.remove(4));
        while let Some(mut newest) = waiting.pop() {
            let mut other = begun(&mut turn(&handshakes, "192.0.2.2")).expect("a turn is free");
            drop(open);
            if waiting.len() == 6 {
                drop(newest);
                newest = waiting.pop().expect("more");
            }
            other.answered();
            open = begun(&mut newest).expect("its turn");
            open.answered();
        }
        drop(open);
        let state = handshakes.lock();
        assert!(state.held.is_empty() && state.waiting.is_empty() && state.open.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_makes_room_for_another_only_once_it_is_slow() {
        for (limits, own_address) in
            [(Limits { open: 2, ..LIMITS }, false), (Limits { per_address: 2, ..LIMITS }, true)]
        {
            let handshakes = Handshakes::new(limits);
            let close = CancellationToken::new();
            let mut slow = begun(&mut turn_with(&handshakes, "192.0.2.1", &close)).expect("free");
            slow.answered();
            advance(Duration::from_millis(10)).await;
            let mut other = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
            other.answered();
            let newcomer = if own_address { "192.0.2.1" } else { "192.0.2.2" };
            let mut waiting = turn(&handshakes, newcomer);
            assert!(begun(&mut waiting).is_none());
            assert!(!close.is_cancelled());
            if own_address {
                assert!(begun(&mut turn(&handshakes, "192.0.2.2")).is_some(), "another address");
            }
            let handshake = waiting.await.expect("room was made");
            assert!(close.is_cancelled());
            drop(handshake);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_address_is_at_its_limit_delays_no_other() {
        let handshakes = Handshakes::new(Limits { per_address: 1, ..LIMITS });
        let mut first = begun(&mut turn(&handshakes, "2001:db8::1")).expect("free");
        let mut other = turn(&handshakes, "2001:db8:0:1::1");
        assert!(begun(&mut other).is_none());
        let mut same = turn(&handshakes, "2001:db8::ffff:2");
        assert!(begun(&mut same).is_none());
        first.answered();
        assert!(begun(&mut same).is_none());
        let other = begun(&mut other).expect("its turn");
        drop(first);
        drop(other);
        assert!(begun(&mut same).is_some());
        let state = handshakes.lock();
        assert!(state.open.is_empty() && state.addresses.is_empty() && state.starting == 0);
    }

    #[tokio::test]
    async fn a_turn_of_a_connection_that_ended_goes_to_the_next_one() {
        let handshakes = Handshakes::new(LIMITS);
        let mut first = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
        let mut old = turn(&handshakes, "192.0.2.2");
        assert!(begun(&mut old).is_none());
        let (mut gone, mut ending) =
            (turn(&handshakes, "192.0.2.3"), turn(&handshakes, "192.0.2.4"));
        assert!(begun(&mut gone).is_none() && begun(&mut ending).is_none());
        drop(gone);
        first.answered();
        // It has its turn, and ends before it notices.
        drop(ending);
        assert!(begun(&mut old).is_some());
    }

    #[test]
    fn counts_an_ipv6_network_of_64_bits_and_a_mapped_ipv4_address_as_one() {
        let network = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("::ffff:192.0.2.1"), network("::ffff:192.0.2.2"));
    }
}
