//! The directory's objects, kept so that what was answered is never lost.
//!
//! The store knows objects as bytes with an id and a version, in a few collections; what they mean is
//! the directory's business.  Changes are compare-and-set by version: two administrators who change
//! one object at once cannot mix their lists.  The interface has nothing of the engine below it in it.

mod embedded;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;

use embedded::Embedded;

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
    engine: Arc<Embedded>,
    version: Arc<watch::Sender<u64>>,
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
        Ok(Self { engine: Arc::new(engine), version: Arc::new(watch::Sender::new(version)) })
    }

    /// The number of the last change, to wait on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// At most `limit` objects with ids after `after`, in the order of their ids.
    pub async fn list(
        &self,
        collection: Collection,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let engine = Arc::clone(&self.engine);
        blocking(move || engine.list(collection, after.as_deref(), limit)).await
    }

    /// How many objects a collection has.
    pub async fn count(&self, collection: Collection) -> Result<u64, StoreError> {
        let engine = Arc::clone(&self.engine);
        blocking(move || engine.count(collection)).await
    }

    /// One object.
    ///
    /// # Errors
    /// [`StoreError::Missing`].
    pub async fn get(&self, collection: Collection, id: &str) -> Result<Record, StoreError> {
        let (engine, id) = (Arc::clone(&self.engine), id.to_owned());
        blocking(move || engine.get(collection, &id)).await
    }

    /// Adds an object, and gives its version.  When this returns, the object is on the disk.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; [`StoreError::Full`] when the collection has `most` objects.
    pub async fn insert(
        &self,
        collection: Collection,
        id: &str,
        body: Vec<u8>,
        most: Option<u64>,
    ) -> Result<u64, StoreError> {
        let id = id.to_owned();
        self.write(move |engine| engine.insert(collection, &id, &body, most)).await
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
        let id = id.to_owned();
        self.write(move |engine| engine.replace(collection, &id, expected, &body)).await
    }

    /// Removes an object; only one of version `expected`, if that is given.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Changed`].
    pub async fn remove(
        &self,
        collection: Collection,
        id: &str,
        expected: Option<u64>,
    ) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write(move |engine| engine.remove(collection, &id, expected)).await.map(|_| ())
    }

    async fn write(
        &self,
        change: impl FnOnce(&Embedded) -> Result<u64, StoreError> + Send + 'static,
    ) -> Result<u64, StoreError> {
        let engine = Arc::clone(&self.engine);
        let announce = Arc::clone(&self.version);
        // Announced in the blocking task: the caller may be dropped while the disk is written.
        blocking(move || {
            let version = change(&engine)?;
            announce.send_if_modified(|last| {
                let newer = version > *last;
                *last = version.max(*last);
                newer
            });
            Ok(version)
        })
        .await
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const C: Collection = Collection::MutualTlsOauthConfigurations;

    async fn open() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("directory.redb")).await.expect("a store");
        (folder, store)
    }

    #[tokio::test]
    async fn what_was_stored_is_there_after_a_restart() {
        let (folder, store) = open().await;
        let version = store.insert(C, "a", b"one".to_vec(), None).await.expect("stored");
        drop(store);
        let store = Store::open(&folder.path().join("directory.redb")).await.expect("again");
        let record = Record { id: "a".into(), version, body: b"one".to_vec() };
        assert_eq!(store.get(C, "a").await.ok(), Some(record));
        assert_eq!(*store.changes().borrow(), version);
        assert!(store.get(Collection::Devices, "a").await.is_err(), "another collection");
    }

    #[tokio::test]
    async fn writes_are_compare_and_set() {
        let (_folder, store) = open().await;
        let one = store.insert(C, "a", b"1".to_vec(), None).await.expect("stored");
        assert!(matches!(store.insert(C, "a", vec![], None).await, Err(StoreError::Exists)));
        let two = store.replace(C, "a", one, b"2".to_vec()).await.expect("replaced");
        assert!(two > one);
        assert!(matches!(
            store.replace(C, "a", one, vec![]).await,
            Err(StoreError::Changed { expected, found }) if (expected, found) == (one, two)
        ));
        assert!(matches!(store.remove(C, "a", Some(one)).await, Err(StoreError::Changed { .. })));
        store.remove(C, "a", Some(two)).await.expect("removed");
        assert!(matches!(store.remove(C, "a", None).await, Err(StoreError::Missing)));
        assert!(matches!(store.replace(C, "a", two, vec![]).await, Err(StoreError::Missing)));
        let three = store.insert(C, "a", b"3".to_vec(), None).await.expect("stored");
        assert!(three > two, "a version is not used twice");
    }

    #[tokio::test]
    async fn a_full_collection_takes_no_more() {
        let (_folder, store) = open().await;
        for id in ["a", "b"] {
            store.insert(C, id, vec![], Some(2)).await.expect("stored");
        }
        assert!(matches!(store.insert(C, "c", vec![], Some(2)).await, Err(StoreError::Full(2))));
        assert_eq!(store.count(C).await.ok(), Some(2));
    }

    #[tokio::test]
    async fn a_change_is_announced() {
        let (_folder, store) = open().await;
        let mut changes = store.changes();
        let version = store.insert(C, "a", vec![], None).await.expect("stored");
        changes.changed().await.expect("announced");
        assert_eq!(*changes.borrow_and_update(), version);
        let _ = store.insert(C, "a", vec![], None).await;
        assert!(!changes.has_changed().expect("open"), "nothing was changed");
    }

    #[tokio::test]
    async fn lists_go_on_where_they_stopped() {
        let (_folder, store) = open().await;
        for n in 0..25 {
            store.insert(C, &format!("{n:02}"), vec![], None).await.expect("stored");
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(C, after.clone(), 10).await.expect("a page");
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            seen.extend(page.into_iter().map(|r| r.id));
        }
        assert_eq!(seen, (0..25).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8, u8),
        Replace(u8, u8),
        Remove(u8),
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..4, any::<u8>()).prop_map(|(id, b)| Step::Insert(id, b)),
            3 => (0u8..4, any::<u8>()).prop_map(|(id, b)| Step::Replace(id, b)),
            1 => (0u8..4).prop_map(Step::Remove),
            1 => Just(Step::Reopen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn it_is_a_map_that_survives(steps in prop::collection::vec(step(), 1..20)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let (folder, mut store) = open().await;
                let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
                for step in steps {
                    match step {
                        Step::Insert(id, byte) => {
                            let id = id.to_string();
                            let done = store.insert(C, &id, vec![byte], None).await.is_ok();
                            assert_eq!(done, !model.contains_key(&id));
                            model.entry(id).or_insert(vec![byte]);
                        }
                        Step::Replace(id, byte) => {
                            let id = id.to_string();
                            let version = store.get(C, &id).await.map_or(0, |r| r.version);
                            let done = store.replace(C, &id, version, vec![byte]).await.is_ok();
                            assert_eq!(done, model.contains_key(&id));
                            model.entry(id).and_modify(|body| *body = vec![byte]);
                        }
                        Step::Remove(id) => {
                            let done = store.remove(C, &id.to_string(), None).await.is_ok();
                            assert_eq!(done, model.remove(&id.to_string()).is_some());
                        }
                        Step::Reopen => {
                            drop(store);
                            let path = folder.path().join("directory.redb");
                            store = Store::open(&path).await.expect("again");
                        }
                    }
                    let all = store.list(C, None, 100).await.expect("a list");
                    let all: BTreeMap<_, _> = all.into_iter().map(|r| (r.id, r.body)).collect();
                    assert_eq!(all, model);
                }
            });
        }
    }
}
