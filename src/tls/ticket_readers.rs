//! Learns which clients cannot read the session tickets of TLS 1.3.
//!
//! # Design notes
//! rustls gives each of these tickets a nonce of 32 bytes, and its length cannot be set.  RFC 8446 section
//! 4.6.1 allows up to 255, but wolfSSL as built by default reads at most 8.  When it reads the ticket, often
//! after it has sent its request, it sends an alert and closes.  Therefore:
//!
//! - A client that ends a connection with an alert, or soon after the ticket without a request, gets no
//!   tickets for ten minutes, then for an hour, and so on up to a week.
//! - A resumed session proves that the client reads tickets, and that others of its kind do.
//! - A kind is the clients with the same ClientHello.  If three of them fail and none has ever resumed, none
//!   of the kind gets tickets, so that not each device of a fleet has to fail first.  One handshake in a
//!   thousand, or one a day, tries again.
//!
//! Only holders of an accepted certificate give evidence about a kind.  They can take tickets only from
//! clients of a kind that has never resumed, and an attacker who resumes for the kind of others only makes
//! each of those learn for itself.  The handshake itself is not affected, nor is a session that resumes.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use quick_cache::UnitWeighter;
use quick_cache::sync::Cache;
use rustls::CipherSuite;
use rustls::server::ClientHello;
use tokio::time::Instant;

/// Clients that are remembered.
const CLIENTS: u64 = 65_536;
/// Kinds that are remembered.
const KINDS: usize = 512;

/// Strikes of a failure, and from which a client gets no tickets.
const FAILURE: u8 = 2;
/// Strikes of a failure without an alert in a kind that reads tickets: the client may have had no request.
const DOUBTFUL_FAILURE: u8 = 1;

/// Time without tickets after the first failure, and the factor for each further one.
const PAUSE: Duration = Duration::from_secs(600);
const FACTOR: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_secs(7 * 86_400);

/// Clients that failed, from which a kind gets no tickets.
const FAILED: u8 = 3;

/// Handshakes of a kind without tickets of which one gets a ticket, and the longest time without one.
const TRIAL_EVERY: u32 = 1_000;
const TRIAL_AFTER: Duration = Duration::from_secs(86_400);

/// Keys the hashes, so that peers cannot choose them.
static HASHES: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A client in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Client {
    /// See [`name_of`].
    pub name: u64,
    /// The hash of its ClientHello, see [`kind`].
    pub kind: u64,
    /// The handshake accepts only certificates that the judge accepts.
    pub is_judged: bool,
}

/// Knowledge about clients.  Clones share it, so that it outlives a new server certificate.
#[derive(Clone, Default)]
pub struct TicketReaders(Arc<State>);

struct State {
    suspects: Cache<u64, Suspect, UnitWeighter>,
    kinds: RwLock<HashMap<u64, Kind>>,
}

impl Default for State {
    fn default() -> Self {
        let suspects = Cache::with_weighter(64, CLIENTS, UnitWeighter);
        Self { suspects, kinds: RwLock::default() }
    }
}

/// A client that may not be able to read tickets.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    strikes: u8,
    /// Time of the last strike.
    since: Instant,
    /// It is counted for its kind.
    is_counted: bool,
}

impl Suspect {
    fn is_paused(&self, now: Instant) -> bool {
        let Some(longer) = (self.strikes / FAILURE).checked_sub(1) else { return false };
        let factor = FACTOR.saturating_pow(u32::from(longer));
        now.saturating_duration_since(self.since) < PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
    }
}

#[derive(Debug, Default)]
struct Kind {
    /// One of its clients resumed.
    is_proven: bool,
    /// Clients that failed.
    failed: u8,
    /// Handshakes without a ticket since the last trial.
    withheld: u32,
    /// Time of the last trial, or of the first handshake without a ticket.
    tried: Option<Instant>,
}

impl Kind {
    /// Decides for a handshake of the kind.
    fn may_have_ticket(&mut self, now: Instant) -> bool {
        if self.is_proven || self.failed < FAILED {
            return true;
        }
        let tried = *self.tried.get_or_insert(now);
        self.withheld += 1;
        let is_trial =
            self.withheld >= TRIAL_EVERY || now.saturating_duration_since(tried) >= TRIAL_AFTER;
        if is_trial {
            (self.withheld, self.tried) = (0, Some(now));
        }
        is_trial
    }
}

impl TicketReaders {
    /// Returns true if a client that makes a full handshake gets a ticket.
    pub(super) fn may_have_ticket(&self, client: &Client, now: Instant) -> bool {
        if self.0.suspects.get(&client.name).is_some_and(|suspect| suspect.is_paused(now)) {
            return false;
        }
        let may_fail = self.read(client.kind, |kind| !kind.is_proven && kind.failed >= FAILED);
        if !may_fail {
            return true;
        }
        self.kinds().get_mut(&client.kind).is_none_or(|kind| kind.may_have_ticket(now))
    }

    /// Notes that a client resumed a session.
    pub(super) fn resumed(&self, client: &Client) {
        self.0.suspects.remove(&client.name);
        if client.is_judged && !self.read(client.kind, |kind| kind.is_proven) {
            self.change_kind(client.kind, |kind| kind.is_proven = true);
        }
    }

    /// Notes that a client that got a ticket ended the connection soon after it without a request, or
    /// with an alert.  Returns true if it gets no ticket for a while.
    pub(super) fn failed(&self, client: &Client, has_alert: bool, now: Instant) -> bool {
        let is_proven = self.read(client.kind, |kind| kind.is_proven);
        let known = self.0.suspects.get(&client.name);
        let strikes = if is_proven && !has_alert { DOUBTFUL_FAILURE } else { FAILURE };
        let suspect = Suspect {
            strikes: known.map_or(0, |known| known.strikes).saturating_add(strikes),
            since: now,
            is_counted: client.is_judged,
        };
        self.0.suspects.insert(client.name, suspect);
        if client.is_judged && !known.is_some_and(|known| known.is_counted) {
            self.change_kind(client.kind, |kind| kind.failed = kind.failed.saturating_add(1));
        }
        suspect.is_paused(now)
    }

    fn change_kind(&self, kind: u64, change: impl FnOnce(&mut Kind)) {
        let mut kinds = self.kinds();
        if kinds.len() >= KINDS && !kinds.contains_key(&kind) {
            // What is forgotten is learned again, at the cost of failures for a kind that is proven.
            let unproven = kinds.iter().find(|(_, kind)| !kind.is_proven).map(|(kind, _)| *kind);
            let forgotten = unproven.or_else(|| kinds.keys().next().copied());
            forgotten.and_then(|kind| kinds.remove(&kind));
        }
        change(kinds.entry(kind).or_default());
    }

    /// Reads a fact about a kind; false for an unknown one.
    fn read(&self, kind: u64, fact: impl FnOnce(&Kind) -> bool) -> bool {
        let kinds = self.0.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&kind).is_some_and(fact)
    }

    fn kinds(&self) -> RwLockWriteGuard<'_, HashMap<u64, Kind>> {
        // A panic within a change leaves at most a wrong count.
        self.0.kinds.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TicketReaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketReaders")
    }
}

/// Returns the hash of what a ClientHello says about its sender's TLS library; `None` if it does not offer
/// TLS 1.3.
pub(super) fn kind(hello: &ClientHello<'_>) -> Option<u64> {
    let suites = hello.cipher_suites();
    // RFC 8446 section B.4: only these are for TLS 1.3.
    if !suites.iter().any(|suite| u16::from(*suite) >> 8 == 0x13) {
        return None;
    }
    let is_fixed = |value: &u16| !is_grease(*value);
    let mut hasher = HASHES.build_hasher();
    let code = |suite: &CipherSuite| u16::from(*suite);
    suites.iter().map(code).filter(is_fixed).for_each(|code| code.hash(&mut hasher));
    for scheme in hello.signature_schemes() {
        u16::from(*scheme).hash(&mut hasher);
    }
    let groups = hello.named_groups().unwrap_or_default();
    let groups = groups.iter().map(|group| u16::from(*group));
    groups.filter(is_fixed).for_each(|code| code.hash(&mut hasher));
    for protocol in hello.alpn().into_iter().flatten() {
        protocol.hash(&mut hasher);
    }
    hello.server_name().is_some().hash(&mut hasher);
    Some(hasher.finish())
}

/// Returns the name of a client of a kind: `holder` is its certificate, or its address if none was judged.
pub(super) fn name_of(holder: impl Hash, kind: u64) -> u64 {
    HASHES.hash_one((holder, kind))
}

/// True for the values that some clients choose at random (RFC 8701).
fn is_grease(value: u16) -> bool {
    let [high, low] = value.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: u64 = 1;

    fn client(name: u64) -> Client {
        Client { name, kind: KIND, is_judged: true }
    }

    fn after(now: Instant, pause: Duration) -> Instant {
        now + pause + Duration::from_secs(1)
    }

    #[test]
    fn a_client_that_ends_early_gets_no_ticket_for_longer_and_longer() {
        let (readers, one, mut now) = (TicketReaders::default(), client(1), Instant::now());
        assert!(readers.may_have_ticket(&one, now));
        for minutes in [10, 60, 360, 2_160, 10_080, 10_080] {
            readers.failed(&one, false, now);
            let pause = Duration::from_secs(60 * minutes);
            assert!(!readers.may_have_ticket(&one, now));
            assert!(!readers.may_have_ticket(&one, now + pause - Duration::from_secs(1)));
            assert!(readers.may_have_ticket(&client(2), now), "another client");
            now = after(now, pause);
            assert!(readers.may_have_ticket(&one, now), "tries again after {minutes} min");
        }
        readers.resumed(&one);
        readers.failed(&one, true, now);
        assert!(!readers.may_have_ticket(&one, now));
        assert!(readers.may_have_ticket(&one, after(now, PAUSE)), "begins again");
    }

    #[test]
    fn in_a_kind_that_resumes_one_connection_without_a_request_is_no_reason() {
        let (readers, now) = (TicketReaders::default(), Instant::now());
        readers.resumed(&client(2));
        let three = client(3);
        readers.failed(&three, false, now);
        assert!(readers.may_have_ticket(&three, now));
        readers.failed(&three, false, now);
        assert!(!readers.may_have_ticket(&three, now), "two tickets, and none was used");
        let four = client(4);
        readers.failed(&four, true, now);
        assert!(!readers.may_have_ticket(&four, now), "an alert is a reason in any kind");
    }

    #[test]
    fn a_kind_of_which_several_fail_gets_no_tickets_until_one_resumes() {
        let (readers, now) = (TicketReaders::default(), Instant::now());
        for _ in 0..9 {
            readers.failed(&client(1), true, now);
        }
        readers.failed(&client(2), true, now);
        assert!(readers.may_have_ticket(&client(9), now), "two clients, however often");
        readers.failed(&client(3), true, now);
        assert!(!readers.may_have_ticket(&client(9), now));
        let other = Client { kind: 2, ..client(9) };
        assert!(readers.may_have_ticket(&other, now), "another kind");

        readers.resumed(&client(9));
        assert!(readers.may_have_ticket(&client(10), now));
        for n in 20..40 {
            readers.failed(&client(n), true, now);
        }
        assert!(readers.may_have_ticket(&client(10), now), "one has resumed, for good");
    }

    #[test]
    fn a_kind_without_tickets_is_tried_again() {
        let (readers, now) = (TicketReaders::default(), Instant::now());
        for n in 1..=3 {
            readers.failed(&client(n), true, now);
        }
        let trials =
            |now| (0..5_000).filter(|n| readers.may_have_ticket(&client(10 + n), now)).count();
        assert_eq!(trials(now), 5);
        let later = now + TRIAL_AFTER;
        assert!(readers.may_have_ticket(&client(9), later), "after a day");
        assert!(!readers.may_have_ticket(&client(9), later));
    }

    #[test]
    fn clients_that_are_not_judged_say_nothing_about_their_kind() {
        let (readers, now) = (TicketReaders::default(), Instant::now());
        let stranger = |name| Client { is_judged: false, ..client(name) };
        for n in 0..100 {
            readers.failed(&stranger(n), true, now);
            assert!(!readers.may_have_ticket(&stranger(n), now));
        }
        assert!(readers.may_have_ticket(&client(200), now));
        for n in 201..204 {
            readers.failed(&client(n), true, now);
        }
        readers.resumed(&stranger(1));
        assert!(
            readers.may_have_ticket(&stranger(1), now)
                == readers.may_have_ticket(&client(200), now)
        );
        assert!(!readers.may_have_ticket(&client(200), now), "a stranger proves nothing");
    }

    #[test]
    fn remembers_a_bounded_number_of_clients_and_kinds() {
        let (readers, now) = (TicketReaders::default(), Instant::now());
        for n in 0..CLIENTS + 10_000 {
            readers.failed(&Client { name: n, kind: n, is_judged: true }, true, now);
        }
        assert!(readers.0.suspects.len() as u64 <= CLIENTS);
        assert_eq!(readers.kinds().len(), KINDS);
    }

    #[test]
    fn random_values_of_a_hello_do_not_make_a_kind() {
        for value in [0x0a0a, 0x1a1a, 0xfafa] {
            assert!(is_grease(value));
        }
        for value in [0x1301, 0x001d, 0x11ec, 0x0a1a, 0x1b1b] {
            assert!(!is_grease(value), "{value:x}");
        }
    }
}
