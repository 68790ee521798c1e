//! The loop that keeps the latest good list of each address in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::crl::address_state::Point;
use crate::crl::fetch::{Hangar, Landed, LookError, Plan};
use crate::crl::persistence::Store;
use crate::crl::seen_addresses::Sighted;
use crate::crl::status::{Board, Metrics, Outcome, Status};
use crate::crl::transport::Transport;
use crate::crl::{Clock, Config, Error, Handle, Refresh};
use crate::trust::assembly::{ListState, Update};
use crate::trust::configurations::AnchorSet;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

/// The running part.
pub struct Source {
    pub(super) config: Config,
    hangar: Arc<Hangar>,
    pub(super) anchors: watch::Receiver<Arc<AnchorSet>>,
    updates: mpsc::Sender<Update>,
    commands: mpsc::Receiver<Refresh>,
    pub(super) board: Board,
    pub(super) metrics: Metrics,
    clock: Clock,
    pub(super) points: BTreeMap<Arc<str>, Point>,
    /// Addresses that are none to fetch from.
    pub(super) unfit: BTreeSet<Arc<str>>,
    /// Entries of the settings that fit no authority, as they were told last.
    pub(super) unmatched: Vec<String>,
    pub(super) signers: Arc<Vec<Arc<Certificate>>>,
    /// Those of the signers that the directory names.
    pub(super) authorities: BTreeSet<Fingerprint>,
    pub(super) sighted: Option<Sighted>,
    /// When the files of addresses that nobody names were looked through.
    swept: Option<Timestamp>,
    flights: JoinSet<Landed>,
    /// Which address, and which of its points.
    pub(super) in_flight: HashMap<Id, (Arc<str>, u64)>,
    /// How many points there were.
    pub(super) born: u64,
}

/// The longest sleep: a clock that was set is noticed within it.
const LONGEST_NAP: Duration = Duration::from_secs(30);
/// Between two looks through the files of addresses that nobody names.
const SWEEP: Duration = Duration::from_secs(3600);

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
        let sighted = Sighted::start(config.sightings.clone(), config.directory.as_deref());
        let transport = Transport::new(config.transport.clone())?;
        let permits = Semaphore::new(config.parallel.max(1));
        let (sender, commands) = mpsc::channel(16);
        let board = Board::default();
        let handle = Handle { commands: sender, board: board.clone() };
        let source = Self {
            config,
            hangar: Arc::new(Hangar { transport, store, permits, clock: Arc::clone(&clock) }),
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
            authorities: BTreeSet::new(),
            sighted,
            swept: None,
            flights: JoinSet::new(),
            in_flight: HashMap::new(),
            born: 0,
        };
        Ok((source, handle))
    }

    /// Runs until `stop`, or until nobody is left to tell or to be told.
    pub async fn run(mut self, stop: CancellationToken) {
        self.reconcile().await;
        loop {
            self.launch();
            self.sweep().await;
            self.keep_sighted(false).await;
            let nap = self.nap();
            let noted = Sighted::noted(self.sighted.as_ref());
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.updates.closed() => break,
                changed = self.anchors.changed() => match changed {
                    Ok(()) => self.reconcile().await,
                    Err(_) => break,
                },
                () = noted => self.reconcile().await,
                Some(refresh) = self.commands.recv() => self.refresh(refresh),
                Some(landed) = self.flights.join_next_with_id() => self.landed(landed).await,
                () = tokio::time::sleep(nap) => {}
            }
        }
        self.keep_sighted(true).await;
    }

    /// Writes down which addresses certificates named, when that has changed or it is the last time.
    async fn keep_sighted(&mut self, last: bool) {
        let Some(saving) = self.sighted.as_mut().and_then(|sighted| sighted.save(last)) else {
            return;
        };
        let saved = tokio::task::spawn_blocking(saving).await;
        if let (Ok(saved), Some(store)) = (saved, &self.hangar.store) {
            store.kept("addresses named by certificates", saved);
        }
    }

    /// Lets go of the files of addresses that nobody has named for long.
    async fn sweep(&mut self) {
        let now = self.now();
        // Nothing in force yet is no reason to forget what was.
        let nothing_known = self.anchors.borrow().configurations.is_empty();
        let is_due = self.swept.is_none_or(|at| now.since(at) >= SWEEP || now < at);
        let Some(store) = self.hangar.store.clone().filter(|_| is_due && !nothing_known) else {
            return;
        };
        self.swept = Some(now);
        let named: Vec<Arc<str>> = self.points.keys().cloned().collect();
        let swept = tokio::task::spawn_blocking(move || store.sweep(&named, now)).await;
        if let Ok(Err(error)) = swept {
            warn!(%error, "old lists on disk were not looked through");
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Looks through the files soon: addresses are no longer named.
    pub(super) fn sweep_soon(&mut self) {
        self.swept = None;
    }

    pub(super) async fn send(&self, address: Arc<str>, state: ListState) {
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
            if refresh.anew {
                warn!(crl.address = &**address, "its list is taken anew, whatever is in force");
                point.anew = true;
            }
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
            let anew = point.loaded && std::mem::take(&mut point.anew);
            let keep = self.hangar.store.is_some() && point.keep(now, &self.config.timing);
            let plan = Plan {
                address: Arc::clone(address),
                location: point.location.clone(),
                wanted: point.wanted.clone(),
                signers: Arc::clone(&self.signers),
                in_force: point.list.clone().filter(|_| !anew),
                known: point.known(keep || anew),
                keep,
                past_caches: point.past_caches,
            };
            let hangar = Arc::clone(&self.hangar);
            let flight = if point.loaded {
                point.past_caches = false;
                self.flights.spawn(hangar.fetch(plan))
            } else {
                self.flights.spawn(hangar.load(plan))
            };
            point.flying = true;
            self.in_flight.insert(flight.id(), (Arc::clone(address), point.born));
        }
    }

    async fn landed(&mut self, landed: Result<(Id, Landed), JoinError>) {
        let (id, landed) = match landed {
            Ok(landed) => landed,
            Err(error) => (error.id(), Landed::Failed(LookError::Aborted)),
        };
        let Some((address, born)) = self.in_flight.remove(&id) else { return };
        let now = self.now();
        let timing = &self.config.timing;
        let Some(point) = self.points.get_mut(&address) else { return };
        point.flying = false;
        if point.born != born {
            return;
        }
        let mut news = None;
        match landed {
            Landed::Loaded(found) => {
                point.loaded = true;
                // What was fetched meanwhile is no older than its copy, which may not be its own.
                if let Some((list, meta)) = found.filter(|_| point.list.is_none()) {
                    info!(
                        crl.address = &*address,
                        crl.entries = list.entries(),
                        "loaded from disk"
                    );
                    point.validators = meta.validators;
                    point.fetched = Some(Timestamp(meta.fetched));
                    point.from_disk = true;
                    point.kept = true;
                    point.list = Some(Arc::clone(&list));
                    news = Some(ListState::InForce(list));
                }
            }
            Landed::Unchanged { validators, max_age, kept } => {
                self.metrics.looked(&address, Outcome::Unchanged);
                point.kept |= kept;
                point.validators = validators;
                point.succeeded(now, max_age, timing);
            }
            Landed::New { list, validators, max_age, kept } => {
                self.metrics.looked(&address, Outcome::New);
                point.kept = kept;
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
                let retry_after = match failure {
                    LookError::Fetch(error) => error.retry_after(),
                    _ => None,
                };
                point.failed(now, why, retry_after, timing);
            }
        }
        self.metrics.in_force(&address, point);
        let first_look = point.loaded && point.looks() == 0;
        let mut waiting = Vec::new();
        if point.again || first_look {
            point.again = false;
            point.due = now;
        } else {
            waiting = std::mem::take(&mut point.waiting);
        }
        self.board.put(&address, Status::of(&address, point));
        // By a switch, a list says where its deltas are.
        let names_deltas = |state: &ListState| match state {
            ListState::InForce(list) => !list.freshest.is_empty(),
            _ => false,
        };
        let renewed = self.sighted.is_some() && news.as_ref().is_some_and(names_deltas);
        if let Some(state) = news {
            self.send(address, state).await;
        }
        // Not before the list is on its way to be in force.
        for done in waiting {
            // Whoever asked may have gone.
            let _ = done.send(());
        }
        if renewed {
            self.reconcile().await;
        }
    }

    /// Until the next address is due.
    fn nap(&self) -> Duration {
        let now = self.now();
        let next = self.points.values().filter(|point| !point.flying).map(|point| point.due).min();
        // Due times are whole seconds, so the last one is slept to its end.
        let nap = next
            .map_or(LONGEST_NAP, |due| due.since(now).clamp(Duration::from_secs(1), LONGEST_NAP));
        self.sighted.as_ref().and_then(Sighted::save_in).map_or(nap, |save| nap.min(save))
    }
}
