//! One look at an address: from the disk or the network to a list that may be used.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::spawn_blocking;
use tracing::warn;

use crate::crl::Clock;
use crate::crl::address_state::{self, Rejected, Wanted};
use crate::crl::persistence::{Meta, Saving, Store};
use crate::crl::transport::{FetchError, Location, Transport, Validators};
use crate::runtime::pace::Pace;
use crate::x509::certificate::Certificate;
use crate::x509::crl::{CrlError, ListReader, RevocationList};
use crate::x509::time::Timestamp;

/// Pieces of a list between the network and the walker.
const PIECES: usize = 8;
/// Octets of a piece that are walked before a rest may be due.
const PORTION: usize = 32 * 1024;

/// What every flight needs.
pub(super) struct Hangar {
    pub(super) transport: Transport,
    pub(super) store: Option<Store>,
    /// Flights at one time.
    pub(super) permits: Semaphore,
    pub(super) clock: Clock,
}

/// What one flight is for.
pub(super) struct Plan {
    pub(super) address: Arc<str>,
    pub(super) location: Location,
    pub(super) wanted: Wanted,
    pub(super) signers: Arc<Vec<Arc<Certificate>>>,
    pub(super) in_force: Option<Arc<RevocationList>>,
    pub(super) known: Option<Validators>,
    /// There is no copy of the list in force on disk: make one, even if nothing newer comes.
    pub(super) keep: bool,
    pub(super) past_caches: bool,
}

impl Plan {
    /// Devices wait for a first list; while one is renewed, the old one serves them.  `timeout` is the
    /// time that a fetch may take, of which the most is not for rests.
    fn pace(&self, timeout: Duration) -> Pace {
        if self.in_force.is_some() { Pace::gentle(timeout / 3) } else { Pace::full() }
    }
}

/// What a flight brought home.
pub(super) enum Landed {
    /// From the disk, the first time an address matters.
    Loaded(Option<(Arc<RevocationList>, Meta)>),
    Unchanged {
        validators: Validators,
        max_age: Option<Duration>,
        /// A copy was made.
        kept: bool,
    },
    New {
        list: Arc<RevocationList>,
        validators: Validators,
        max_age: Option<Duration>,
        /// A copy was made.
        kept: bool,
    },
    Failed(LookError),
}

/// Why a look brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Nothing could be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What was fetched is no usable list.
    #[error(transparent)]
    List(#[from] CrlError),
    /// The list may not replace the one in force.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The work was cut short.
    #[error("the work was cut short")]
    Aborted,
}

impl Hangar {
    pub(super) async fn load(self: Arc<Self>, plan: Plan) -> Landed {
        let Some(store) = self.store.clone() else { return Landed::Loaded(None) };
        let Ok(_permit) = self.permits.acquire().await else {
            return Landed::Failed(LookError::Aborted);
        };
        let limit = self.transport.config().max_bytes;
        spawn_blocking(move || Landed::Loaded(load(&store, &plan, limit)))
            .await
            .unwrap_or(Landed::Failed(LookError::Aborted))
    }

    pub(super) async fn fetch(self: Arc<Self>, plan: Plan) -> Landed {
        self.try_fetch(plan).await.unwrap_or_else(Landed::Failed)
    }

    async fn try_fetch(&self, plan: Plan) -> Result<Landed, LookError> {
        let _permit = self.permits.acquire().await.map_err(|_| LookError::Aborted)?;
        let (out, pieces) = mpsc::channel(PIECES);
        let (location, known, past_caches) =
            (plan.location.clone(), plan.known.clone(), plan.past_caches);
        let (limit, timeout) = (self.transport.config().max_bytes, self.transport.config().timeout);
        let store = self.store.clone();
        let received = spawn_blocking(move || {
            let read = receive(pieces, store.as_ref(), &plan, limit, plan.pace(timeout));
            (read, plan)
        });
        let fetched = self.transport.fetch(&location, known.as_ref(), past_caches, out).await;
        if let (Location::File(_), Err(FetchError::Timeout(_))) = (&location, &fetched) {
            // Whoever reads the file still does, and the walker waits for it.
            return Err(LookError::Fetch(FetchError::Timeout(timeout)));
        }
        let (read, plan) = received.await.map_err(|_| LookError::Aborted)?;
        let fetched = match fetched {
            // The reader stopped taking pieces: what it says is the reason.
            Err(FetchError::Refused) => return Err(read.err().unwrap_or(LookError::Aborted)),
            Err(error) => {
                // Most of a large list may have come: it is not freed here, where requests are served.
                drop(spawn_blocking(move || drop((read, plan))));
                return Err(error.into());
            }
            Ok(fetched) if fetched.unchanged => {
                return Ok(Landed::Unchanged {
                    validators: fetched.validators,
                    max_age: fetched.max_age,
                    kept: false,
                });
            }
            Ok(fetched) => fetched,
        };
        let (reader, saving) = read?;
        let validators = fetched.validators.clone();
        let store = self.store.clone();
        // A flight waits for its turn and can be long: the list may be younger than its beginning.
        let now = (self.clock)();
        let finished = spawn_blocking(move || {
            finish(reader, (saving, store), &plan, validators, now, plan.pace(timeout))
        })
        .await;
        let (list, kept) = finished.map_err(|_| LookError::Aborted)??;
        let (validators, max_age) = (fetched.validators, fetched.max_age);
        Ok(match list {
            None => Landed::Unchanged { validators, max_age, kept },
            Some(list) => Landed::New { list, validators, max_age, kept },
        })
    }
}

/// Walks the pieces as they come, and writes them beside.
fn receive(
    mut pieces: Receiver<Bytes>,
    store: Option<&Store>,
    plan: &Plan,
    limit: u64,
    mut pace: Pace,
) -> Result<(ListReader, Option<Saving>), LookError> {
    let mut reader = ListReader::new(limit);
    let mut saving = None;
    let mut first = true;
    while let Some(piece) = pieces.blocking_recv() {
        pace.begin();
        for piece in piece.chunks(PORTION) {
            reader.feed(piece)?;
            if std::mem::take(&mut first) {
                saving = store
                    .and_then(|store| store.kept(&plan.address, store.begin(&plan.address)))
                    .zip(store);
            }
            if let Some((mut file, store)) = saving.take()
                && store.kept(&plan.address, file.write(piece)).is_some()
            {
                saving = Some((file, store));
            }
            pace.rest();
        }
    }
    Ok((reader, saving.map(|(file, _)| file)))
}

/// Verifies, compares with the list in force, and keeps on disk.  No list: the same one again.  And
/// whether a copy was made.
fn finish(
    reader: ListReader,
    (saving, store): (Option<Saving>, Option<Store>),
    plan: &Plan,
    validators: Validators,
    now: Timestamp,
    mut pace: Pace,
) -> Result<(Option<Arc<RevocationList>>, bool), LookError> {
    let list = reader.finish_between(&plan.signers, now, &mut || pace.rest())?;
    let is_new = address_state::accept(&plan.wanted, plan.in_force.as_deref(), &list)?;
    let Some(store) = store.filter(|_| is_new || plan.keep) else {
        return Ok((is_new.then(|| Arc::new(list)), false));
    };
    let meta = Meta {
        address: plan.address.to_string(),
        validators,
        fetched: now.0,
        next_update: list.next_update.map(|at| at.0),
    };
    let kept = saving.is_some_and(|s| store.kept(&plan.address, s.commit(&meta)).is_some());
    if kept {
        store.works();
    } else if is_new {
        // To remove takes no room.  A start without a list refuses until there is one; with an older
        // one it would let in who was revoked since.
        store.kept(&plan.address, store.remove(&plan.address));
    }
    Ok((is_new.then(|| Arc::new(list)), kept))
}

fn load(store: &Store, plan: &Plan, limit: u64) -> Option<(Arc<RevocationList>, Meta)> {
    let mut reader = ListReader::new(limit);
    let feed = |piece: &[u8]| reader.feed(piece).map_err(io::Error::other);
    let loaded = store.load(&plan.address, feed).inspect_err(
        |error| warn!(crl.address = &*plan.address, %error, "the copy on disk is not used"),
    );
    let meta = loaded.ok()??;
    // It was in force, so if it is of the future the clock was set back.  The judge heeds that; without
    // the list an older one could be put in its place.
    let list = reader.finish(&plan.signers, Timestamp(i64::MAX)).map_err(LookError::from);
    let usable = list.and_then(|list| {
        address_state::accept(&plan.wanted, None, &list)?;
        Ok(list)
    });
    match usable {
        Ok(list) => Some((Arc::new(list), meta)),
        Err(error) => {
            warn!(crl.address = &*plan.address, %error, "the list on disk is not used");
            None
        }
    }
}
