//! The directory's objects, kept so that what was answered is never lost.
//!
//! The store knows objects as bytes with an id and a version, in a few collections; what they mean is
//! the directory's business.  Changes are compare-and-set by version: two administrators who change
//! one object at once cannot mix their lists.
//!
//! Versions are given out in the order of commits, one to each change.  So a reader can ask for what has
//! changed in a collection since a version, page by page, and misses nothing; removals are remembered
//! up to a bound, and a reader who has been away longer is told so rather than answered in part.
//!
//! There are two engines: a file of our own for one process, which needs nothing else, and a PostgreSQL
//! database for several replicas.  The same tests run against both.

mod changes;
mod embedded;
mod objects;
mod postgres;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use changes::Announcer;
use embedded::{Embedded, Write};
use postgres::Postgres;

pub use changes::Versions;
pub use objects::{Change, Collection, Record, Since, StoreError};
pub use postgres::{Database, DatabaseUrlError, Follower};

/// Removals of one collection that are remembered: about 10 MB.  A reader who has missed more reads
/// everything again, which is dearer only for much larger collections.
pub const REMEMBERED: u64 = 100_000;

/// The store.  Clones are the same store.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    changes: Announcer,
    remembered: u64,
}

#[derive(Clone)]
enum Engine {
    Embedded(Arc<Embedded>),
    Postgres(Postgres),
}

impl Store {
    /// Opens the store in the file `path`, and makes it if there is none.
    ///
    /// # Errors
    /// A file that is not a store, or is in use by another process.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let (engine, versions) = blocking(move || {
            let engine = Embedded::open(&path)?;
            let versions = engine.versions()?;
            Ok((engine, versions))
        })
        .await?;
        let engine = Engine::Embedded(Arc::new(engine));
        Ok(Self { engine, changes: Announcer::new(versions), remembered: REMEMBERED })
    }

    /// The store in a database that other replicas may use too, and what keeps it in step with them,
    /// to be run for as long as the store is used.
    ///
    /// A database that cannot be reached is no error: the store is not available until it can.
    pub async fn connect(database: &Database) -> (Self, Follower) {
        let changes = Announcer::new(Versions::default());
        let (engine, follower) = Postgres::connect(database, changes.clone()).await;
        (Self { engine: Engine::Postgres(engine), changes, remembered: REMEMBERED }, follower)
    }

    /// The same store, remembering another number of removals than [`REMEMBERED`].
    pub fn remembering(self, removals: u64) -> Self {
        Self { remembered: removals, ..self }
    }

    /// The last changes that are known here, to wait on.  They move with every change, whichever
    /// replica makes it.
    pub fn changes(&self) -> watch::Receiver<Versions> {
        self.changes.subscribe()
    }

    /// The version of a collection's last change by any replica, asked of the engine itself.
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

    /// A random text that tells this store from any other: versions mean nothing elsewhere.
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

    /// At most `limit` objects with ids after `after`, in the order of their ids' bytes.
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

    /// As [`Store::list`], of the objects that refer to `target`.
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

    /// At most `limit` changes that the reader has not seen, in the order of their versions: of each
    /// object the last, and removals.  Fewer than `limit` are all there are.
    ///
    /// # Errors
    /// [`StoreError::Forgotten`].
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

    /// How many objects a collection has.
    pub async fn count(&self, collection: Collection) -> Result<u64, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let file = Arc::clone(file);
                blocking(move || file.count(collection)).await
            }
            Engine::Postgres(database) => database.count(collection).await,
        }
    }

    /// One object.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn get(&self, collection: Collection, id: &str) -> Result<Record, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let (file, id) = (Arc::clone(file), id.to_owned());
                blocking(move || file.get(collection, &id)).await
            }
            Engine::Postgres(database) => database.get(collection, id).await,
        }
    }

    /// Adds an object, and gives its version.  When this returns, the object is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Full`] when the collection has `most` objects; [`StoreError::Exists`].
    pub async fn insert(
        &self,
        collection: Collection,
        id: &str,
        body: Vec<u8>,
        most: Option<u64>,
    ) -> Result<u64, StoreError> {
        self.insert_any(collection, id, body, most, None).await
    }

    /// Adds an object that refers to `target`, which cannot be removed for as long as it does.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when there is no target; otherwise as [`Store::insert`].
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
                self.announced(collection, done)
            }
        }
    }

    /// Replaces an object of version `expected`, and gives its new version.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Changed`].
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
                self.announced(collection, done)
            }
        }
    }

    /// Removes an object; only one of version `expected`, if that is given.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Changed`], [`StoreError::Referenced`].
    pub async fn remove(
        &self,
        collection: Collection,
        id: &str,
        expected: Option<u64>,
    ) -> Result<(), StoreError> {
        let remembered = self.remembered;
        let removed = match &self.engine {
            Engine::Embedded(file) => {
                let write = Write::Remove { id: id.to_owned(), expected, remembered };
                self.write(file, collection, write).await
            }
            Engine::Postgres(database) => {
                let done = database.remove(collection, id, expected, remembered).await;
                self.announced(collection, done)
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
        // Announced in the blocking task: the caller may be dropped while the disk is written.
        let work = move || {
            let done = file.write(collection, write);
            done.inspect(|version| changes.changed(collection, *version))
        };
        blocking(work).await
    }

    /// Our own waiters need not wait for the database to tell us what we have just told it.
    fn announced(
        &self,
        collection: Collection,
        result: Result<u64, StoreError>,
    ) -> Result<u64, StoreError> {
        result.inspect(|version| self.changes.changed(collection, *version))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unavailable("the storage task ended early".into())),
    }
}
