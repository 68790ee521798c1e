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
//! A peer that answers no more after our part holds no turn, only one of the handshakes that may be
//! open.  When these are used up, one that is older than [`Limits::wait`] makes room for another.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
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
    /// Handshakes that have begun; as many connections may wait for a turn.
    pub open: usize,
    /// Handshakes of one address that have begun.  An IPv6 /64 counts as one address: a host that
    /// has one address of a /64 usually has all of them.
    pub per_address: usize,
    /// Longest wait for a turn.
    pub wait: Duration,
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
    waiting: VecDeque<Waiting>,
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

    /// Waits for a turn.  Returns `None` after [`Limits::wait`], or when too many newer connections
    /// wait.  `close` is signalled when the handshake has begun and must make room for another.
    pub(super) async fn turn(
        self: &Arc<Self>,
        address: IpAddr,
        close: &CancellationToken,
    ) -> Option<Handshake> {
        let address = network(address);
        let waiting = {
            let mut state = self.lock();
            if let Some(handshake) = self.start(&mut state, address, close) {
                return Some(handshake);
            }
            let (turn, waiting) = oneshot::channel();
            while state.waiting.front().is_some_and(|oldest| oldest.turn.is_closed())
                || state.waiting.len() >= self.limits.open
            {
                state.waiting.pop_front();
            }
            state.waiting.push_back(Waiting { address, close: close.clone(), turn });
            waiting
        };
        match timeout(self.limits.wait, waiting).await {
            Ok(handshake) => handshake.ok(),
            // All that had begun before this connection arrived may make room for it now.
            Err(_) => self.start(&mut self.lock(), address, close),
        }
    }

    fn start(
        self: &Arc<Self>,
        state: &mut State,
        address: IpAddr,
        close: &CancellationToken,
    ) -> Option<Handshake> {
        if state.starting >= self.limits.starting || !self.make_room(state, address) {
            return None;
        }
        let number = state.next;
        state.next += 1;
        state.starting += 1;
        state.addresses.entry(address).or_default().insert(number);
        state.open.insert(number, Open { address, since: Instant::now(), close: close.clone() });
        Some(Handshake { handshakes: Arc::clone(self), number, is_starting: true, waited: false })
    }

    /// Returns true if one more handshake of `address` may begin.  Ends a slow one if it must.
    fn make_room(&self, state: &mut State, address: IpAddr) -> bool {
        let of_address = state.addresses.get(&address);
        let oldest = if of_address.is_some_and(|open| open.len() >= self.limits.per_address) {
            of_address.and_then(|open| open.first().copied())
        } else if state.open.len() >= self.limits.open {
            state.open.first_key_value().map(|(number, _)| *number)
        } else {
            return true;
        };
        let is_slow = |open: &Open| open.since.elapsed() >= self.limits.wait;
        match oldest.filter(|number| state.open.get(number).is_some_and(is_slow)) {
            Some(number) => {
                if let Some(open) = state.remove(number) {
                    open.close.cancel();
                }
                true
            }
            None => false,
        }
    }

    /// Gives free turns to the newest connections that may begin.
    fn continue_with_newest(self: &Arc<Self>) {
        let mut given = Vec::new();
        let mut state = self.lock();
        let mut place = state.waiting.len();
        while place > 0 && state.starting < self.limits.starting {
            place -= 1;
            let waiting = &state.waiting[place];
            let (address, close) = (waiting.address, waiting.close.clone());
            if waiting.turn.is_closed() {
                state.waiting.remove(place);
            } else if let Some(handshake) = self.start(&mut state, address, &close)
                && let Some(waiting) = state.waiting.remove(place)
            {
                given.push((waiting.turn, handshake));
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
        Some(open)
    }
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

    const LIMITS: Limits =
        Limits { starting: 1, open: 4, per_address: 4, wait: Duration::from_secs(1) };

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
    async fn the_oldest_of_too_many_that_wait_is_refused() {
        let handshakes = Handshakes::new(LIMITS);
        let _first = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
        let mut waiting: Vec<_> = (0..5).map(|_| turn(&handshakes, "192.0.2.2")).collect();
        let mut refused = Vec::new();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        for turn in &mut waiting {
            refused.push(turn.as_mut().now_or_never().is_some());
        }
        assert_eq!(refused, [true, false, false, false, false]);
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
