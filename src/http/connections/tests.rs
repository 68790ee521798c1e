use super::*;
use crate::http::proxy_protocol::Proxies;
use futures_util::FutureExt as _;
use tokio::time::advance;

type Log = Arc<Mutex<Vec<Reason>>>;

fn admission(shares: Shares) -> (Arc<Admission>, Log) {
    admission_within(shares, Pressure::default())
}

fn admission_within(shares: Shares, memory: Pressure) -> (Arc<Admission>, Log) {
    let log = Log::default();
    let written = Arc::clone(&log);
    let observer = move |reason| written.lock().expect("whole").push(reason);
    (Admission::new(shares, memory, observer), log)
}

fn taken(log: &Log) -> Vec<Reason> {
    std::mem::take(&mut *log.lock().expect("whole"))
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const SOMEWHERE: &str = "192.0.2.1";
const ELSEWHERE: &str = "192.0.2.2";

fn is_closed(connection: &Connection) -> bool {
    connection.closing().is_cancelled()
}

/// Admits a connection, and lets it do one piece of work.
fn idle(admission: &Arc<Admission>, from: &str) -> Connection {
    let connection = admission.admit(address(from)).expect("admitted");
    drop(connection.begin());
    connection
}

fn has_room(admission: &Admission) -> bool {
    admission.room().now_or_never().is_some()
}

#[tokio::test(start_paused = true)]
async fn a_full_listener_closes_silent_connections_before_idle_ones_and_the_oldest_first() {
    let (admission, log) = admission(Shares::new(4));
    let first_idle = idle(&admission, ELSEWHERE);
    advance(Duration::from_millis(5)).await;
    let old = admission.admit(address(ELSEWHERE)).expect("admitted");
    advance(Duration::from_millis(5)).await;
    let young = admission.admit(address(ELSEWHERE)).expect("admitted");
    let last_idle = idle(&admission, ELSEWHERE);
    advance(Duration::from_millis(5)).await;
    drop(first_idle.begin());
    let mut newcomers = Vec::new();
    for (victim, reason) in [
        (&old, Reason::Silent),
        (&young, Reason::Silent),
        (&last_idle, Reason::Idle),
        (&first_idle, Reason::Idle),
    ] {
        assert!(!is_closed(victim));
        assert!(has_room(&admission));
        assert!(is_closed(victim));
        assert_eq!(taken(&log), [reason]);
        newcomers.push(idle(&admission, &format!("198.51.100.{}", newcomers.len())));
        advance(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_listener_takes_room_from_the_holder_above_its_share() {
    let (admission, log) = admission(Shares::new(8));
    let modest = idle(&admission, ELSEWHERE);
    advance(Duration::from_millis(5)).await;
    let greedy: Vec<_> = (0..7).map(|_| idle(&admission, SOMEWHERE)).collect();
    assert!(has_room(&admission));
    assert!(!is_closed(&modest), "it has been idle longest");
    assert_eq!(greedy.iter().filter(|c| is_closed(c)).count(), 1);
    assert_eq!(taken(&log), [Reason::Idle]);
}

#[tokio::test(start_paused = true)]
async fn only_a_holder_above_its_share_loses_a_busy_connection() {
    for (from, count, has) in [(SOMEWHERE, 8, true), (SOMEWHERE, 4, false)] {
        let (admission, log) = admission(Shares::new(8));
        let admit = |from| {
            let connection = admission.admit(address(from)).expect("admitted");
            let work = connection.begin();
            (connection, work)
        };
        let mut all: Vec<_> = (0..count).map(|_| admit(from)).collect();
        all.extend((count..8).map(|_| admit(ELSEWHERE)));
        assert_eq!(has_room(&admission), has);
        assert_eq!(is_closed(&all[0].0), has, "the oldest");
        assert_eq!(taken(&log), if has { vec![Reason::Busy] } else { vec![] });
    }
}

#[tokio::test]
async fn waits_for_a_busy_connection_to_become_idle_or_to_end() {
    let (admission, _) = admission(Shares::new(2));
    let (a, b) = (address(SOMEWHERE), address(ELSEWHERE));
    let (a, b) = (admission.admit(a).expect("room"), admission.admit(b).expect("room"));
    let work = [a.begin(), b.begin()];
    let mut room = Box::pin(admission.room());
    assert!(room.as_mut().now_or_never().is_none());
    let [first, second] = work;
    drop(first);
    assert!(room.as_mut().now_or_never().is_some());
    assert!(is_closed(&a));
    let newcomer = admission.admit(address(SOMEWHERE)).expect("room");
    let _work = newcomer.begin();
    let mut room = Box::pin(admission.room());
    assert!(room.as_mut().now_or_never().is_none());
    drop((b, second));
    assert!(room.as_mut().now_or_never().is_some());
}

#[tokio::test]
async fn an_address_at_its_limit_loses_an_idle_connection_or_is_refused() {
    let (admission, log) = admission(Shares { per_address: 2, ..Shares::new(100) });
    let (first, second) = (idle(&admission, SOMEWHERE), idle(&admission, SOMEWHERE));
    let work = second.begin();
    let third = admission.admit(address(SOMEWHERE)).expect("room was made");
    assert!(is_closed(&first) && !is_closed(&second));
    let _busy = (work, third.begin());
    let refused = admission.admit(address(SOMEWHERE)).map(drop);
    assert_eq!(refused, Err(Reason::Address));
    assert!(admission.admit(address(ELSEWHERE)).is_ok());
    assert_eq!(taken(&log), [Reason::Idle, Reason::Address]);
}

#[tokio::test]
async fn connections_of_a_balancer_count_for_the_clients_that_it_tells() {
    let network = Proxies::network("192.0.2.1").expect("an address");
    let proxies = Proxies::new(vec![network]);
    let (admission, log) = admission(Shares { per_address: 1, proxies, ..Shares::new(100) });
    let [first, second, third] = [(); 3].map(|()| idle(&admission, SOMEWHERE));
    assert_eq!(first.assign_address(address("198.51.100.1")), Ok(()));
    assert_eq!(second.assign_address(address("198.51.100.2")), Ok(()));
    assert!(!is_closed(&first) && taken(&log).is_empty());
    let _work = first.begin();
    assert_eq!(third.assign_address(address("198.51.100.1")), Err(Reason::Address));
    drop((first, second, third));
    let table = admission.lock();
    assert!(table.holders.is_empty() && table.open.is_empty());
}

#[tokio::test]
async fn networks_of_ipv6_have_wider_limits() {
    let (admission, _) = admission(Shares { per_address: 1, ..Shares::new(100) });
    let busy = |text: &str| {
        let connection = admission.admit(address(text)).ok()?;
        let work = connection.begin();
        Some((connection, work))
    };
    let mut held = Vec::new();
    for (address, admitted) in [
        ("2001:db8:0:0::1", true),
        ("2001:db8:0:0::2", false), // the same /64
        ("2001:db8:0:1::1", true),
        ("2001:db8:0:2::1", false), // the third of one /56
        ("2001:db8:0:100::1", true),
        ("2001:db8:0:200::1", true),
        ("2001:db8:0:300::1", false), // the fifth of one /48
        ("2001:db8:1::1", true),
        ("192.0.2.1", true),
        ("::ffff:192.0.2.1", false), // the same as IPv4
    ] {
        let connection = busy(address);
        assert_eq!(connection.is_some(), admitted, "{address}");
        held.extend(connection);
    }
    drop(held);
    let table = admission.lock();
    assert!(table.holders.is_empty() && table.open.is_empty() && table.silent.is_empty());
}

#[tokio::test]
async fn a_certificate_at_its_limit_loses_an_idle_connection_or_is_refused() {
    let (admission, log) = admission(Shares { per_certificate: 1, ..Shares::new(100) });
    let (first, second) = (idle(&admission, SOMEWHERE), idle(&admission, ELSEWHERE));
    first.assign(&[7; 32]).expect("the first");
    second.assign(&[7; 32]).expect("room was made");
    assert!(is_closed(&first));
    let _work = second.begin();
    let third = idle(&admission, ELSEWHERE);
    assert_eq!(third.assign(&[7; 32]), Err(Reason::Certificate));
    assert_eq!(third.assign(&[8; 32]), Ok(()));
    assert_eq!(taken(&log), [Reason::Idle, Reason::Certificate]);
}

#[tokio::test]
async fn the_oldest_of_too_many_silent_connections_is_closed() {
    let (admission, log) = admission(Shares { silent: 2, ..Shares::new(100) });
    let admit = || admission.admit(address(SOMEWHERE)).expect("room");
    let [first, second, third] = [admit(), admit(), admit()];
    assert!(is_closed(&first) && !is_closed(&second));
    let _work = second.begin();
    let fourth = admit();
    assert!(!is_closed(&second) && !is_closed(&third) && !is_closed(&fourth));
    assert_eq!(taken(&log), [Reason::Silent]);
}

#[tokio::test(start_paused = true)]
async fn a_lingering_connection_counts_as_silent() {
    let (admission, log) = admission(Shares::new(1));
    let connection = admission.admit(address(SOMEWHERE)).expect("room");
    let _work = connection.begin();
    connection.linger();
    assert!(has_room(&admission));
    assert_eq!(taken(&log), [Reason::Silent]);
    // Once it was told to close, it does not come back.
    connection.linger();
    assert!(admission.lock().silent.is_empty());
}

#[tokio::test(start_paused = true)]
async fn ended_waits_for_all_connections() {
    let (admission, _) = admission(Shares::new(3));
    assert!(admission.ended().now_or_never().is_some());
    let connection = idle(&admission, SOMEWHERE);
    let mut ended = Box::pin(admission.ended());
    assert!(ended.as_mut().now_or_never().is_none());
    drop(connection);
    assert!(ended.as_mut().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn while_memory_is_short_new_connections_replace_idle_ones_or_are_refused() {
    let memory = Pressure::default();
    let (admission, log) = admission_within(Shares::new(100), memory.clone());
    let (first, second) = (idle(&admission, SOMEWHERE), idle(&admission, ELSEWHERE));
    let busy = admission.admit(address(SOMEWHERE)).expect("admitted");
    let _work = busy.begin();
    memory.set(Level::Shed);
    let third = admission.admit(address(SOMEWHERE)).expect("in place of an idle one");
    let _third_work = third.begin();
    assert!(is_closed(&first) && !is_closed(&second));
    memory.set(Level::Refuse);
    assert_eq!(admission.admit(address(ELSEWHERE)).err(), Some(Reason::Memory));
    assert_eq!(taken(&log), [Reason::Idle, Reason::Memory]);
    // Idle connections are also closed if no new ones arrive; busy ones stay.
    assert!(tokio::time::timeout(RELIEF * 2, admission.relieve()).await.is_err());
    assert!(is_closed(&second) && !is_closed(&busy) && !is_closed(&third));
    memory.set(Level::Shed);
    assert_eq!(admission.admit(address(ELSEWHERE)).err(), Some(Reason::Memory), "none is idle");
    memory.set(Level::Normal);
    assert!(admission.admit(address(ELSEWHERE)).is_ok());
}
