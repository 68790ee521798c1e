//! One fetch: from the disk or the network to a verified list.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::crl::list_key;
use crate::crl::permits::Permits;
use crate::crl::persistence::{Metadata, PendingFile, Store};
use crate::crl::replacement::{self, Rejected};
use crate::crl::targets::Expected;
use crate::crl::transport::{FetchError, Location, Transport, Validators};
use crate::runtime::clock::Clock;
use crate::runtime::pace::Pace;
use crate::runtime::text::Cleaned;
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
    /// Key of the address.
    pub(super) address: Arc<str>,
    /// Locations to fetch from, in this order, until one returns a list.
    pub(super) locations: Vec<Location>,
    pub(super) expected: Expected,
    pub(super) signers: Arc<Vec<Arc<Certificate>>>,
    pub(super) in_force: Option<Arc<RevocationList>>,
    pub(super) known: Option<Validators>,
    /// The list in force has no copy on disk.  Write one, even if the list did not change.
    pub(super) write_copy: bool,
    pub(super) bypass_caches: bool,
}

impl Fetch {
    /// A first list is processed at full speed, because devices wait for it.  While a list is replaced,
    /// the old one serves them, so the work rests.  Rests use at most a third of `timeout`, the time
    /// limit of a fetch.
    fn pace(&self, timeout: Duration) -> Pace {
        if self.in_force.is_some() { Pace::background(timeout / 3) } else { Pace::full() }
    }
}

/// The result of one fetch.
pub(super) enum FetchResult {
    /// The disk was read, which happens once for each address.
    Loaded(Option<(Arc<RevocationList>, Metadata)>),
    Unchanged {
        /// Location that the list was fetched from.
        location: Location,
        validators: Validators,
        max_age: Option<Duration>,
        /// A copy was written to disk.
        copied: bool,
    },
    New {
        list: Arc<RevocationList>,
        /// Location that the list was fetched from.
        location: Location,
        validators: Validators,
        max_age: Option<Duration>,
        /// A copy was written to disk.
        copied: bool,
        /// Arrival of the last byte.
        received: Instant,
    },
    Failed(FetchFailure),
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
        let Some(store) = self.store.clone() else { return FetchResult::Loaded(None) };
        let Some(_permit) = self.permits.acquire(&fetch.expected.groups).await else {
            return FetchResult::Failed(FetchFailure::Aborted);
        };
        let limit = self.transport.config().max_bytes;
        spawn_blocking(move || FetchResult::Loaded(load(&store, &fetch, limit)))
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
                    copied: false,
                });
            }
            Ok(fetched) => fetched,
        };
        let (reader, file) = read?;
        let validators = fetched.validators.clone();
        let store = self.store.clone();
        // A fetch may wait for a permit and take long.  The list may be newer than its start.
        let now = (self.clock)();
        let finished = spawn_blocking(move || {
            finish(reader, (file, store), &fetch, validators, now, fetch.pace(timeout))
        })
        .await;
        let (list, copied) = finished.map_err(|_| FetchFailure::Aborted)??;
        let (validators, max_age) = (fetched.validators, fetched.max_age);
        Ok(match list {
            None => FetchResult::Unchanged { location, validators, max_age, copied },
            Some(list) => {
                let received = arrival;
                FetchResult::New { list, location, validators, max_age, copied, received }
            }
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
                    .and_then(|store| {
                        store.report(list_key::address(&fetch.address), store.begin(&fetch.address))
                    })
                    .zip(store);
            }
            if let Some((mut pending, store)) = file.take()
                && store.report(list_key::address(&fetch.address), pending.write(piece)).is_some()
            {
                file = Some((pending, store));
            }
            pace.rest();
        }
    }
    Ok((reader, file.map(|(pending, _)| pending)))
}

/// Verifies the list, compares it with the one in force, and writes a copy to disk.  Returns the list,
/// or `None` if it is the one in force, and whether a copy was written.
fn finish(
    reader: ListReader,
    (file, store): (Option<PendingFile>, Option<Store>),
    fetch: &Fetch,
    validators: Validators,
    now: Timestamp,
    mut pace: Pace,
) -> Result<(Option<Arc<RevocationList>>, bool), FetchFailure> {
    let list = reader.finish_in_steps(&fetch.signers, now, &mut || pace.rest())?;
    let is_new = replacement::accept(&fetch.expected, fetch.in_force.as_deref(), &list, now)?;
    let Some(store) = store.filter(|_| is_new || fetch.write_copy) else {
        return Ok((is_new.then(|| Arc::new(list)), false));
    };
    let metadata = Metadata {
        address: fetch.address.to_string(),
        validators,
        fetched: now.0,
        next_update: list.next_update.map(|at| at.0),
    };
    let copied = file.is_some_and(|f| {
        store.report(list_key::address(&fetch.address), f.commit(&metadata)).is_some()
    });
    if copied {
        store.report_success();
    } else if is_new {
        // Removing a file needs no space.  A start without a list refuses devices until there is one; a
        // start with an older list would accept devices that were revoked since.
        store.report(list_key::address(&fetch.address), store.remove(&fetch.address));
    }
    Ok((is_new.then(|| Arc::new(list)), copied))
}

fn load(store: &Store, fetch: &Fetch, limit: u64) -> Option<(Arc<RevocationList>, Metadata)> {
    let mut reader = ListReader::new(limit);
    let feed = |piece: &[u8]| reader.feed(piece).map_err(io::Error::other);
    let loaded = store.load(&fetch.address, feed).inspect_err(
        |error| warn!(crl.address = %Cleaned(list_key::address(&fetch.address)), %error, "CRL copy on disk not used"),
    );
    let metadata = match loaded.ok()? {
        Some(metadata) => metadata,
        // An earlier version had one copy for all issuers of an address.
        None => {
            reader = ListReader::new(limit);
            let feed = |piece: &[u8]| reader.feed(piece).map_err(io::Error::other);
            store.load(list_key::address(&fetch.address), feed).ok()??
        }
    };
    // The list was in force, so a thisUpdate in the future means that the clock was set back.  The judge
    // rejects such a list, and a present one with no lower number replaces it.  Dropping it here would
    // allow any older list.
    let list = reader.finish(&fetch.signers, Timestamp(i64::MAX)).map_err(FetchFailure::from);
    let usable = list.and_then(|list| {
        replacement::accept(&fetch.expected, None, &list, Timestamp(i64::MAX))?;
        Ok(list)
    });
    match usable {
        Ok(list) => Some((Arc::new(list), metadata)),
        Err(error) => {
            warn!(crl.address = %Cleaned(list_key::address(&fetch.address)), %error, "CRL copy on disk not used");
            None
        }
    }
}
