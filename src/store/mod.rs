//! The directory's objects, kept so that what was answered is never lost.
//!
//! The store knows objects as bytes with an id and a version, in a few collections; what they mean is
//! the directory's business.  Changes are compare-and-set by version: two administrators who change
//! one object at once cannot mix their lists.
//!
//! There are two engines: a file of our own for one process, which needs nothing else, and a PostgreSQL
//! database for several replicas.  The same tests run against both.

mod embedded;
mod postgres;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use embedded::Embedded;
use postgres::Postgres;

pub use postgres::{Database, DatabaseUrlError, Follower};

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// `mutualTlsOauthConfiguration`.
    MutualTlsOauthConfigurations,
    /// `certificateBasedApplicationConfiguration`, with its authorities inside.
    ApplicationConfigurations,
    /// `deviceTemplate`.
    DeviceTemplates,
    /// `device`.
    Devices,
}

impl Collection {
    const ALL: [Self; 4] = [
        Self::MutualTlsOauthConfigurations,
        Self::ApplicationConfigurations,
        Self::DeviceTemplates,
        Self::Devices,
    ];

    /// What it is called where it is stored; never changed.
    fn name(self) -> &'static str {
        match self {
            Self::MutualTlsOauthConfigurations => "mutualTlsOauthConfigurations",
            Self::ApplicationConfigurations => "certificateBasedApplicationConfigurations",
            Self::DeviceTemplates => "deviceTemplates",
            Self::Devices => "devices",
        }
    }
}

/// One object as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id, unique in its collection.
    pub id: String,
    /// Changes with every write, and is never used again, not even for another object.
    pub version: u64,
    /// The object.
    pub body: Vec<u8>,
}

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object of that id.
    #[error("no such object")]
    Missing,
    /// The object is not of the version that was expected.
    #[error("the object has changed: it is of version {found}, not {expected}")]
    Changed {
        /// What the caller had read.
        expected: u64,
        /// What is stored.
        found: u64,
    },
    /// An object of that id exists.
    #[error("an object of that id exists")]
    Exists,
    /// The collection has as many objects as it may.
    #[error("the collection has {0} objects, as many as it may")]
    Full(u64),
    /// Another object refers to this one.
    #[error("`{0}` refers to it")]
    Referenced(String),
    /// The disk or the database behind the store does not do its work; it may again later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// The store.  Clones are the same store.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
    changes: Changes,
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
        let (engine, version) = blocking(move || {
            let engine = Embedded::open(&path)?;
            let version = engine.version()?;
            Ok((engine, version))
        })
        .await?;
        Ok(Self { engine: Engine::Embedded(Arc::new(engine)), changes: Changes::new(version) })
    }

    /// The store in a database that other replicas may use too, and what keeps it in step with them,
    /// to be run for as long as the store is used.
    ///
    /// A database that cannot be reached is no error: the store is not available until it can.
    pub async fn connect(database: &Database) -> (Self, Follower) {
        let changes = Changes::new(0);
        let (engine, follower) = Postgres::connect(database, changes.clone()).await;
        (Self { engine: Engine::Postgres(engine), changes }, follower)
    }

    /// The number of the last change known here, to wait on.  It moves with every change, whichever
    /// replica makes it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.0.subscribe()
    }

    /// The number of the last change of any replica, asked of the engine itself.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn version(&self) -> Result<u64, StoreError> {
        match &self.engine {
            Engine::Embedded(file) => {
                let file = Arc::clone(file);
                blocking(move || file.version()).await
            }
            Engine::Postgres(database) => database.version().await,
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
                let id = id.to_owned();
                let target = target.map(|(collection, id)| (collection, id.to_owned()));
                let change = move |file: &Embedded| {
                    let target = target.as_ref().map(|(collection, id)| (*collection, &**id));
                    file.insert(collection, &id, &body, most, target)
                };
                self.write(file, change).await
            }
            Engine::Postgres(database) => {
                self.announced(database.insert(collection, id, &body, most, target).await)
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
                let id = id.to_owned();
                self.write(file, move |file| file.replace(collection, &id, expected, &body)).await
            }
            Engine::Postgres(database) => {
                self.announced(database.replace(collection, id, expected, &body).await)
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
        let removed = match &self.engine {
            Engine::Embedded(file) => {
                let id = id.to_owned();
                self.write(file, move |file| file.remove(collection, &id, expected)).await
            }
            Engine::Postgres(database) => {
                self.announced(database.remove(collection, id, expected).await)
            }
        };
        removed.map(|_| ())
    }

    async fn write(
        &self,
        file: &Arc<Embedded>,
        change: impl FnOnce(&Embedded) -> Result<u64, StoreError> + Send + 'static,
    ) -> Result<u64, StoreError> {
        let (file, changes) = (Arc::clone(file), self.changes.clone());
        // Announced in the blocking task: the caller may be dropped while the disk is written.
        blocking(move || change(&file).inspect(|version| changes.at_least(*version))).await
    }

    /// Our own waiters need not wait for the database to tell us what we have just told it.
    fn announced(&self, result: Result<u64, StoreError>) -> Result<u64, StoreError> {
        result.inspect(|version| self.changes.at_least(*version))
    }
}

/// The number of the last change, told to whoever waits for one.
#[derive(Clone)]
struct Changes(Arc<watch::Sender<u64>>);

impl Changes {
    fn new(version: u64) -> Self {
        Self(Arc::new(watch::Sender::new(version)))
    }

    /// Told when it is news: changes are heard of in more than one way.
    fn at_least(&self, version: u64) {
        self.0.send_if_modified(|last| {
            let newer = version > *last;
            *last = version.max(*last);
            newer
        });
    }

    /// Told in any case.  The number may be lower than the last: a database can be put back to what
    /// it was.
    fn assume(&self, version: u64) {
        self.0.send_replace(version);
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
