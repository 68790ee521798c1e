//! Tests of the order and the limits of handshakes.

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
async fn turns_go_to_the_oldest_connection() {
    let handshakes = Handshakes::new(LIMITS);
    let mut first = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
    let (mut old, mut new) = (turn(&handshakes, "192.0.2.2"), turn(&handshakes, "192.0.2.3"));
    assert!(begun(&mut old).is_none() && begun(&mut new).is_none());
    first.answered();
    assert!(begun(&mut new).is_none());
    let oldest = begun(&mut old).expect("its turn");
    // A handshake that ends during its turn frees it, too.
    drop(oldest);
    assert!(begun(&mut new).is_some());
}

#[tokio::test(start_paused = true)]
async fn turns_go_to_the_newest_connection_if_more_wait_than_the_gate_lets_in() {
    let handshakes = Handshakes::new(LIMITS);
    let mut first = begun(&mut turn(&handshakes, "192.0.2.1")).expect("free");
    let many = 2 * handshakes.gate().limit() + 1;
    let mut waiting: Vec<_> = (0..many).map(|_| turn(&handshakes, "192.0.2.2")).collect();
    for turn in &mut waiting {
        assert!(begun(turn).is_none());
    }
    first.answered();
    assert!(begun(&mut waiting[0]).is_none());
    let newest = begun(&mut waiting[many - 1]).expect("its turn");
    drop(newest);
    assert!(begun(&mut waiting[0]).is_some(), "as many wait as may");
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
    while !waiting.is_empty() {
        let mut oldest = waiting.remove(0);
        let mut other = begun(&mut turn(&handshakes, "192.0.2.2")).expect("a turn is free");
        drop(open);
        if waiting.len() == 6 {
            drop(oldest);
            oldest = waiting.remove(0);
        }
        other.answered();
        open = begun(&mut oldest).expect("its turn");
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
        let handshakes = Handshakes::new(limits.clone());
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
        let before = Instant::now();
        let handshake = waiting.await.expect("room was made");
        assert!(close.is_cancelled());
        // One of another address has its turn although no other connection arrives.
        assert!(own_address || before.elapsed() < limits.wait);
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
    let (mut gone, mut ending) = (turn(&handshakes, "192.0.2.3"), turn(&handshakes, "192.0.2.4"));
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
