//! Durable storage of the directory's objects.
//!
//! An object is a byte string with an id and a version, in one of a few collections.  The store does
//! not interpret objects.  Changes are compare-and-set by version, so that two administrators who
//! change one object at the same time cannot mix their lists.
//!
//! Every change gets its own version, in the order of commits.  A reader can therefore request the
//! changes of a collection since a version, page by page, and misses none.  The store keeps a limited
//! number of removals.  A reader whose version is older gets an error, not an incomplete list.
//!
//! There are two engines: an embedded file for one process, and a PostgreSQL database for several
//! replicas.  The same tests run against both.

mod backup;
mod changes;
mod embedded;
mod objects;
mod postgres;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use changes::ChangeNotifier;
use embedded::{Embedded, Write};
use postgres::Postgres;

pub use backup::Backup;
pub use changes::Versions;
pub(crate) use objects::may_have_more;
pub use objects::{Change, Collection, READ_BYTES, Record, Since, StoreError};
pub use postgres::{Database, DatabaseUrlError, Follower};

/// Number of removals that are kept for each collection, about 10 MB.
///
/// A reader that has missed more reads the whole collection again, which costs more only if the
/// collection is much larger.
const KEPT_REMOVALS: u64 = 100_000;

/// Answer to a request for a backup of a database.
pub(crate) const USE_PG_DUMP: &str = "the directory is in PostgreSQL: back it up with pg_dump, and restore it with \
    pg_restore while the gateway is stopped. A start of the database server and a restored table begin a \
    new history, so that gateways read everything again";

/// Store with one of the two engines.  Clones share the engine.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    changes: ChangeNotifier,
    kept_removals: u64,
}

#[derive(Clone)]
enum Engine {
    Embedded(Arc<Embedded>),
    Postgres(Postgres),
}

impl Store {
    /// Opens the embedded store in the file `path`, and creates the file if it does not exist.
    ///
    /// # Errors
    /// The file is not a store, or another process uses it.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Embedded::open).await
    }

    /// Opens the embedded store in the file `path`, which exists.
    ///
    /// # Errors
    /// As for [`Store::open`], or the file is missing or empty.
    pub async fn open_existing(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, Embedded::open_existing).await
    }

    async fn open_with(
        path: &Path,
        open: impl FnOnce(&Path) -> Result<Embedded, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let (engine, versions) = blocking(move || {
            let engine = open(&path)?;
            let versions = engine.versions()?;
            Ok((engine, versions))
        })
        .await?;
        let engine = Engine::Embedded(Arc::new(engine));
        Ok(Self { engine, changes: ChangeNotifier::new(versions), kept_removals: KEPT_REMOVALS })
    }

    /// Connects to a database that other replicas may use too.
    ///
    /// Run the returned follower for as long as the store is used: it receives the changes of the other
    /// replicas.  A database that cannot be reached is not an error here: operations return
    /// [`StoreError::Unavailable`] until it can be reached.
    ///
    /// # Errors
    /// The address can never work, as that of a pooler in transaction mode.
    pub async fn connect(database: &Database) -> Result<(Self, Follower), StoreError> {
        let changes = ChangeNotifier::new(Versions::default());
        let (engine, follower) = Postgres::connect(database, changes.clone()).await?;
        let engine = Engine::Postgres(engine);
        Ok((Self { engine, changes, kept_removals: KEPT_REMOVALS }, follower))
    }

    /// Returns an error if `database` is not the one that this store uses.
    pub(crate) fn check(&self, database: &Database) -> Result<(), String> {
        match &self.engine {
            Engine::Embedded(_) => Ok(()),
            Engine::Postgres(engine) => engine.check(database),
        }
    }

    /// Uses the credentials of `database` for every connection that is opened from now on.
    pub(crate) fn use_credentials(&self, database: &Database) {
        if let Engine::Postgres(engine) = &self.engine {
            engine.use_credentials(database);
        }
    }

    /// Sets the number of removals that are kept for each collection; the default is 100,000.
    #[must_use]
    pub fn with_kept_removals(self, kept_removals: u64) -> Self {
        Self { kept_removals, ..self }
    }

    /// Subscribes to the changes of all replicas.
    pub fn changes(&self) -> watch::Receiver<Versions> {
        self.changes.subscribe()
    }

    /// Reads the version of a collection's last change, by any replica, from the engine.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn version(&self, collection: Collection) -> Result<u64, StoreError> {
        let versions = match &self.engine {
            Engine::Embedded(file) => {
                let file = Arc::clone(file);
                blocking(move || file.versions()).await?
            }
            Engine::Postgres(database) => database.versions().await?,
        };
        Ok(versions.of(collection))
    }

    /// Returns an unpredictable text that identifies the history of this store.  Versions of different
    /// histories cannot be compared.
    ///
    /// A history begins when a file is opened, and when a database server starts or a dump is
    /// restored: each may have gone back to an earlier state.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn identity(&self) -> Result<String, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let file = Arc::clone(file);
                blocking(move || file.identity()).await
            }
            Engine::Postgres(database) => database.identity().await,
        }
    }

    /// Writes a consistent copy of the embedded store to a new file, while the store is used.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a database, or if the file exists or cannot be written.
    pub async fn backup(&self, path: PathBuf) -> Result<Backup, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => {
                let store = Arc::clone(store);
                blocking(move || backup::create(&path, |file| store.backup(file))).await
            }
            Engine::Postgres(_) => Err(StoreError::Refused(USE_PG_DUMP.into())),
        }
    }

    /// Replaces everything in the embedded store by a backup, in one transaction, and begins a new
    /// history.  The store is then a copy of the backup's directory and has its identity.  Unless
    /// `accept_other` is set, a backup of another directory replaces only an empty one.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a database, or if the backup is not valid.  Nothing has changed then.
    pub async fn restore(&self, path: PathBuf, accept_other: bool) -> Result<Backup, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => {
                let (store, changes) = (Arc::clone(store), self.changes.clone());
                // Notify in the blocking task: the caller may be dropped during the transaction.
                let work = move || {
                    let (restored, versions) =
                        store.restore(&backup::open(&path)?, accept_other)?;
                    changes.reset_to(versions);
                    Ok(restored)
                };
                blocking(work).await
            }
            Engine::Postgres(_) => Err(StoreError::Refused(USE_PG_DUMP.into())),
        }
    }

    /// Like [`Store::restore`], for the store in the file `path`, which no process uses.  The file may be
    /// damaged or missing: a new file replaces it.
    ///
    /// # Errors
    /// As for [`Store::restore`], or the file cannot be replaced.  Nothing has changed then.
    pub async fn restore_file(
        path: &Path,
        backup: PathBuf,
        accept_other: bool,
    ) -> Result<Backup, StoreError> {
        let path = path.to_owned();
        blocking(move || embedded::restore(&path, &backup::open(&backup)?, accept_other)).await
    }

    /// Returns at most `limit` objects with ids after `after`, in byte order of the ids.  The list ends
    /// earlier if the bodies reach [`READ_BYTES`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn list(
        &self,
        collection: Collection,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let file = Arc::clone(file);
                blocking(move || file.list(collection, after.as_deref(), limit)).await
            }
            Engine::Postgres(database) => database.list(collection, after.as_deref(), limit).await,
        }
    }

    /// Like [`Store::list`], for the objects that refer to `target`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn referrers(
        &self,
        target: (Collection, &str),
        collection: Collection,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let (file, kind, id) = (Arc::clone(file), target.0, target.1.to_owned());
                let list = move || file.referrers((kind, &id), collection, after.as_deref(), limit);
                blocking(list).await
            }
            Engine::Postgres(database) => {
                database.referrers(target, collection, after.as_deref(), limit).await
            }
        }
    }

    /// Returns at most `limit` changes that the reader has not seen, in the order of their versions.
    ///
    /// The list has the last change of each object, and removals.  It ends earlier if the bodies reach
    /// [`READ_BYTES`].  Fewer than `limit` changes with fewer bytes mean that there are no more.
    ///
    /// # Errors
    /// [`StoreError::HistoryExpired`] or [`StoreError::Unavailable`].
    pub async fn changes_since(
        &self,
        collection: Collection,
        since: Since,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let file = Arc::clone(file);
                blocking(move || file.changes_since(collection, since, limit)).await
            }
            Engine::Postgres(database) => database.changes_since(collection, since, limit).await,
        }
    }

    /// Returns the number of objects of a collection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn count(&self, collection: Collection) -> Result<u64, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let file = Arc::clone(file);
                blocking(move || file.count(collection)).await
            }
            Engine::Postgres(database) => database.count(collection).await,
        }
    }

    /// Returns one object.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Unavailable`].
    pub async fn get(&self, collection: Collection, id: &str) -> Result<Record, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let (file, id) = (Arc::clone(file), id.to_owned());
                blocking(move || file.get(collection, &id)).await
            }
            Engine::Postgres(database) => database.get(collection, id).await,
        }
    }

    /// Adds an object and returns its version.  When this returns, the object is on disk.
    ///
    /// # Errors
    /// [`StoreError::Full`] if the collection has `most` objects, [`StoreError::Exists`] or
    /// [`StoreError::Unavailable`].
    pub async fn insert(
        &self,
        collection: Collection,
        id: &str,
        body: Vec<u8>,
        most: Option<u64>,
    ) -> Result<u64, StoreError> {
        self.insert_any(collection, id, body, most, None).await
    }

    /// Adds an object that refers to `target`.  The target cannot be removed while the object exists.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the target does not exist; otherwise as for [`Store::insert`].
    pub async fn insert_referring(
        &self,
        collection: Collection,
        id: &str,
        body: Vec<u8>,
        most: Option<u64>,
        target: (Collection, &str),
    ) -> Result<u64, StoreError> {
        self.insert_any(collection, id, body, most, Some(target)).await
    }

    async fn insert_any(
        &self,
        collection: Collection,
        id: &str,
        body: Vec<u8>,
        most: Option<u64>,
        target: Option<(Collection, &str)>,
    ) -> Result<u64, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let refers_to = target.map(|(collection, id)| (collection, id.to_owned()));
                let write = Write::Insert { id: id.to_owned(), body, most, refers_to };
                self.write(file, collection, write).await
            }
            Engine::Postgres(database) => {
                let done = database.insert(collection, id, &body, most, target).await;
                self.notified(collection, done)
            }
        }
    }

    /// Replaces an object of version `expected` and returns its new version.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Changed`] or [`StoreError::Unavailable`].
    pub async fn replace(
        &self,
        collection: Collection,
        id: &str,
        expected: u64,
        body: Vec<u8>,
    ) -> Result<u64, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let write = Write::Replace { id: id.to_owned(), expected, body };
                self.write(file, collection, write).await
            }
            Engine::Postgres(database) => {
                let done = database.replace(collection, id, expected, &body).await;
                self.notified(collection, done)
            }
        }
    }

    /// Removes an object.  If `expected` is given, the object must have this version.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Changed`], [`StoreError::Referenced`] or
    /// [`StoreError::Unavailable`].
    pub async fn remove(
        &self,
        collection: Collection,
        id: &str,
        expected: Option<u64>,
    ) -> Result<(), StoreError> {
        let kept_removals = self.kept_removals;
        let removed = match &self.engine {
            Engine::Embedded(file) => {
                let write = Write::Remove { id: id.to_owned(), expected, kept_removals };
                self.write(file, collection, write).await
            }
            Engine::Postgres(database) => {
                let done = database.remove(collection, id, expected, kept_removals).await;
                self.notified(collection, done)
            }
        };
        removed.map(|_| ())
    }

    async fn write(
        &self,
        file: &Arc<Embedded>,
        collection: Collection,
        write: Write,
    ) -> Result<u64, StoreError> {
        let (file, changes) = (Arc::clone(file), self.changes.clone());
        // Notify in the blocking task: the caller may be dropped during the write.
        let work = move || {
            let done = file.write(collection, write);
            done.inspect(|version| changes.notify(collection, *version))
        };
        blocking(work).await
    }

    /// Notifies local subscribers at once, without waiting for the database's notification.
    fn notified(
        &self,
        collection: Collection,
        result: Result<u64, StoreError>,
    ) -> Result<u64, StoreError> {
        result.inspect(|version| self.changes.notify(collection, *version))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable("the storage task stopped unexpectedly".into())),
    }
}
