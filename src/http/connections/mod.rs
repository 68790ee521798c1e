//! Limits the connections of one listener, and makes room when it is full.
//!
//! # Design notes
//! A full listener that only waits belongs to the peers that hold its connections.  So a full listener
//! closes connections that cost no request: first those that have sent nothing, oldest first,
//! then idle ones, first of a holder above its share and least recently used first.  If every
//! connection is busy, a holder above its share loses the connection that has been busy longest.  A
//! holder is an IPv4 address, an IPv6 /64, /56 or /48, or a client certificate.
//!
//! Connections leave the table when they are told to close, so that the next one need not wait for
//! them.  They end within one second.
//!
//! A full listener usually stays full.  Each search for room examines all connections, so it closes
//! up to 1/64 of them.

mod connection;
mod shares;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use crate::http::connections::connection::{Connection, Work};
pub use crate::http::connections::shares::Shares;
use crate::http::connections::shares::{Holder, holders};
use crate::runtime::memory::{Level, Pressure};

/// Interval between two searches for idle connections while memory is short.
const RELIEF: Duration = Duration::from_millis(100);
/// Part of the examined connections that one search closes.
const BATCH: usize = 64;

/// Reasons for which a connection is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It sent nothing, and others needed its place.
    Silent,
    /// It was idle, and others needed its place.
    Idle,
    /// It was busy, its holder had more than its share, and others needed its place.
    Busy,
    /// Its address has the most connections that one may have, and none is idle.
    Address,
    /// Its certificate has the most connections that one may have, and none is idle.
    Certificate,
    /// The process stopped before its request was answered.
    Stopping,
    /// Memory is short.
    Memory,
}

impl Reason {
    /// Returns the reason as it appears in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Address => "address",
            Self::Certificate => "certificate",
            Self::Stopping => "stopping",
            Self::Memory => "memory",
        }
    }
}

/// Called for each connection that is not kept.
type Observer = Box<dyn Fn(Reason) + Send + Sync>;

/// The connections of one listener.
pub struct Admission {
    memory: Pressure,
    start: Instant,
    table: Mutex<Table>,
    /// Signalled when a connection ended, or became idle while [`Self::room`] waits.
    changed: Notify,
    is_room_wanted: AtomicBool,
    observer: Observer,
}

struct Table {
    shares: Shares,
    next: u64,
    open: HashMap<u64, Open>,
    silent: BTreeSet<u64>,
    holders: HashMap<Holder, HashSet<u64>>,
}

struct Open {
    state: Arc<State>,
    holders: Vec<Holder>,
}

/// State of one connection.  Requests change it without the lock of the table.
struct State {
    is_silent: AtomicBool,
    /// Handshakes and requests in progress.
    work: AtomicUsize,
    /// Time of the last change of `work`, in milliseconds since the start of the listener.
    since: AtomicU64,
    has_request: AtomicBool,
    first_request: Notify,
    close: CancellationToken,
    /// Set before `close` is signalled if the connection ends without a grace.
    is_cut: AtomicBool,
}

impl Admission {
    /// Creates an empty table.  `observer` is called for each connection that is not kept.
    pub fn new(
        shares: Shares,
        memory: Pressure,
        observer: impl Fn(Reason) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            memory,
            start: Instant::now(),
            table: Mutex::new(Table::new(shares)),
            changed: Notify::new(),
            is_room_wanted: AtomicBool::new(false),
            observer: Box::new(observer),
        })
    }

    /// Replaces the limits.  Connections above a lower one stay open until others arrive.
    pub(crate) fn limit(&self, shares: Shares) {
        self.lock().shares = shares;
        self.changed.notify_waiters();
    }

    /// Waits until there is room for one more connection.
    pub async fn room(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            self.is_room_wanted.store(true, Ordering::SeqCst);
            if self.make_room() {
                self.is_room_wanted.store(false, Ordering::SeqCst);
                return;
            }
            changed.await;
        }
    }

    /// Waits until all connections have ended.
    pub async fn ended(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.lock().open.is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn make_room(&self) -> bool {
        let mut table = self.lock();
        if table.open.len() < table.shares.connections {
            return true;
        }
        let all: Vec<u64> = table.open.keys().copied().collect();
        self.shed(&mut table, &all, true)
    }

    /// Closes idle connections for as long as memory is short.  Never returns.
    pub(crate) async fn relieve(&self) {
        loop {
            sleep(RELIEF).await;
            if self.memory.level() > Level::Normal {
                self.shed_idle(&mut self.lock());
            }
        }
    }

    /// Closes some connections that cost no request.  Returns false if no connection is idle.
    fn shed_idle(&self, table: &mut Table) -> bool {
        let all: Vec<u64> = table.open.keys().copied().collect();
        self.shed(table, &all, false)
    }

    /// Returns true if memory suffices for one more connection.
    fn has_memory(&self, table: &mut Table) -> bool {
        match self.memory.level() {
            Level::Normal => true,
            Level::Shed => self.shed_idle(table),
            Level::Refuse => false,
        }
    }

    /// Admits a connection.  Call [`Self::room`] first.
    ///
    /// # Errors
    /// Memory is short, or the address has as many connections as one may have, and none is silent or
    /// idle.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Connection, Reason> {
        let mut table = self.lock();
        if !self.has_memory(&mut table) {
            (self.observer)(Reason::Memory);
            return Err(Reason::Memory);
        }
        // The address that a load balancer tells is counted when it is known.
        let holders = match table.shares.proxies.contains(address) {
            true => Vec::new(),
            false => holders(address),
        };
        if !self.make_room_among(&mut table, &holders) {
            (self.observer)(Reason::Address);
            return Err(Reason::Address);
        }
        if table.silent.len() >= table.shares.silent
            && let Some(oldest) = table.silent.first().copied()
        {
            self.close(&mut table, oldest, Reason::Silent);
        }
        let number = table.next;
        table.next += 1;
        let state = Arc::new(State {
            is_silent: AtomicBool::new(true),
            work: AtomicUsize::new(0),
            since: AtomicU64::new(self.now()),
            has_request: AtomicBool::new(false),
            first_request: Notify::new(),
            close: CancellationToken::new(),
            is_cut: AtomicBool::new(false),
        });
        for holder in &holders {
            table.holders.entry(*holder).or_default().insert(number);
        }
        table.silent.insert(number);
        table.open.insert(number, Open { state: Arc::clone(&state), holders });
        Ok(Connection { admission: Arc::clone(self), state, number, established: Instant::now() })
    }

    /// Closes connections of each holder that has reached its limit.  Returns false if it has one
    /// of which nothing can be closed.
    fn make_room_among(&self, table: &mut Table, holders: &[Holder]) -> bool {
        for holder in holders {
            let Some(held) = table.holders.get(holder) else { continue };
            if held.len() >= table.shares.limit(holder) {
                let held: Vec<u64> = held.iter().copied().collect();
                if !self.shed(table, &held, false) {
                    return false;
                }
            }
        }
        true
    }

    /// Closes up to 1/[`BATCH`] of `numbers`, at least one, all of the cheapest kind there is.
    /// Returns false if nothing can be closed.
    fn shed(&self, table: &mut Table, numbers: &[u64], may_cut: bool) -> bool {
        let is_over = |holder: &Holder| {
            table.holders.get(holder).is_some_and(|held| held.len() > table.shares.fair(holder))
        };
        let rank = |number: &u64| {
            let open = table.open.get(number)?;
            let since = open.state.since.load(Ordering::Relaxed);
            let over = || open.holders.iter().any(is_over);
            let is_busy = open.state.work.load(Ordering::Relaxed) > 0;
            let (kind, reason) = match (open.state.is_silent.load(Ordering::Relaxed), is_busy) {
                (true, _) => (0, Reason::Silent),
                (_, false) if over() => (1, Reason::Idle),
                (_, false) => (2, Reason::Idle),
                (_, true) if may_cut && over() => (3, Reason::Busy),
                (_, true) => return None,
            };
            Some((kind, since, *number, reason))
        };
        let mut ranked: Vec<_> = numbers.iter().filter_map(rank).collect();
        ranked.sort_unstable_by_key(|(kind, since, number, _)| (*kind, *since, *number));
        let Some((cheapest, ..)) = ranked.first().copied() else { return false };
        let most = if cheapest == 3 { 1 } else { (numbers.len() / BATCH).max(1) };
        for (_, _, number, reason) in
            ranked.into_iter().take_while(|(kind, ..)| *kind == cheapest).take(most)
        {
            self.close(table, number, reason);
        }
        true
    }

    fn close(&self, table: &mut Table, number: u64, reason: Reason) {
        if let Some(open) = table.remove(number) {
            open.state.is_cut.store(reason != Reason::Idle, Ordering::Relaxed);
            open.state.close.cancel();
            (self.observer)(reason);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic within a change leaves at most a number without a connection, which is skipped.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn new(shares: Shares) -> Self {
        let (open, silent, holders) = Default::default();
        Self { shares, next: 0, open, silent, holders }
    }

    fn remove(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.silent.remove(&number);
        for holder in &open.holders {
            if let Some(held) = self.holders.get_mut(holder) {
                held.remove(&number);
                if held.is_empty() {
                    self.holders.remove(holder);
                }
            }
        }
        Some(open)
    }
}

#[cfg(test)]
mod tests;
