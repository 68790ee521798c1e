//! The store in one file, without a server: redb, a crash-safe B-tree with one writer at a time.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::{
    Database, DatabaseError, MultimapTableDefinition, ReadableDatabase, ReadableMultimapTable,
    ReadableTable, ReadableTableMetadata, StorageError, TableDefinition, WriteTransaction,
};

use crate::store::{Collection, Record, StoreError};

/// The name of an object's table, and its id.
type Name<'a> = (&'a str, &'a str);
/// An object's version and bytes, by id.
type Objects = TableDefinition<'static, &'static str, (u64, &'static [u8])>;

/// The object that an object refers to, both by the names of their tables and their ids.
const REFERENCES: TableDefinition<'static, Name<'static>, Name<'static>> =
    TableDefinition::new("references");
/// The same the other way round.
const REFERRERS: MultimapTableDefinition<'static, Name<'static>, Name<'static>> =
    MultimapTableDefinition::new("referrers");
/// Numbers by name.
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
/// The number of the last change.
const VERSION: &str = "version";

fn table(collection: Collection) -> Objects {
    TableDefinition::new(collection.name())
}

fn name((collection, id): (Collection, &str)) -> Name<'_> {
    (collection.name(), id)
}

/// A redb database that is opened again after the disk failed it.
pub(super) struct Embedded {
    path: PathBuf,
    /// `None` after an I/O error: redb refuses all work from then on, also when the disk is well again.
    database: Mutex<Option<Arc<Database>>>,
}

impl Embedded {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self { path: path.to_owned(), database: Mutex::new(None) };
        store.change(|transaction| {
            // All tables exist from here on, so that a reader never meets a missing one.
            for collection in Collection::ALL {
                transaction.open_table(table(collection))?;
            }
            transaction.open_table(META)?;
            transaction.open_table(REFERENCES)?;
            transaction.open_multimap_table(REFERRERS)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// The number of the last change.
    pub(super) fn version(&self) -> Result<u64, StoreError> {
        self.read(|database| {
            let meta = database.begin_read()?.open_table(META)?;
            Ok(meta.get(VERSION)?.map_or(0, |v| v.value()))
        })
    }

    pub(super) fn list(
        &self,
        collection: Collection,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.read(|database| {
            let objects = database.begin_read()?.open_table(table(collection))?;
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

    pub(super) fn count(&self, collection: Collection) -> Result<u64, StoreError> {
        self.read(|database| Ok(database.begin_read()?.open_table(table(collection))?.len()?))
    }

    pub(super) fn get(&self, collection: Collection, id: &str) -> Result<Record, StoreError> {
        self.read(|database| {
            let objects = database.begin_read()?.open_table(table(collection))?;
            let object = objects.get(id)?.ok_or(StoreError::Missing)?;
            let (version, body) = object.value();
            Ok(Record { id: id.into(), version, body: body.into() })
        })
    }

    pub(super) fn insert(
        &self,
        collection: Collection,
        id: &str,
        body: &[u8],
        most: Option<u64>,
        refers_to: Option<(Collection, &str)>,
    ) -> Result<u64, StoreError> {
        self.change(|transaction| {
            let version = next_version(transaction)?;
            if let Some(target) = refers_to {
                refer(transaction, (collection, id), target)?;
            }
            let mut objects = transaction.open_table(table(collection))?;
            match most {
                Some(most) if objects.len()? >= most => return Err(StoreError::Full(most).into()),
                _ => {}
            }
            if objects.insert(id, (version, body))?.is_some() {
                return Err(StoreError::Exists.into());
            }
            Ok(version)
        })
    }

    pub(super) fn replace(
        &self,
        collection: Collection,
        id: &str,
        expected: u64,
        body: &[u8],
    ) -> Result<u64, StoreError> {
        self.change(|transaction| {
            let version = next_version(transaction)?;
            let mut objects = transaction.open_table(table(collection))?;
            let found = objects.insert(id, (version, body))?.map(|old| old.value().0);
            expect(found, Some(expected))?;
            Ok(version)
        })
    }

    pub(super) fn remove(
        &self,
        collection: Collection,
        id: &str,
        expected: Option<u64>,
    ) -> Result<u64, StoreError> {
        self.change(|transaction| {
            let version = next_version(transaction)?;
            let mut objects = transaction.open_table(table(collection))?;
            let found = objects.remove(id)?.map(|old| old.value().0);
            expect(found, expected)?;
            unrefer(transaction, (collection, id))?;
            Ok(version)
        })
    }

    /// One transaction: all of `work` and on the disk, or nothing.
    fn change<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        self.read(|database| {
            let transaction = database.begin_write()?;
            // Dropped without a commit, a transaction changes nothing.
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Database) -> Result<T, Failure>) -> Result<T, StoreError> {
        let database = self.database()?;
        let result = work(&database);
        drop(database);
        result.map_err(|failure| match failure {
            Failure::Rule(error) => error,
            Failure::Engine(error) => {
                if matches!(*error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                    *self.lock() = None;
                }
                StoreError::Unavailable(error.to_string())
            }
        })
    }

    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = self.lock();
        if let Some(database) = &*slot {
            return Ok(Arc::clone(database));
        }
        let unavailable =
            |e: DatabaseError| StoreError::Unavailable(format!("{}: {e}", self.path.display()));
        let database = Arc::new(Database::create(&self.path).map_err(unavailable)?);
        *slot = Some(Arc::clone(&database));
        Ok(database)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Database>>> {
        // One assignment at a time is made under the lock: a panic cannot leave it half-done.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn next_version(transaction: &WriteTransaction) -> Result<u64, Failure> {
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(VERSION)?.map_or(0, |v| v.value()) + 1;
    meta.insert(VERSION, version)?;
    Ok(version)
}

/// Notes that `from` refers to `target`, which must exist.
fn refer(
    transaction: &WriteTransaction,
    from: (Collection, &str),
    target: (Collection, &str),
) -> Result<(), Failure> {
    if transaction.open_table(table(target.0))?.get(target.1)?.is_none() {
        return Err(StoreError::Missing.into());
    }
    let (from, target) = (name(from), name(target));
    transaction.open_table(REFERENCES)?.insert(from, target)?;
    transaction.open_multimap_table(REFERRERS)?.insert(target, from)?;
    Ok(())
}

/// Forgets what a removed object referred to.  One that is referred to is not to be removed.
fn unrefer(transaction: &WriteTransaction, object: (Collection, &str)) -> Result<(), Failure> {
    let mut referrers = transaction.open_multimap_table(REFERRERS)?;
    let object = name(object);
    if let Some(by) = referrers.get(object)?.next() {
        return Err(StoreError::Referenced(by?.value().1.into()).into());
    }
    if let Some(target) = transaction.open_table(REFERENCES)?.remove(object)? {
        referrers.remove(target.value(), object)?;
    }
    Ok(())
}

fn expect(found: Option<u64>, expected: Option<u64>) -> Result<(), StoreError> {
    match (found, expected) {
        (None, _) => Err(StoreError::Missing),
        (Some(found), Some(expected)) if found != expected => {
            Err(StoreError::Changed { expected, found })
        }
        _ => Ok(()),
    }
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

engine_errors!(StorageError, redb::TableError, redb::TransactionError, redb::CommitError);
