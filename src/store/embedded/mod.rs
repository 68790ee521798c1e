//! Embedded engine: a redb file, which is a crash-safe B-tree with one writer at a time.

mod copy;
mod failure;
mod offline;
mod place;
mod queue;
mod tables;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, WriteTransaction,
};

use crate::store::backup::Backup;
use crate::store::changes::Versions;
use crate::store::objects::{Change, Collection, READ_BYTES, Record, Since, StoreError};

use copy::Present;
use failure::Failure;
use place::{FileId, Place};
use queue::Queue;
use tables::{
    IDENTITY, META, REFERRERS, REPLACED, TEXTS, VERSION, changed, expired, last, objects, removed,
};
use write::Pending;

pub(super) use offline::restore;
pub(super) use write::Write;

/// Size of redb's cache in bytes.  The operating system caches more of the file.
const CACHE: usize = 64 * 1024 * 1024;

/// A redb database that is reopened after an I/O error.
pub(super) struct Embedded {
    place: Place,
    /// `None` after an I/O error: redb then rejects all operations, even if the disk works again.
    database: Mutex<Option<Arc<Database>>>,
    /// The file that is in use, once it was opened.
    file: Mutex<Option<FileId>>,
    /// The first integrity error, or panic in a change.  After it nothing is written.
    damage: Mutex<Option<String>>,
    queue: Queue,
}

impl Embedded {
    /// Opens the store, and creates it if it does not exist and no identity file shows that it did.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self::at(path);
        let known = store.place.known_identity()?;
        let identity = store.change(|transaction| {
            let identity = tables::prepare(transaction)?;
            let texts = transaction.open_table(TEXTS)?;
            let replaced = texts.get(REPLACED)?.map(|text| text.value().to_owned());
            match &known {
                Some(known) if *known != identity && replaced.as_ref() != Some(known) => {
                    Err(store.place.lost("belongs to another directory").into())
                }
                _ => Ok(identity),
            }
        })?;
        if known.as_ref() != Some(&identity) {
            store.place.note_identity(&identity)?;
        }
        Ok(store)
    }

    /// Opens a store that exists.
    pub(super) fn open_existing(path: &Path) -> Result<Self, StoreError> {
        if let Some(fault) = Place::new(path).fault() {
            return Err(StoreError::Refused(format!("{} {fault}", path.display())));
        }
        Self::open(path)
    }

    /// The store in this file, which the first operation opens.
    fn at(path: &Path) -> Self {
        Self {
            place: Place::new(path),
            database: Mutex::new(None),
            file: Mutex::new(None),
            damage: Mutex::new(None),
            queue: Queue::default(),
        }
    }

    /// Returns the version of the last change of each collection.
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
            let (mut out, mut bytes) = (Vec::new(), 0);
            for entry in objects.range::<&str>((from, Bound::Unbounded))?.take(limit) {
                let (id, object) = entry?;
                let (version, body) = object.value();
                bytes += body.len();
                out.push(Record { id: id.value().into(), version, body: body.into() });
                if bytes >= READ_BYTES {
                    break;
                }
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
            let referrers = transaction.open_table(REFERRERS)?;
            let objects = transaction.open_table(objects(collection))?;
            let (target, id, from) = (target.0.name(), target.1, collection.name());
            // The least name that follows the name of the collection.
            let end = format!("{from}\0");
            let first = match after {
                Some(after) => Bound::Excluded((target, id, from, after)),
                None => Bound::Included((target, id, from, "")),
            };
            let range = (first, Bound::Excluded((target, id, &*end, "")));
            let (mut out, mut bytes) = (Vec::new(), 0);
            for entry in referrers.range(range)?.take(limit) {
                let key = entry?.0;
                let id = key.value().3;
                if let Some(object) = objects.get(id)? {
                    let (version, body) = object.value();
                    bytes += body.len();
                    out.push(Record { id: id.into(), version, body: body.into() });
                }
                if bytes >= READ_BYTES {
                    break;
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
            let available = number(&meta, &expired(collection))?..=number(&meta, VERSION)?;
            if !available.contains(&since.removals()) {
                return Err(StoreError::HistoryExpired(since.seen).into());
            }
            let (mut out, mut bytes, mut end) = (Vec::new(), 0, u64::MAX);
            let objects = transaction.open_table(objects(collection))?;
            let changes = transaction.open_table(changed(collection))?;
            for entry in changes.range(since.seen.saturating_add(1)..)?.take(limit) {
                let (version, id) = entry?;
                let body = objects.get(id.value())?.map(|object| object.value().1.to_vec());
                bytes += body.as_ref().map_or(0, Vec::len);
                out.push(Change { id: id.value().into(), version: version.value(), body });
                if bytes >= READ_BYTES {
                    end = version.value();
                    break;
                }
            }
            let removals = transaction.open_table(removed(collection))?;
            for entry in removals.range(since.removals().saturating_add(1)..=end)?.take(limit) {
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

    /// Writes a consistent state to `file`.  Changes continue meanwhile.
    pub(super) fn backup(&self, file: File) -> Result<Backup, StoreError> {
        self.read(|transaction| copy::write(transaction, file))
    }

    /// Replaces everything by the backup `file`, in one transaction.  Changes are refused
    /// meanwhile.
    pub(super) fn restore(
        &self,
        file: &File,
        accept_other: bool,
    ) -> Result<(Backup, Versions), StoreError> {
        let backup = copy::check(file)?;
        let _restoring = self.queue.refuse_changes()?;
        let present = self.read(Present::read)?;
        if !accept_other {
            present.accept(&backup)?;
        }
        let noted = self.place.noted_identity()?;
        let version = self.change(|transaction| {
            copy::restore(transaction, file, &backup, &present, noted.as_deref())
        })?;
        self.place.follow(&backup.directory);
        let mut versions = Versions::default();
        Collection::ALL.into_iter().for_each(|one| versions.set(one, version));
        Ok((backup, versions))
    }

    /// Applies a change, in one transaction with the changes of concurrent callers.
    pub(super) fn write(&self, collection: Collection, write: Write) -> Result<u64, StoreError> {
        self.queue.write(collection, write, |batch| self.apply(batch))
    }

    fn apply(&self, batch: &[Pending]) {
        let changed = self.change(|transaction| {
            let mut results = Vec::with_capacity(batch.len());
            for pending in batch {
                results.push(pending.apply(transaction)?);
            }
            Ok(results)
        });
        match changed {
            Ok(results) => batch.iter().zip(results).for_each(|(one, result)| one.done(result)),
            Err(error) => batch.iter().for_each(|one| one.done(Err(error.clone()))),
        }
    }

    /// Runs `work` in one transaction and commits it to disk, or changes nothing.
    fn change<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        if let Some(why) = &*lock(&self.damage) {
            let path = self.place.path().display();
            return Err(StoreError::Unavailable(format!(
                "{path} may be damaged ({why}): changes are refused. Stop the gateway, run `anchorgate \
                 directory restore BACKUP --offline CONFIG`, which replaces the file, and start it"
            )));
        }
        let changed = self.with(|database| {
            let transaction = database.begin_write()?;
            // A transaction that is dropped without a commit changes nothing.
            let result = work(&transaction)?;
            if let Some(file) = *lock(&self.file) {
                self.place.check(file)?;
            }
            transaction.commit()?;
            Ok(result)
        });
        changed.map_err(|failure| {
            // The engine panics at some damaged pages.
            if let Failure::Panic(why) = &failure {
                lock(&self.damage).get_or_insert_with(|| why.clone());
            }
            self.report(failure)
        })
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        // A panic does not end changes: one that touches a damaged page fails too.
        self.with(|database| work(&database.begin_read()?)).map_err(|failure| self.report(failure))
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, Failure>) -> Result<T, Failure> {
        let run = || work(&*self.database()?);
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(Failure::panic(&*panic)))
    }

    /// Notes what the failure means for later operations.
    fn report(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Rule(error) => error,
            Failure::Panic(why) => StoreError::Unavailable(why),
            Failure::Engine(error) => {
                match &*error {
                    redb::Error::Io(_) | redb::Error::PreviousIo => *lock(&self.database) = None,
                    redb::Error::Corrupted(why) => {
                        lock(&self.damage).get_or_insert_with(|| why.clone());
                    }
                    _ => {}
                }
                StoreError::Unavailable(error.to_string())
            }
        }
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = lock(&self.database);
        if let Some(database) = &*slot {
            return Ok(Arc::clone(database));
        }
        let path = self.place.path();
        let unavailable =
            |e: DatabaseError| StoreError::Unavailable(format!("{}: {e}", path.display()));
        let mut file = lock(&self.file);
        if let Some(file) = *file {
            self.place.check(file)?;
        }
        self.place.refuse_link()?;
        let database = Database::builder().set_cache_size(CACHE).create(path);
        let database = Arc::new(database.map_err(unavailable)?);
        *file = Some(self.place.file_id()?);
        *slot = Some(Arc::clone(&database));
        Ok(database)
    }
}

/// Ignores poisoning: each protected value is changed by one assignment, or is a queue of complete
/// elements, so that a panic leaves it valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn number(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Failure> {
    Ok(meta.get(name)?.map_or(0, |number| number.value()))
}
