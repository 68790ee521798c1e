//! The loop that keeps the newest valid list of each address in force.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::crl::address_state::AddressState;
use crate::crl::copy_key;
use crate::crl::fetch::{Fetch, FetchFailure, FetchResult, FetchState};
use crate::crl::metrics::Metrics;
use crate::crl::permits::Permits;
use crate::crl::persistence::Store;
use crate::crl::results::apply;
use crate::crl::saved_addresses::SavedAddresses;
use crate::crl::status::{Status, Statuses};
use crate::crl::transport::Transport;
use crate::crl::{Config, Error, Handle, Progress, Refresh};
use crate::runtime::clock::Clock;
use crate::runtime::publisher::ConfigurationsInForce;
use crate::runtime::text::Cleaned;
use crate::trust::assembly::{ListState, Update};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

/// The task that fetches lists.
pub struct Source {
    pub(super) config: Config,
    fetch_state: Arc<FetchState>,
    pub(super) in_force: watch::Receiver<ConfigurationsInForce>,
    updates: mpsc::Sender<Update>,
    commands: mpsc::Receiver<Refresh>,
    pub(super) statuses: Statuses,
    pub(super) metrics: Metrics,
    progress: watch::Sender<Progress>,
    /// Generation whose configurations were processed last.
    pub(super) generation: u64,
    clock: Clock,
    pub(super) addresses: BTreeMap<Arc<str>, AddressState>,
    /// Named addresses that cannot be fetched from.
    pub(super) unusable: BTreeSet<Arc<str>>,
    /// Entries of the settings that match no authority, as of the last warning.
    pub(super) unmatched: Vec<String>,
    pub(super) signers: Arc<Vec<Arc<Certificate>>>,
    /// The signers that a directory names.
    pub(super) authorities: BTreeSet<Fingerprint>,
    pub(super) seen: Option<SavedAddresses>,
    /// Time of the last sweep of copies on disk.
    swept: Option<Timestamp>,
    fetches: JoinSet<FetchResult>,
    /// Address and state ID of each running fetch.
    pub(super) running: HashMap<Id, (Arc<str>, u64)>,
    /// ID of the newest address state.
    pub(super) last_id: u64,
}

/// Longest pause of the loop.  A change of the system clock is noticed within it.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Pauses before the first restart after a panic, and before later ones.
const MIN_RESTART_PAUSE: Duration = Duration::from_secs(1);
const MAX_RESTART_PAUSE: Duration = Duration::from_secs(60);
/// Interval between two sweeps of the copies of addresses that are no longer named.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

impl Source {
    /// Creates a source for the addresses of the configurations in force.  It sends lists to `updates`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(
        config: Config,
        in_force: watch::Receiver<ConfigurationsInForce>,
        updates: mpsc::Sender<Update>,
        metrics: Metrics,
        clock: Clock,
    ) -> Result<(Self, Handle), Error> {
        let store = config.directory.as_ref().map(Store::open).transpose()?;
        let store = store.map(|store| store.with_unsaved(config.unsaved.clone()));
        let seen =
            SavedAddresses::start(config.address_record.clone(), config.directory.as_deref());
        let transport = Transport::new(config.transport.clone())?;
        let permits = Permits::new(config.parallel);
        let (sender, commands) = mpsc::channel(16);
        let (progress, watched_progress) = watch::channel(Progress::default());
        let statuses = metrics.statuses();
        let handle = Handle {
            commands: sender,
            statuses: statuses.clone(),
            progress: watched_progress,
            transport: transport.clone(),
        };
        let fetch_state = FetchState { transport, store, permits, clock: Arc::clone(&clock) };
        let source = Self {
            config,
            fetch_state: Arc::new(fetch_state),
            in_force,
            updates,
            commands,
            statuses,
            metrics,
            progress,
            generation: 0,
            clock,
            addresses: BTreeMap::new(),
            unusable: BTreeSet::new(),
            unmatched: Vec::new(),
            signers: Arc::default(),
            authorities: BTreeSet::new(),
            seen,
            swept: None,
            fetches: JoinSet::new(),
            running: HashMap::new(),
            last_id: 0,
        };
        Ok((source, handle))
    }

    /// Runs until `stop` is signalled, or the publisher is gone.
    ///
    /// A panic ends one attempt, not the process: the source starts again after a pause, and the lists in
    /// force stay.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut pause = MIN_RESTART_PAUSE;
        while AssertUnwindSafe(self.follow(&stop)).catch_unwind().await.is_err() {
            self.metrics.restarted();
            error!(retry_in = ?pause, "source of CRLs panicked; the lists in force stay");
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(MAX_RESTART_PAUSE);
        }
        self.save_seen(true).await;
    }

    async fn follow(&mut self, stop: &CancellationToken) {
        self.forget_fetches().await;
        self.reconcile().await;
        loop {
            self.start_fetches();
            self.sweep().await;
            self.save_seen(false).await;
            let pause = self.pause();
            let seen_changed = SavedAddresses::changed(self.seen.as_ref());
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.updates.closed() => break,
                changed = self.in_force.changed() => match changed {
                    Ok(()) => self.reconcile().await,
                    Err(_) => break,
                },
                () = seen_changed => self.reconcile().await,
                Some(refresh) = self.commands.recv() => self.refresh(refresh),
                Some(finished) = self.fetches.join_next_with_id() => self.finish(finished).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Ends what a panic interrupted.  Lists are sent again, because the panic may have come between a
    /// change of an address's state and its update.
    async fn forget_fetches(&mut self) {
        self.fetches = JoinSet::new();
        self.running.clear();
        let mut updates = Vec::new();
        for (address, state) in &mut self.addresses {
            state.is_fetching = false;
            if !state.lists.is_empty() {
                updates.push((Arc::clone(address), state.states()));
            }
        }
        for (address, lists) in updates {
            self.send(address, lists, Instant::now()).await;
        }
    }

    /// Writes the addresses that certificates name, if they changed or `last` is set.
    async fn save_seen(&mut self, last: bool) {
        let Some(save) = self.seen.as_mut().and_then(|seen| seen.save(last)) else {
            return;
        };
        let saved = tokio::task::spawn_blocking(save).await;
        if let (Ok(saved), Some(store)) = (saved, &self.fetch_state.store) {
            store.report("addresses named by certificates", saved);
        }
    }

    /// Removes the copies of addresses that have not been named for a long time.
    async fn sweep(&mut self) {
        let now = self.now();
        // Before the first response of the directory, keep the copies of the previous run.
        let nothing_known = self.in_force.borrow().configurations.is_empty();
        let is_due = self.swept.is_none_or(|at| now.since(at) >= SWEEP_INTERVAL || now < at);
        let Some(store) = self.fetch_state.store.clone().filter(|_| is_due && !nothing_known)
        else {
            return;
        };
        self.swept = Some(now);
        let mut named: Vec<Arc<str>> = Vec::new();
        for (address, state) in &self.addresses {
            let keys = copy_key::all(address, &state.expected, &[]);
            named.extend(keys.into_iter().map(Arc::from));
            named.extend(state.lists.iter().filter_map(|held| held.copy.clone()));
        }
        let swept = tokio::task::spawn_blocking(move || store.sweep(&named, now)).await;
        if let Ok(Err(error)) = swept {
            warn!(%error, "sweep of old CRL copies failed");
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// Makes the next sweep due, after addresses were removed.
    pub(super) fn sweep_soon(&mut self) {
        self.swept = None;
    }

    pub(super) fn report_progress(&self) {
        let unattempted = self.addresses.values().filter(|state| !state.was_attempted()).count();
        self.progress.send_replace(Progress { generation: self.generation, unattempted });
    }

    /// Sends the lists of an address, which arrived at `arrived`.
    pub(super) async fn send(&self, address: Arc<str>, lists: Vec<ListState>, arrived: Instant) {
        self.metrics.arrived(arrived);
        // An error means that the publisher is gone; `run` ends then.
        let _ = self.updates.send(Update::Lists { address, lists }).await;
    }

    fn refresh(&mut self, refresh: Refresh) {
        let mut fetches = Vec::new();
        let now = self.now();
        for (address, state) in &mut self.addresses {
            if refresh.address.as_deref().is_some_and(|wanted| *wanted != **address) {
                continue;
            }
            let (done, fetch) = oneshot::channel();
            state.waiting.push(done);
            state.bypass_caches = true;
            if refresh.accept_rollback {
                warn!(
                    crl.address = %Cleaned(address),
                    "refresh accepts a list older than the one in force"
                );
                state.accept_rollback = true;
            }
            state.fetch_again = state.is_fetching;
            state.next_fetch = now;
            fetches.push(fetch);
        }
        // An error means that the caller is gone.
        let _ = refresh.started.send(fetches);
    }

    /// Starts the fetches that are due.
    fn start_fetches(&mut self) {
        let now = self.now();
        for (address, state) in &mut self.addresses {
            if state.is_fetching || !state.is_due(now) {
                continue;
            }
            let accept_rollback = state.loaded && std::mem::take(&mut state.accept_rollback);
            let write_copy =
                self.fetch_state.store.is_some() && state.needs_copy(now, &self.config.timing);
            let fetch = Fetch {
                address: Arc::clone(address),
                locations: state.locations(address, self.config.transport.files),
                expected: state.expected.clone(),
                signers: Arc::clone(&self.signers),
                in_force: state.in_force().cloned().collect(),
                accept_rollback,
                known: state.known_version(write_copy || accept_rollback),
                write_copy,
                bypass_caches: state.bypass_caches,
            };
            let fetch_state = Arc::clone(&self.fetch_state);
            let task = if state.loaded {
                state.bypass_caches = false;
                self.fetches.spawn(fetch_state.fetch(fetch))
            } else {
                self.fetches.spawn(fetch_state.load(fetch))
            };
            state.is_fetching = true;
            self.running.insert(task.id(), (Arc::clone(address), state.id));
        }
    }

    /// Applies the result of a fetch.
    async fn finish(&mut self, finished: Result<(Id, FetchResult), JoinError>) {
        let (task, result) = match finished {
            Ok(finished) => finished,
            Err(error) => (error.id(), FetchResult::Failed(FetchFailure::Aborted)),
        };
        let Some((address, id)) = self.running.remove(&task) else { return };
        let now = self.now();
        let Some(state) = self.addresses.get_mut(&address) else { return };
        state.is_fetching = false;
        if state.id != id {
            return;
        }
        let was_load = matches!(result, FetchResult::Loaded(_));
        let arrived = match &result {
            FetchResult::New { received, .. } => *received,
            _ => Instant::now(),
        };
        let update = apply(&address, state, result, now, &self.config, &self.metrics);
        self.metrics.in_force(&address, state);
        let mut waiting = Vec::new();
        // A fetch follows each reading of the disk.
        if state.fetch_again || was_load {
            state.fetch_again = false;
            state.next_fetch = now;
        } else {
            waiting = std::mem::take(&mut state.waiting);
        }
        self.statuses.put(&address, Status::of(&address, state));
        let mut addresses_changed = false;
        if let Some(lists) = update {
            for list in lists.iter().filter_map(ListState::newest) {
                self.note_unused_deltas(&list.issuer);
                addresses_changed |= self.seen.is_some() && !list.freshest.is_empty();
            }
            self.send(address, lists, arrived).await;
        }
        // After the update: readiness means that the lists are with the publisher.
        self.report_progress();
        // Callers are answered after the list was sent to the publisher.
        for done in waiting {
            // An error means that the caller is gone.
            let _ = done.send(());
        }
        if addresses_changed {
            self.reconcile().await;
        }
    }

    /// Time until the next fetch or write is due.
    fn pause(&self) -> Duration {
        let now = self.now();
        let idle = self.addresses.values().filter(|state| !state.is_fetching);
        let next = idle.map(|state| state.next_fetch).min();
        // Times are whole seconds, so a fetch that is due within this second waits for its end.
        let pause =
            next.map_or(MAX_PAUSE, |at| at.since(now).clamp(Duration::from_secs(1), MAX_PAUSE));
        let save = self.seen.as_ref().and_then(SavedAddresses::save_in);
        save.map_or(pause, |save| pause.min(save))
    }
}
