//! One fetch: from the disk or the network to a verified list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::spawn_blocking;

use crate::crl::copies::{self, LoadedCopy, Place};
use crate::crl::copy_key;
use crate::crl::permits::Permits;
use crate::crl::persistence::{Metadata, PendingFile, Store};
use crate::crl::replacement::{self, Rejected};
use crate::crl::targets::Expected;
use crate::crl::transport::{FetchError, Location, Transport, Validators};
use crate::runtime::clock::Clock;
use crate::runtime::pace::Pace;
use crate::x509::certificate::Certificate;
use crate::x509::crl::{CrlError, ListReader, RevocationList};
use crate::x509::time::Timestamp;

/// Pieces of a list that are buffered between the network and the reader.
const PIECES: usize = 8;
/// Bytes that are read before a rest may be due.
const PORTION: usize = 32 * 1024;

/// State that all fetches share.
pub(super) struct FetchState {
    pub(super) transport: Transport,
    pub(super) store: Option<Store>,
    /// Bounds the fetches that run at the same time.
    pub(super) permits: Permits,
    pub(super) clock: Clock,
}

/// Parameters of one fetch.
#[derive(Clone)]
pub(super) struct Fetch {
    pub(super) address: Arc<str>,
    /// Locations to fetch from, in this order, until one returns a list.
    pub(super) locations: Vec<Location>,
    pub(super) expected: Expected,
    pub(super) signers: Arc<Vec<Arc<Certificate>>>,
    pub(super) in_force: Vec<Arc<RevocationList>>,
    /// The list may be older than the ones in force.
    pub(super) accept_rollback: bool,
    pub(super) known: Option<Validators>,
    /// A list in force has no copy on disk.  Write one, even if the list did not change.
    pub(super) write_copy: bool,
    pub(super) bypass_caches: bool,
}

impl Fetch {
    /// A first list is processed at full speed, because devices wait for it.  While a list is replaced,
    /// the old one serves them, so the work rests.  Rests use at most a third of `timeout`, the time
    /// limit of a fetch.
    fn pace(&self, timeout: Duration) -> Pace {
        if self.replaceable().is_empty() { Pace::full() } else { Pace::background(timeout / 3) }
    }

    fn place(&self) -> Place<'_> {
        Place { address: &self.address, expected: &self.expected, signers: &self.signers }
    }

    /// The lists that the new one is compared with.
    fn replaceable(&self) -> &[Arc<RevocationList>] {
        if self.accept_rollback { &[] } else { &self.in_force }
    }
}

/// The result of one fetch.
pub(super) enum FetchResult {
    /// The disk was read.
    Loaded(Vec<LoadedCopy>),
    Unchanged {
        /// Location that the list was fetched from.
        location: Location,
        validators: Validators,
        max_age: Option<Duration>,
        /// A copy was written to disk.
        copied: Option<SavedCopy>,
    },
    New {
        list: Arc<RevocationList>,
        /// Location that the list was fetched from.
        location: Location,
        validators: Validators,
        max_age: Option<Duration>,
        /// Key of the copy that was written to disk.
        copy: Option<Arc<str>>,
        /// It replaces lists that may be newer.
        accept_rollback: bool,
        /// Arrival of the last byte.
        received: Instant,
    },
    Failed(FetchFailure),
}

/// The list that a response contained.
struct Read {
    list: Arc<RevocationList>,
    /// It is not in force yet.
    is_new: bool,
    /// Key of the copy that was written to disk.
    copy: Option<Arc<str>>,
}

/// A copy of a list that was in force already.
pub(super) struct SavedCopy {
    pub(super) list: Arc<RevocationList>,
    pub(super) key: Arc<str>,
}

/// Reasons why a fetch did not yield a list.
#[derive(Debug, thiserror::Error)]
pub enum FetchFailure {
    /// The transfer failed.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The response is not a usable list.
    #[error(transparent)]
    List(#[from] CrlError),
    /// The list may not replace the one in force.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The process is stopping, or the task panicked.
    #[error("the fetch was aborted")]
    Aborted,
}

impl FetchState {
    pub(super) async fn load(self: Arc<Self>, fetch: Fetch) -> FetchResult {
        let Some(store) = self.store.clone() else { return FetchResult::Loaded(Vec::new()) };
        let Some(_permit) = self.permits.acquire(&fetch.expected.groups).await else {
            return FetchResult::Failed(FetchFailure::Aborted);
        };
        let limit = self.transport.config().max_bytes;
        spawn_blocking(move || FetchResult::Loaded(copies::load(&store, fetch.place(), limit)))
            .await
            .unwrap_or(FetchResult::Failed(FetchFailure::Aborted))
    }

    pub(super) async fn fetch(self: Arc<Self>, mut fetch: Fetch) -> FetchResult {
        let mut first = None;
        for location in fetch.locations.clone() {
            match self.try_fetch(fetch.clone(), location).await {
                Ok(result) => return result,
                // Another address may have the list.  The first failure is the one that is reported.
                Err(failure) => {
                    first.get_or_insert(failure);
                }
            }
            // The version belongs to the first location.
            fetch.known = None;
        }
        FetchResult::Failed(first.unwrap_or(FetchFailure::Aborted))
    }

    async fn try_fetch(
        &self,
        fetch: Fetch,
        location: Location,
    ) -> Result<FetchResult, FetchFailure> {
        let permit = self.permits.acquire(&fetch.expected.groups).await;
        let _permit = permit.ok_or(FetchFailure::Aborted)?;
        let (out, pieces) = mpsc::channel(PIECES);
        let (known, bypass_caches) = (fetch.known.clone(), fetch.bypass_caches);
        let (limit, timeout) = (self.transport.config().max_bytes, self.transport.config().timeout);
        let store = self.store.clone();
        let received = spawn_blocking(move || {
            let read = receive(pieces, store.as_ref(), &fetch, limit, fetch.pace(timeout));
            (read, fetch)
        });
        let fetched = self.transport.fetch(&location, known.as_ref(), bypass_caches, out).await;
        let arrival = Instant::now();
        if let (Location::File(_), Err(FetchError::Timeout(_))) = (&location, &fetched) {
            // The thread that reads the file is still blocked, and `received` would wait for it.
            return Err(FetchFailure::Fetch(FetchError::Timeout(timeout)));
        }
        let (read, fetch) = received.await.map_err(|_| FetchFailure::Aborted)?;
        let fetched = match fetched {
            // The list reader stopped the transfer: its error is the reason.
            Err(FetchError::Stopped) => return Err(read.err().unwrap_or(FetchFailure::Aborted)),
            Err(error) => {
                // Most of a large list may have been read.  Freeing it must not delay requests.
                drop(spawn_blocking(move || drop((read, fetch))));
                return Err(error.into());
            }
            Ok(fetched) if fetched.unchanged => {
                return Ok(FetchResult::Unchanged {
                    location,
                    validators: fetched.validators,
                    max_age: fetched.max_age,
                    copied: None,
                });
            }
            Ok(fetched) => fetched,
        };
        let (reader, file) = read?;
        let validators = fetched.validators.clone();
        let store = self.store.clone();
        let accept_rollback = fetch.accept_rollback;
        // A fetch may wait for a permit and take long.  The list may be newer than its start.
        let now = (self.clock)();
        let finished = spawn_blocking(move || {
            finish(reader, (file, store), &fetch, validators, now, fetch.pace(timeout))
        })
        .await;
        let Read { list, is_new, copy } = finished.map_err(|_| FetchFailure::Aborted)??;
        let (validators, max_age) = (fetched.validators, fetched.max_age);
        if !is_new {
            let copied = copy.map(|key| SavedCopy { list, key });
            return Ok(FetchResult::Unchanged { location, validators, max_age, copied });
        }
        let received = arrival;
        Ok(FetchResult::New {
            list,
            location,
            validators,
            max_age,
            copy,
            accept_rollback,
            received,
        })
    }
}

/// Reads the pieces as they arrive, and writes them to a file at the same time.
fn receive(
    mut pieces: Receiver<Bytes>,
    store: Option<&Store>,
    fetch: &Fetch,
    limit: u64,
    mut pace: Pace,
) -> Result<(ListReader, Option<PendingFile>), FetchFailure> {
    let mut reader = ListReader::new(limit);
    let mut file = None;
    let mut first = true;
    while let Some(piece) = pieces.blocking_recv() {
        pace.begin();
        for piece in piece.chunks(PORTION) {
            reader.feed(piece)?;
            if std::mem::take(&mut first) {
                file = store
                    .and_then(|store| store.report(&fetch.address, store.begin(&fetch.address)))
                    .zip(store);
            }
            if let Some((mut pending, store)) = file.take()
                && store.report(&fetch.address, pending.write(piece)).is_some()
            {
                file = Some((pending, store));
            }
            pace.rest();
        }
    }
    Ok((reader, file.map(|(pending, _)| pending)))
}

/// Verifies the list, compares it with the ones in force, and writes a copy to disk.
fn finish(
    reader: ListReader,
    (file, store): (Option<PendingFile>, Option<Store>),
    fetch: &Fetch,
    validators: Validators,
    now: Timestamp,
    mut pace: Pace,
) -> Result<Read, FetchFailure> {
    let list = Arc::new(reader.finish_in_steps(&fetch.signers, now, &mut || pace.rest())?);
    let is_new = replacement::accept(&fetch.expected, fetch.replaceable(), &list, now)?;
    let Some(store) = store.filter(|_| is_new || fetch.write_copy) else {
        return Ok(Read { list, is_new, copy: None });
    };
    let key = copy_key::of(&fetch.address, &fetch.expected, &list);
    let metadata = Metadata {
        address: key.to_string(),
        validators,
        fetched: now.0,
        next_update: list.next_update.map(|at| at.0),
    };
    let committed =
        file.is_some_and(|file| store.report(&fetch.address, file.commit(&metadata)).is_some());
    if committed {
        store.report_success();
    }
    let copy = committed.then_some(key);
    if is_new {
        copies::remove_older(&store, fetch.place(), &fetch.in_force, &list, copy.as_deref());
    }
    Ok(Read { list, is_new, copy })
}
