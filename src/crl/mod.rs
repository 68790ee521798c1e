//! Rank 3: revocation lists as a source.
//!
//! The directory says which addresses matter; this part keeps the latest good list of each in force:
//! loads it from disk first, fetches it when it is due, verifies it off the runtime's threads, and
//! sends it on as an [`Update`].
//!
//! # Invariants
//! - A list that cannot be fetched, read or verified, or that is older than the one in force,
//!   displaces nothing.
//! - There is one flight per address at a time, and a bounded number in all.
//! - The newest list seen survives a restart; an older one is never taken for it.

mod filter;
mod flight;
mod persistence;
mod point;
mod schedule;
mod status;
mod transport;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::crl::flight::{Hangar, Landed, Plan};
use crate::crl::persistence::Store;
use crate::crl::point::Point;
use crate::crl::status::{Board, Outcome};
use crate::crl::transport::{Location, Transport};
use crate::domain::cert::Certificate;
use crate::domain::time::Timestamp;
use crate::domain::trust::anchors::AnchorSet;
use crate::domain::trust::assembly::{ListState, Update};
use crate::domain::trust::revocations::ListPolicy;

pub use filter::is_private;
pub use flight::LookError;
pub use point::Rejected;
pub use schedule::Timing;
pub use status::{ErrorStatus, ListStatus, Metrics, Status};
pub use transport::{Config as TransportConfig, FetchError};

/// Settings of this part.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the last good lists are kept; `None`: nowhere.
    pub directory: Option<PathBuf>,
    /// Addresses looked at at one time.
    pub parallel: usize,
    /// Intervals.
    pub timing: Timing,
    /// Limits of a fetch.
    pub transport: TransportConfig,
    /// Spreads the looks of replicas; any number.
    pub seed: u64,
    /// What is demanded of lists: those of authorities that are off are not fetched.
    pub policy: ListPolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: None,
            parallel: 4,
            timing: Timing::default(),
            transport: TransportConfig::default(),
            seed: 0,
            policy: ListPolicy::default(),
        }
    }
}

/// Why this part cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of lists cannot be made.
    #[error("crl directory: {0}")]
    Directory(#[from] io::Error),
    /// Unusable proxy or root certificates.
    #[error("crl transport: {0}")]
    Transport(#[from] FetchError),
}

/// Tells the time.  Tests bring their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The system's time.
pub fn system_clock() -> Clock {
    Arc::new(|| Timestamp::from(std::time::SystemTime::now()))
}

/// Speaks to a running [`Source`].
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Refresh>,
    board: Board,
}

struct Refresh {
    address: Option<String>,
    /// Gets one receiver for each address that is looked at.
    started: oneshot::Sender<Vec<oneshot::Receiver<()>>>,
}

/// Why an address was not looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// No authority names it.
    #[error("no authority names `{0}`")]
    Unknown(String),
    /// The source has stopped.
    #[error("revocation lists are not being refreshed")]
    Stopped,
}

impl Handle {
    /// What is known of each address.
    pub fn status(&self) -> Vec<Status> {
        self.board.read()
    }

    /// Looks at `address` (or at all) now, past caches, and comes back when that is done.
    ///
    /// # Errors
    /// See [`RefreshError`].  A look that fails is no error here: the status tells.
    pub async fn refresh(&self, address: Option<&str>) -> Result<Vec<Status>, RefreshError> {
        let (started, looks) = oneshot::channel();
        let refresh = Refresh { address: address.map(str::to_owned), started };
        self.commands.send(refresh).await.map_err(|_| RefreshError::Stopped)?;
        let looks = looks.await.map_err(|_| RefreshError::Stopped)?;
        if let (true, Some(address)) = (looks.is_empty(), address) {
            return Err(RefreshError::Unknown(address.to_owned()));
        }
        for look in looks {
            // Dropped: the address matters no longer.
            let _ = look.await;
        }
        let mut statuses = self.status();
        statuses.retain(|status| address.is_none_or(|address| status.address == address));
        Ok(statuses)
    }
}

/// The running part.
pub struct Source {
    config: Config,
    hangar: Arc<Hangar>,
    anchors: watch::Receiver<Arc<AnchorSet>>,
    updates: mpsc::Sender<Update>,
    commands: mpsc::Receiver<Refresh>,
    board: Board,
    metrics: Metrics,
    clock: Clock,
    points: BTreeMap<Arc<str>, Point>,
    /// Addresses that are none to fetch from.
    unfit: BTreeSet<Arc<str>>,
    /// Entries of the settings that fit no authority, as they were told last.
    unmatched: Vec<String>,
    signers: Arc<Vec<Arc<Certificate>>>,
    flights: JoinSet<Landed>,
    in_flight: HashMap<Id, Arc<str>>,
}

/// The longest sleep: a clock that was set is noticed within it.
const LONGEST_NAP: Duration = Duration::from_secs(30);

impl Source {
    /// A source for the addresses of `anchors`, which sends what it finds to `updates`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(
        config: Config,
        anchors: watch::Receiver<Arc<AnchorSet>>,
        updates: mpsc::Sender<Update>,
        metrics: Metrics,
        clock: Clock,
    ) -> Result<(Self, Handle), Error> {
        let store = config.directory.as_ref().map(Store::open).transpose()?;
        let transport = Transport::new(config.transport.clone())?;
        let permits = Semaphore::new(config.parallel.max(1));
        let (sender, commands) = mpsc::channel(16);
        let board = Board::default();
        let handle = Handle { commands: sender, board: board.clone() };
        let source = Self {
            config,
            hangar: Arc::new(Hangar { transport, store, permits }),
            anchors,
            updates,
            commands,
            board,
            metrics,
            clock,
            points: BTreeMap::new(),
            unfit: BTreeSet::new(),
            unmatched: Vec::new(),
            signers: Arc::default(),
            flights: JoinSet::new(),
            in_flight: HashMap::new(),
        };
        Ok((source, handle))
    }

    /// Runs until `stop`, or until nobody is left to tell or to be told.
    pub async fn run(mut self, stop: CancellationToken) {
        self.reconcile().await;
        loop {
            self.launch();
            let nap = self.nap();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.updates.closed() => return,
                changed = self.anchors.changed() => match changed {
                    Ok(()) => self.reconcile().await,
                    Err(_) => return,
                },
                Some(refresh) = self.commands.recv() => self.refresh(refresh),
                Some(landed) = self.flights.join_next_with_id() => self.landed(landed).await,
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Takes up addresses that matter now and drops those that do not.
    async fn reconcile(&mut self) {
        let anchors = Arc::clone(&self.anchors.borrow_and_update());
        let point::Wants { addresses: wanted, signers, unmatched } =
            point::wants(&anchors, &self.config.policy);
        self.tell_unmatched(&anchors, unmatched);
        let same_signers = signers.len() == self.signers.len()
            && signers.iter().zip(&*self.signers).all(|(a, b)| a.fingerprint == b.fingerprint);
        self.signers = Arc::new(signers);
        let now = self.now();

        let known = self.points.keys().chain(&self.unfit);
        let gone: Vec<_> = known.filter(|at| !wanted.contains_key(*at)).cloned().collect();
        for address in gone {
            self.points.remove(&address);
            self.unfit.remove(&address);
            self.forget(address).await;
        }
        for (address, wanted) in wanted {
            if let Some(point) = self.points.get_mut(&address) {
                // What failed for want of a signer may succeed now.
                if point.list.is_none() && (!same_signers || point.wanted != wanted) {
                    point.due = now;
                    point.loaded = false;
                    point.again = point.flying;
                }
                point.wanted = wanted;
                continue;
            }
            match Location::parse(&address, self.config.transport.files) {
                Ok(location) => {
                    let point = Point::new(&address, location, wanted, self.config.seed, now);
                    self.board.put(&address, Status::of(&address, &point));
                    self.points.insert(address, point);
                }
                Err(error) => {
                    warn!(crl.address = &*address, %error, "the list cannot be fetched");
                    let state =
                        ListState::Unusable { issuers: wanted.issuers(), why: error.to_string() };
                    self.unfit.insert(Arc::clone(&address));
                    self.send(address, state).await;
                }
            }
        }
    }

    /// Says once which entries of the settings fit no authority: a typing error would otherwise leave
    /// an authority under rules that nobody meant.
    fn tell_unmatched(&mut self, anchors: &AnchorSet, unmatched: Vec<String>) {
        // Before the directory has answered, nothing is in force yet.
        if anchors.configurations.is_empty() || self.unmatched == unmatched {
            return;
        }
        for entry in &unmatched {
            warn!("revocation.authority: no authority in force is the one of {entry}");
        }
        self.unmatched = unmatched;
    }

    async fn forget(&mut self, address: Arc<str>) {
        info!(crl.address = &*address, "no authority names the address any longer");
        self.board.remove(&address);
        self.metrics.gone(&address);
        self.send(address, ListState::Gone).await;
    }

    async fn send(&self, address: Arc<str>, state: ListState) {
        // Nobody listens any longer: `run` sees it too.
        let _ = self.updates.send(Update::Lists { address, state }).await;
    }

    fn refresh(&mut self, refresh: Refresh) {
        let mut looks = Vec::new();
        let now = self.now();
        for (address, point) in &mut self.points {
            if refresh.address.as_deref().is_some_and(|wanted| wanted != &**address) {
                continue;
            }
            let (done, look) = oneshot::channel();
            point.waiting.push(done);
            point.past_caches = true;
            point.again = point.flying;
            point.due = now;
            looks.push(look);
        }
        // Whoever asked may have gone.
        let _ = refresh.started.send(looks);
    }

    /// Starts what is due.
    fn launch(&mut self) {
        let now = self.now();
        for (address, point) in &mut self.points {
            if point.flying || !point.is_due(now) {
                continue;
            }
            let plan = Plan {
                address: Arc::clone(address),
                location: point.location.clone(),
                wanted: point.wanted.clone(),
                signers: Arc::clone(&self.signers),
                in_force: point.list.clone(),
                known: point.known(),
                past_caches: point.past_caches,
                now,
            };
            let hangar = Arc::clone(&self.hangar);
            let flight = if point.loaded {
                point.past_caches = false;
                self.flights.spawn(hangar.fetch(plan))
            } else {
                self.flights.spawn(hangar.load(plan))
            };
            point.flying = true;
            self.in_flight.insert(flight.id(), Arc::clone(address));
        }
    }

    async fn landed(&mut self, landed: Result<(Id, Landed), JoinError>) {
        let (id, landed) = match landed {
            Ok(landed) => landed,
            Err(error) => (error.id(), Landed::Failed(LookError::Aborted)),
        };
        let Some(address) = self.in_flight.remove(&id) else { return };
        let now = self.now();
        let timing = &self.config.timing;
        let Some(point) = self.points.get_mut(&address) else { return };
        point.flying = false;
        let mut news = None;
        match landed {
            Landed::Loaded(found) => {
                point.loaded = true;
                if let Some((list, meta)) = found {
                    info!(
                        crl.address = &*address,
                        crl.entries = list.entries(),
                        "loaded from disk"
                    );
                    point.validators = meta.validators;
                    point.fetched = Some(Timestamp(meta.fetched));
                    point.from_disk = true;
                    point.list = Some(Arc::clone(&list));
                    news = Some(ListState::InForce(list));
                }
            }
            Landed::Unchanged { validators, max_age } => {
                self.metrics.looked(&address, Outcome::Unchanged);
                point.validators = validators;
                point.succeeded(now, max_age, timing);
            }
            Landed::New { list, validators, max_age } => {
                self.metrics.looked(&address, Outcome::New);
                info!(
                    crl.address = &*address,
                    crl.number = list.number.map(tracing::field::display),
                    crl.entries = list.entries(),
                    "a new list"
                );
                point.validators = validators;
                point.list = Some(Arc::clone(&list));
                point.succeeded(now, max_age, timing);
                news = Some(ListState::InForce(list));
            }
            Landed::Failed(failure) => {
                let result = match &failure {
                    LookError::Fetch(_) | LookError::Aborted => Outcome::Unreachable,
                    LookError::List(_) | LookError::Rejected(_) => Outcome::Refused,
                };
                self.metrics.looked(&address, result);
                let why = failure.to_string();
                match &failure {
                    LookError::Rejected(_) => {
                        error!(crl.address = &*address, error = why, "the old list stays in force");
                    }
                    _ => warn!(crl.address = &*address, error = why, "no list was fetched"),
                }
                if result == Outcome::Refused && point.list.is_none() {
                    let why = format!("{address}: {why}");
                    news = Some(ListState::Unusable { issuers: point.wanted.issuers(), why });
                }
                point.failed(now, why, timing);
            }
        }
        self.metrics.in_force(&address, point);
        let first_look = point.loaded && point.looks() == 0;
        if point.again || first_look {
            point.again = false;
            point.due = now;
        } else {
            for done in point.waiting.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
        self.board.put(&address, Status::of(&address, point));
        if let Some(state) = news {
            self.send(address, state).await;
        }
    }

    /// Until the next address is due.
    fn nap(&self) -> Duration {
        let now = self.now();
        let next = self.points.values().filter(|point| !point.flying).map(|point| point.due).min();
        // Due times are whole seconds, so the last one is slept to its end.
        next.map_or(LONGEST_NAP, |due| due.since(now).clamp(Duration::from_secs(1), LONGEST_NAP))
    }
}
