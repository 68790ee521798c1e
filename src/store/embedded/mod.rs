//! The store in one file, without a server: redb, a crash-safe B-tree with one writer at a time.

mod tables;
mod write;

use std::mem::take;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::mpsc::TryRecvError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageError, WriteTransaction,
};

use crate::store::changes::Versions;
use crate::store::objects::{Change, Collection, Record, Since, StoreError};

use tables::{
    IDENTITY, META, REFERRED, TEXTS, VERSION, changed, forgotten, last, objects, removed,
};
use write::{BATCH, Pending};

pub(super) use write::Write;

/// Bytes of the file that are kept in memory; the system's own cache has more.
const CACHE: usize = 64 * 1024 * 1024;

/// A redb database that is opened again after the disk failed it.
pub(super) struct Embedded {
    path: PathBuf,
    /// `None` after an I/O error: redb refuses all work from then on, also when the disk is well again.
    database: Mutex<Option<Arc<Database>>>,
    /// Changes that wait for a transaction.
    queue: Mutex<Vec<Pending>>,
    /// Held by who makes one.
    turn: Mutex<()>,
}

impl Embedded {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self {
            path: path.to_owned(),
            database: Mutex::new(None),
            queue: Mutex::default(),
            turn: Mutex::default(),
        };
        store.change(tables::prepare)?;
        Ok(store)
    }

    /// The versions of the last changes.
    pub(super) fn versions(&self) -> Result<Versions, StoreError> {
        self.read(|transaction| {
            let meta = transaction.open_table(META)?;
            let mut versions = Versions::default();
            for collection in Collection::ALL {
                versions.set(collection, number(&meta, &last(collection))?);
            }
            Ok(versions)
        })
    }

    pub(super) fn identity(&self) -> Result<String, StoreError> {
        self.read(|transaction| {
            let identity = transaction.open_table(TEXTS)?.get(IDENTITY)?;
            Ok(identity.map_or_else(String::new, |text| text.value().to_owned()))
        })
    }

    pub(super) fn list(
        &self,
        collection: Collection,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.read(|transaction| {
            let objects = transaction.open_table(objects(collection))?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut out = Vec::new();
            for entry in objects.range::<&str>((from, Bound::Unbounded))?.take(limit) {
                let (id, object) = entry?;
                let (version, body) = object.value();
                out.push(Record { id: id.value().into(), version, body: body.into() });
            }
            Ok(out)
        })
    }

    pub(super) fn referrers(
        &self,
        target: (Collection, &str),
        collection: Collection,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.read(|transaction| {
            let referred = transaction.open_table(REFERRED)?;
            let objects = transaction.open_table(objects(collection))?;
            let (target, id, from) = (target.0.name(), target.1, collection.name());
            // The least name after that of the collection.
            let end = format!("{from}\0");
            let first = match after {
                Some(after) => Bound::Excluded((target, id, from, after)),
                None => Bound::Included((target, id, from, "")),
            };
            let range = (first, Bound::Excluded((target, id, &*end, "")));
            let mut out = Vec::new();
            for entry in referred.range(range)?.take(limit) {
                let key = entry?.0;
                let id = key.value().3;
                if let Some(object) = objects.get(id)? {
                    let (version, body) = object.value();
                    out.push(Record { id: id.into(), version, body: body.into() });
                }
            }
            Ok(out)
        })
    }

    pub(super) fn changes_since(
        &self,
        collection: Collection,
        since: Since,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        self.read(|transaction| {
            let meta = transaction.open_table(META)?;
            let known = number(&meta, &forgotten(collection))?..=number(&meta, VERSION)?;
            if !known.contains(&since.removals()) {
                return Err(StoreError::Forgotten(since.seen).into());
            }
            let mut out = Vec::new();
            let objects = transaction.open_table(objects(collection))?;
            let changes = transaction.open_table(changed(collection))?;
            for entry in changes.range(since.seen.saturating_add(1)..)?.take(limit) {
                let (version, id) = entry?;
                let body = objects.get(id.value())?.map(|object| object.value().1.to_vec());
                out.push(Change { id: id.value().into(), version: version.value(), body });
            }
            let removals = transaction.open_table(removed(collection))?;
            for entry in removals.range(since.removals().saturating_add(1)..)?.take(limit) {
                let (version, id) = entry?;
                out.push(Change { id: id.value().into(), version: version.value(), body: None });
            }
            out.sort_unstable_by_key(|change| change.version);
            out.truncate(limit);
            Ok(out)
        })
    }

    pub(super) fn count(&self, collection: Collection) -> Result<u64, StoreError> {
        self.read(|transaction| Ok(transaction.open_table(objects(collection))?.len()?))
    }

    pub(super) fn get(&self, collection: Collection, id: &str) -> Result<Record, StoreError> {
        self.read(|transaction| {
            let objects = transaction.open_table(objects(collection))?;
            let object = objects.get(id)?.ok_or(StoreError::Missing)?;
            let (version, body) = object.value();
            Ok(Record { id: id.into(), version, body: body.into() })
        })
    }

    /// Makes a change, together with those that others want at the same time.
    pub(super) fn write(&self, collection: Collection, write: Write) -> Result<u64, StoreError> {
        let (pending, done) = Pending::new(collection, write);
        lock(&self.queue).push(pending);
        loop {
            let turn = lock(&self.turn);
            self.write_pending();
            drop(turn);
            // Another turn may have taken it, and this one others: a turn takes the first that wait.
            match done.try_recv() {
                Ok(result) => return result,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => {
                    return Err(StoreError::Unavailable("the transaction ended early".into()));
                }
            }
        }
    }

    /// Makes the changes that wait, as many as one transaction takes.
    fn write_pending(&self) {
        let batch: Vec<Pending> = {
            let mut queue = lock(&self.queue);
            if queue.len() <= BATCH { take(&mut *queue) } else { queue.drain(..BATCH).collect() }
        };
        if batch.is_empty() {
            return;
        }
        let changed = self.change(|transaction| {
            let mut results = Vec::with_capacity(batch.len());
            for pending in &batch {
                results.push(pending.apply(transaction)?);
            }
            Ok(results)
        });
        match changed {
            Ok(results) => batch.iter().zip(results).for_each(|(one, result)| one.done(result)),
            Err(error) => batch.iter().for_each(|one| one.done(Err(error.clone()))),
        }
    }

    /// One transaction: all of `work` and on the disk, or nothing.
    fn change<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            // Dropped without a commit, a transaction changes nothing.
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.with(|database| work(&database.begin_read()?))
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Failure>) -> Result<T, StoreError> {
        let database = self.database()?;
        let result = work(&database);
        drop(database);
        result.map_err(|failure| match failure {
            Failure::Rule(error) => error,
            Failure::Engine(error) => {
                if matches!(*error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                    *lock(&self.database) = None;
                }
                StoreError::Unavailable(error.to_string())
            }
        })
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = lock(&self.database);
        if let Some(database) = &*slot {
            return Ok(Arc::clone(database));
        }
        let unavailable =
            |e: DatabaseError| StoreError::Unavailable(format!("{}: {e}", self.path.display()));
        let database = Database::builder().set_cache_size(CACHE).create(&self.path);
        let database = Arc::new(database.map_err(unavailable)?);
        *slot = Some(Arc::clone(&database));
        Ok(database)
    }
}

/// No panic leaves a value half-done under these locks: each is one assignment, or a queue whose
/// members are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Failure> {
    Ok(meta.get(name)?.map_or(0, |number| number.value()))
}

/// A rule of the store that forbids, or the engine that fails.
enum Failure {
    Rule(StoreError),
    Engine(Box<redb::Error>),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Rule(error)
    }
}

macro_rules! engine_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Engine(Box::new(error.into()))
            }
        })*
    };
}

engine_errors!(
    redb::Error,
    StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);
