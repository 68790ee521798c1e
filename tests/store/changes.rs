//! Reading changes, with both engines.

use std::collections::BTreeMap;

use anchorgate::store::{Change, Collection, Since, Store, StoreError};
use tokio::task::JoinSet;

use crate::{C, Place, both_engines, reopen};

both_engines!(
    changes_are_paged_in_order,
    a_reader_that_is_too_far_behind_gets_an_error,
    a_reader_misses_nothing_during_concurrent_writes,
);

/// A reader's state: bodies by id.
#[derive(Default)]
pub struct Reader {
    pub objects: BTreeMap<String, Vec<u8>>,
    pub seen: u64,
    removals: u64,
}

impl Reader {
    pub async fn begin(store: &Store) -> Self {
        let removals = store.version(C).await.expect("a version");
        Self { removals, ..Self::default() }
    }

    pub fn since(&self) -> Since {
        Since { seen: self.seen, removals: self.removals }
    }

    /// Reads all changes in pages of `limit`.
    pub async fn follow(&mut self, store: &Store, limit: usize) -> Result<(), StoreError> {
        loop {
            let page = store.changes_since(C, self.since(), limit).await?;
            let whole = page.len() < limit;
            for Change { id, version, body } in page {
                assert!(version > self.seen, "in the order of versions");
                self.seen = version;
                match body {
                    Some(body) => drop(self.objects.insert(id, body)),
                    None => drop(self.objects.remove(&id)),
                }
            }
            if whole {
                return Ok(());
            }
        }
    }
}

pub async fn all(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let list = store.list(C, None, 10_000).await.expect("a list");
    list.into_iter().map(|record| (record.id, record.body)).collect()
}

async fn changes_are_paged_in_order(place: Place) {
    let store = place.open().await;
    for n in 0..10u8 {
        store.insert(C, &n.to_string(), vec![n], None).await.expect("stored");
        store.insert(Collection::Devices, &n.to_string(), vec![n], None).await.expect("stored");
    }
    store.remove(C, "3", None).await.expect("removed");
    let mut reader = Reader::begin(&store).await;
    let page = store.changes_since(C, reader.since(), 100).await.expect("a page");
    assert!(
        page.iter().all(|change| change.body.is_some()),
        "a new reader gets no earlier removals"
    );
    assert_eq!(page.len(), 9);
    reader.follow(&store, 4).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);

    let one = store.get(C, "1").await.expect("it");
    let two = store.replace(C, "1", one.version, b"new".to_vec()).await.expect("replaced");
    store.remove(C, "2", None).await.expect("removed");
    store.insert(C, "2", b"again".to_vec(), None).await.expect("stored");
    store.remove(C, "4", None).await.expect("removed");
    let store = reopen(&place, store).await;
    let page = store.changes_since(C, reader.since(), 100).await.expect("a page");
    let received: Vec<_> =
        page.iter().map(|change| (&*change.id, change.body.as_deref())).collect();
    let new: [(&str, Option<&[u8]>); 4] =
        [("1", Some(b"new")), ("2", None), ("2", Some(b"again")), ("4", None)];
    assert_eq!((received, page[0].version), (new.to_vec(), two));
    reader.follow(&store, 1).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);
    let last = Since::version(store.version(C).await.expect("a version"));
    assert_eq!(store.changes_since(C, last, 100).await.expect("a page"), []);

    let identity = store.identity().await.expect("an identity");
    assert!(identity.len() >= 32);
    let elsewhere = Place::file();
    assert_ne!(elsewhere.open().await.identity().await.expect("an identity"), identity);
    let store = reopen(&place, store).await;
    let again = store.identity().await.expect("an identity");
    // A file may be a copy of itself from before some changes; a database server did not restart.
    match place {
        Place::File(_) => assert_ne!(again, identity),
        Place::Database { .. } => assert_eq!(again, identity),
    }
}

/// A restored dump has the identity and the versions of the original.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_table_begins_another_history() {
    let place = Place::database().await;
    let Place::Database { url, .. } = &place else { panic!("not a database") };
    let store = place.open().await;
    let identity = store.identity().await.expect("an identity");
    let pool = sqlx::PgPool::connect(url).await.expect("connected");
    for change in [
        "ALTER TABLE directory_version RENAME TO original",
        "CREATE TABLE directory_version AS TABLE original",
    ] {
        sqlx::query(change).execute(&pool).await.expect("done");
    }
    assert_ne!(store.identity().await.expect("an identity"), identity);
}

async fn a_reader_that_is_too_far_behind_gets_an_error(place: Place) {
    let store = place.open().await.with_kept_removals(3);
    for n in 0..8u8 {
        store.insert(C, &n.to_string(), vec![n], None).await.expect("stored");
    }
    let mut reader = Reader::begin(&store).await;
    reader.follow(&store, 100).await.expect("followed");
    let before = reader.since();
    for n in 0..3u8 {
        store.remove(C, &n.to_string(), None).await.expect("removed");
    }
    assert_eq!(store.changes_since(C, before, 2).await.expect("a page").len(), 2);
    reader.follow(&store, 2).await.expect("as many removals as are remembered");
    assert_eq!(reader.objects, all(&store).await);
    store.remove(C, "3", None).await.expect("removed");
    let refused = store.changes_since(C, before, 2).await;
    assert!(
        matches!(refused, Err(StoreError::HistoryExpired(v)) if v == before.seen),
        "{refused:?}"
    );
    reader.follow(&store, 2).await.expect("one behind");
    assert_eq!(reader.objects, all(&store).await);
    // Another collection remembers its own removals.
    let elsewhere = Since { seen: 0, removals: 0 };
    assert_eq!(store.changes_since(Collection::Devices, elsewhere, 9).await.expect("a page"), []);
    // A version that the store has not reached belongs to another store.
    let future = Since::version(store.version(C).await.expect("a version") + 1);
    let refused = store.changes_since(C, future, 2).await;
    assert!(matches!(refused, Err(StoreError::HistoryExpired(_))), "{refused:?}");
    let refused = store.changes_since(C, Since::version(u64::MAX), 2).await;
    assert!(matches!(refused, Err(StoreError::HistoryExpired(_))), "{refused:?}");
    let mut restarted = Reader::begin(&store).await;
    restarted.follow(&store, 3).await.expect("a new reader");
    assert_eq!(restarted.objects, all(&store).await);
}

async fn a_reader_misses_nothing_during_concurrent_writes(place: Place) {
    const WRITERS: u32 = 6;
    const WRITES: u32 = 30;
    let store = place.open().await;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for n in 0..WRITES {
                let id = format!("{writer} {}", n % 7);
                let body = n.to_be_bytes().to_vec();
                let done = match store.get(C, &id).await {
                    Err(StoreError::Missing) => store.insert(C, &id, body, None).await.map(drop),
                    Ok(record) if n % 5 == 0 => store.remove(C, &id, Some(record.version)).await,
                    Ok(record) => store.replace(C, &id, record.version, body).await.map(drop),
                    Err(error) => Err(error),
                };
                done.expect("each writes objects of its own");
            }
        });
    }
    let mut reader = Reader::begin(&store).await;
    while !writers.is_empty() {
        reader.follow(&store, 3).await.expect("followed");
        if let Some(ended) = writers.try_join_next() {
            ended.expect("written");
        }
    }
    reader.follow(&store, 3).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);
    let mut late = Reader::begin(&store).await;
    late.follow(&store, 3).await.expect("followed");
    assert_eq!(late.objects, reader.objects);
}
