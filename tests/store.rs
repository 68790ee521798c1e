//! The store's contract, held by both engines, and what the database of several replicas adds to it.

#[path = "support/directory.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod directory;
#[path = "support/postgres.rs"]
mod postgres;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anchorgate::store::{Change, Collection, Record, Since, Store, StoreError};
use directory::{Ca, M, Server, answer};
use postgres::{Cluster, database};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, query};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

const C: Collection = Collection::MutualTlsOauthConfigurations;
const D: Collection = Collection::Devices;
/// Below the pace at which replicas ask by themselves: what is seen within this was told.
const TOLD: Duration = Duration::from_secs(4);
/// What a test waits for at most.
const LONG: Duration = Duration::from_secs(60);

/// A store's place, which outlives the store.
enum Place {
    File(TempDir),
    Database { url: String, _running: Arc<Cluster> },
}

impl Place {
    fn file() -> Self {
        Self::File(tempfile::tempdir().expect("a folder"))
    }

    async fn database() -> Self {
        let cluster = Cluster::shared();
        let url = cluster.database().await;
        Self::Database { url, _running: cluster }
    }

    /// As it is told to a child process.
    fn text(&self) -> String {
        match self {
            Self::File(folder) => folder.path().join("directory.redb").display().to_string(),
            Self::Database { url, .. } => url.clone(),
        }
    }

    async fn open(&self) -> Store {
        open(&self.text()).await
    }
}

async fn open(place: &str) -> Store {
    if !place.starts_with("postgres:") {
        return Store::open(&PathBuf::from(place)).await.expect("a store");
    }
    let (store, follower) = Store::connect(&database(place)).await;
    tokio::spawn(follower.run());
    store
}

macro_rules! both_engines {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::file()).await;
            })*
        }
        mod postgresql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::Place::database().await).await;
            })*
        }
    };
}

both_engines!(
    what_was_stored_is_there_after_a_restart,
    writes_are_compare_and_set,
    a_full_collection_takes_no_more,
    a_limit_holds_against_many_at_once,
    what_is_referred_to_is_not_removed,
    a_change_is_announced,
    a_change_is_one_of_its_own_collection,
    objects_that_refer_to_one_are_listed_by_page,
    changes_are_told_by_page_in_their_order,
    a_reader_who_was_away_too_long_is_told_so,
    a_reader_beside_many_writers_misses_nothing,
    callers_that_go_away_leave_the_store_well,
    lists_go_on_where_they_stopped_in_the_order_of_bytes,
    concurrent_changes_are_all_kept_and_never_mixed,
    it_is_a_map_that_survives,
    kill_nine_loses_nothing_that_was_answered,
);

async fn what_was_stored_is_there_after_a_restart(place: Place) {
    let store = place.open().await;
    let version = store.insert(C, "a", b"one".to_vec(), None).await.expect("stored");
    drop(store);
    let store = place.open().await;
    let record = Record { id: "a".into(), version, body: b"one".to_vec() };
    assert_eq!(store.get(C, "a").await.ok(), Some(record));
    assert_eq!(store.changes().borrow().of(C), version);
    assert_eq!(store.version(C).await.ok(), Some(version));
    assert!(store.get(Collection::Devices, "a").await.is_err(), "another collection");
}

async fn writes_are_compare_and_set(place: Place) {
    let store = place.open().await;
    let one = store.insert(C, "a", b"1".to_vec(), None).await.expect("stored");
    assert!(matches!(store.insert(C, "a", vec![], None).await, Err(StoreError::Exists)));
    let two = store.replace(C, "a", one, b"2".to_vec()).await.expect("replaced");
    assert!(two > one);
    assert!(matches!(
        store.replace(C, "a", one, vec![]).await,
        Err(StoreError::Changed { expected, found }) if (expected, found) == (one, two)
    ));
    assert!(matches!(store.remove(C, "a", Some(one)).await, Err(StoreError::Changed { .. })));
    assert_eq!(store.get(C, "a").await.expect("there").body, b"2");
    store.remove(C, "a", Some(two)).await.expect("removed");
    assert!(matches!(store.remove(C, "a", None).await, Err(StoreError::Missing)));
    assert!(matches!(store.replace(C, "a", two, vec![]).await, Err(StoreError::Missing)));
    let three = store.insert(C, "a", b"3".to_vec(), None).await.expect("stored");
    assert!(three > two, "a version is not used twice");
}

async fn a_full_collection_takes_no_more(place: Place) {
    let store = place.open().await;
    store.insert(Collection::Devices, "elsewhere", vec![], None).await.expect("stored");
    for id in ["a", "b"] {
        store.insert(C, id, vec![], Some(2)).await.expect("stored");
    }
    assert!(matches!(store.insert(C, "c", vec![], Some(2)).await, Err(StoreError::Full(2))));
    assert_eq!(store.count(C).await.ok(), Some(2));
}

async fn a_limit_holds_against_many_at_once(place: Place) {
    let store = place.open().await;
    let mut tasks = JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        tasks.spawn(async move { store.insert(C, &n.to_string(), vec![], Some(5)).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 5, "{results:?}");
    let full = results.iter().filter(|r| matches!(r, Err(StoreError::Full(5)))).count();
    assert_eq!((full, store.count(C).await.ok()), (15, Some(5)), "{results:?}");
}

async fn what_is_referred_to_is_not_removed(place: Place) {
    let template = Collection::DeviceTemplates;
    let store = place.open().await;
    let missing = store.insert_referring(template, "t", vec![], None, (C, "a")).await;
    assert!(matches!(missing, Err(StoreError::Missing)), "{missing:?}");
    assert_eq!(store.count(template).await.ok(), Some(0));
    let one = store.insert(C, "a", vec![], None).await.expect("stored");
    store.insert(C, "b", vec![], None).await.expect("stored");
    for id in ["t", "u"] {
        store.insert_referring(template, id, vec![], None, (C, "a")).await.expect("stored");
    }
    let again = store.insert_referring(template, "t", vec![], None, (C, "b")).await;
    assert!(matches!(again, Err(StoreError::Exists)), "{again:?}");
    let two = store.replace(C, "a", one, b"2".to_vec()).await.expect("replaced");
    for by in ["t", "u"] {
        let refused = store.remove(C, "a", Some(two)).await;
        assert!(matches!(&refused, Err(StoreError::Referenced(id)) if id == by), "{refused:?}");
        assert_eq!(store.get(C, "a").await.expect("still there").version, two);
        store.remove(template, by, None).await.expect("removed");
    }
    store.remove(C, "a", Some(two)).await.expect("removed");
    store.remove(C, "b", None).await.expect("what was not stored refers to nothing");
}

async fn a_change_is_announced(place: Place) {
    let store = place.open().await;
    let mut changes = store.changes();
    let version = store.insert(C, "a", vec![], None).await.expect("stored");
    timeout(TOLD, changes.changed()).await.expect("told").expect("announced");
    assert_eq!(changes.borrow_and_update().of(C), version);
    let _ = store.insert(C, "a", vec![], None).await;
    assert!(!changes.has_changed().expect("open"), "nothing was changed");
}

async fn a_change_is_one_of_its_own_collection(place: Place) {
    let store = place.open().await;
    let trust = store.insert(C, "a", vec![], None).await.expect("stored");
    let device = store.insert(Collection::Devices, "d", vec![], None).await.expect("stored");
    assert_eq!(store.version(C).await.ok(), Some(trust));
    assert_eq!(store.version(Collection::Devices).await.ok(), Some(device));
    assert_eq!(store.version(Collection::DeviceTemplates).await.ok(), Some(0));
    store.remove(Collection::Devices, "d", None).await.expect("removed");
    let removal = store.version(Collection::Devices).await.expect("a version");
    assert!(removal > device, "a removal is a change");
    assert_eq!(store.version(C).await.ok(), Some(trust));
    assert!(store.replace(C, "a", 0, vec![]).await.is_err());
    assert_eq!(store.version(C).await.ok(), Some(trust), "what is refused is no change");
    let again = place_again(&place, store).await;
    assert_eq!(again.version(C).await.ok(), Some(trust));
    assert_eq!(again.changes().borrow().of(Collection::Devices), removal);
}

/// The same place, opened again.
async fn place_again(place: &Place, store: Store) -> Store {
    drop(store);
    place.open().await
}

async fn objects_that_refer_to_one_are_listed_by_page(place: Place) {
    const T: Collection = Collection::DeviceTemplates;
    let store = place.open().await;
    for id in ["t", "t\0", "u"] {
        store.insert(T, id, vec![], None).await.expect("stored");
    }
    let ids: Vec<String> = (0..7).map(|n| format!("{n}")).collect();
    for (n, id) in ids.iter().enumerate() {
        let target = ["t", "u"][n % 2];
        let body = target.as_bytes().to_vec();
        let target = (T, target);
        store.insert_referring(Collection::Devices, id, body, None, target).await.expect("stored");
    }
    store.insert_referring(C, "x", vec![], None, (T, "t")).await.expect("stored");
    store.insert_referring(Collection::Devices, "z", vec![], None, (T, "t\0")).await.expect("it");
    let store = place_again(&place, store).await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.referrers((T, "t"), Collection::Devices, after.clone(), 3).await;
        let page = page.expect("a page");
        assert!(page.iter().all(|record| record.body == b"t"));
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        seen.extend(page.into_iter().map(|record| record.id));
    }
    assert_eq!(seen, ["0", "2", "4", "6"]);
    assert!(matches!(store.remove(T, "t", None).await, Err(StoreError::Referenced(_))));
    for id in ["0", "2", "4", "6"] {
        store.remove(Collection::Devices, id, None).await.expect("removed");
    }
    let by = store.remove(T, "t", None).await;
    assert!(matches!(&by, Err(StoreError::Referenced(id)) if id == "x"), "{by:?}");
    store.remove(C, "x", None).await.expect("removed");
    store.remove(T, "t", None).await.expect("nothing refers to it any longer");
    assert!(matches!(store.remove(T, "t\0", None).await, Err(StoreError::Referenced(_))));
}

/// What a reader makes of the changes: ids and bodies.
#[derive(Default)]
struct Reader {
    objects: BTreeMap<String, Vec<u8>>,
    seen: u64,
    removals: u64,
}

impl Reader {
    async fn begin(store: &Store) -> Self {
        let removals = store.version(C).await.expect("a version");
        Self { removals, ..Self::default() }
    }

    fn since(&self) -> Since {
        Since { seen: self.seen, removals: self.removals }
    }

    /// Reads all there is, in pages.
    async fn follow(&mut self, store: &Store, limit: usize) -> Result<(), StoreError> {
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

async fn all(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let list = store.list(C, None, 10_000).await.expect("a list");
    list.into_iter().map(|record| (record.id, record.body)).collect()
}

async fn changes_are_told_by_page_in_their_order(place: Place) {
    let store = place.open().await;
    for n in 0..10u8 {
        store.insert(C, &n.to_string(), vec![n], None).await.expect("stored");
        store.insert(Collection::Devices, &n.to_string(), vec![n], None).await.expect("stored");
    }
    store.remove(C, "3", None).await.expect("removed");
    let mut reader = Reader::begin(&store).await;
    let page = store.changes_since(C, reader.since(), 100).await.expect("a page");
    assert!(page.iter().all(|change| change.body.is_some()), "old removals are nothing to a new reader");
    assert_eq!(page.len(), 9);
    reader.follow(&store, 4).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);

    let one = store.get(C, "1").await.expect("it");
    let two = store.replace(C, "1", one.version, b"new".to_vec()).await.expect("replaced");
    store.remove(C, "2", None).await.expect("removed");
    store.insert(C, "2", b"again".to_vec(), None).await.expect("stored");
    store.remove(C, "4", None).await.expect("removed");
    let store = place_again(&place, store).await;
    let page = store.changes_since(C, reader.since(), 100).await.expect("a page");
    let told: Vec<_> = page.iter().map(|change| (&*change.id, change.body.as_deref())).collect();
    let new: [(&str, Option<&[u8]>); 4] =
        [("1", Some(b"new")), ("2", None), ("2", Some(b"again")), ("4", None)];
    assert_eq!((told, page[0].version), (new.to_vec(), two));
    reader.follow(&store, 1).await.expect("followed");
    assert_eq!(reader.objects, all(&store).await);
    let last = Since::version(store.version(C).await.expect("a version"));
    assert_eq!(store.changes_since(C, last, 100).await.expect("a page"), []);

    let identity = store.identity().await.expect("an identity");
    assert!(identity.len() >= 32);
    let elsewhere = Place::file();
    assert_ne!(elsewhere.open().await.identity().await.expect("an identity"), identity);
    let store = place_again(&place, store).await;
    assert_eq!(store.identity().await.expect("an identity"), identity);
}

async fn a_reader_who_was_away_too_long_is_told_so(place: Place) {
    let store = place.open().await.remembering(3);
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
    assert!(matches!(refused, Err(StoreError::Forgotten(v)) if v == before.seen), "{refused:?}");
    reader.follow(&store, 2).await.expect("one behind");
    assert_eq!(reader.objects, all(&store).await);
    // Another collection has its own memory.
    let elsewhere = Since { seen: 0, removals: 0 };
    assert_eq!(store.changes_since(Collection::Devices, elsewhere, 9).await.expect("a page"), []);
    // A version that the store has never reached is of another time or place.
    let future = Since::version(store.version(C).await.expect("a version") + 1);
    let refused = store.changes_since(C, future, 2).await;
    assert!(matches!(refused, Err(StoreError::Forgotten(_))), "{refused:?}");
    let refused = store.changes_since(C, Since::version(u64::MAX), 2).await;
    assert!(matches!(refused, Err(StoreError::Forgotten(_))), "{refused:?}");
    let mut anew = Reader::begin(&store).await;
    anew.follow(&store, 3).await.expect("a new reader");
    assert_eq!(anew.objects, all(&store).await);
}

async fn a_reader_beside_many_writers_misses_nothing(place: Place) {
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

async fn lists_go_on_where_they_stopped_in_the_order_of_bytes(place: Place) {
    let store = place.open().await;
    let mut ids: Vec<String> = (0..25).map(|n| format!("{n:02}")).collect();
    ids.extend(["", "a", "a\0", "a0", "B", "Z", "z", "é", "ß", "-", "\u{10ffff}"].map(Into::into));
    for id in ids.iter().rev() {
        store.insert(C, id, vec![], None).await.expect("stored");
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(C, after.clone(), 3).await.expect("a page");
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        seen.extend(page.into_iter().map(|r| r.id));
    }
    ids.sort();
    assert_eq!(seen, ids);
}

/// Each writer adds its own entry to the list that it has read, as an administrator does.
async fn concurrent_changes_are_all_kept_and_never_mixed(place: Place) {
    const WRITERS: u8 = 8;
    const ENTRIES: u8 = 5;
    let store = place.open().await;
    store.insert(C, "list", vec![], None).await.expect("stored");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut versions = Vec::new();
            for entry in 0..ENTRIES {
                versions.push(loop {
                    let Record { version, mut body, .. } = store.get(C, "list").await.expect("it");
                    body.push(writer * ENTRIES + entry);
                    match store.replace(C, "list", version, body).await {
                        Ok(version) => break version,
                        Err(StoreError::Changed { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                });
            }
            versions
        });
    }
    let versions: Vec<u64> = writers.join_all().await.concat();
    let mut list = store.get(C, "list").await.expect("it").body;
    list.sort_unstable();
    assert_eq!(list, (0..WRITERS * ENTRIES).collect::<Vec<_>>());
    let distinct: BTreeSet<_> = versions.iter().collect();
    assert_eq!(distinct.len(), versions.len(), "a version was used twice");
}

/// A client that hangs up drops what is done for it, wherever that is.
async fn callers_that_go_away_leave_the_store_well(place: Place) {
    let store = place.open().await;
    let (mut answered, mut dropped) = (Vec::new(), 0);
    for polls in 0..80u32 {
        let id = format!("{polls:02}");
        let impatience = async {
            for _ in 0..polls * 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            result = store.insert(C, &id, vec![], None) => {
                result.expect("stored");
                answered.push(id);
            }
            () = impatience => dropped += 1,
        }
    }
    assert!(dropped > 0, "nobody went away");
    store.insert(C, "last", vec![], None).await.expect("stored");
    let listed: Vec<_> = store.list(C, None, 1000).await.expect("a list");
    assert!(answered.iter().all(|id| listed.iter().any(|record| record.id == *id)));
    let versions: BTreeSet<_> = listed.iter().map(|record| record.version).collect();
    assert_eq!(versions.len(), listed.len(), "a version was used twice");
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

async fn it_is_a_map_that_survives(place: Place) {
    let handle = tokio::runtime::Handle::current();
    let steps = prop::collection::vec(step(), 1..20);
    let run = move || {
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(12)
        });
        runner.run(&steps, |steps| {
            handle.block_on(follow_the_model(&place, steps));
            Ok(())
        })
    };
    tokio::task::spawn_blocking(run).await.expect("ended").expect("a map");
}

async fn follow_the_model(place: &Place, steps: Vec<Step>) {
    let mut store = place.open().await;
    for record in store.list(C, None, 100).await.expect("a list") {
        store.remove(C, &record.id, Some(record.version)).await.expect("removed");
    }
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut reader = Reader::begin(&store).await;
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
                store = place.open().await;
            }
        }
        assert_eq!(all(&store).await, model);
        assert_eq!(store.count(C).await.ok(), Some(model.len() as u64));
        reader.follow(&store, 2).await.expect("followed");
        assert_eq!(reader.objects, model);
    }
}

/// Where the child of [`kill_nine_loses_nothing_that_was_answered`] writes.
const CHILD: &str = "ANCHORGATE_TEST_STORE";

/// Not a test of its own: the process that is killed.  Says what it was told is stored.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes() {
    let Ok(place) = std::env::var(CHILD) else { return };
    let store = open(&place).await;
    let from = store.count(Collection::Devices).await.expect("a count");
    for n in from.. {
        let id = format!("{n:08}");
        store.insert(Collection::Devices, &id, vec![7; 200], None).await.expect("stored");
        println!("stored {id}");
    }
}

async fn kill_nine_loses_nothing_that_was_answered(place: Place) {
    const ROUNDS: usize = 5;
    const WRITES: usize = 40;
    let mut told = Vec::new();
    for round in 1..=ROUNDS {
        let text = place.text();
        let of_this_round = move || {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "child_that_writes", "--nocapture"])
                .env(CHILD, text)
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child");
            let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            let mut told = Vec::new();
            for line in lines.map_while(Result::ok) {
                told.extend(line.rsplit_once("stored ").map(|(_, id)| id.to_owned()));
                if told.len() == WRITES {
                    child.kill().expect("killed");
                }
            }
            child.wait().expect("ended");
            told
        };
        told.extend(tokio::task::spawn_blocking(of_this_round).await.expect("ended"));
        assert!(told.len() >= round * WRITES, "the child wrote until it was killed");
        let store = place.open().await;
        for id in &told {
            let found = store.get(Collection::Devices, id).await;
            assert!(found.is_ok(), "{id} was answered and is lost: {found:?}");
        }
        // A write that was under way may be there too: at most one for each kill.
        let kept = store.count(Collection::Devices).await.expect("a count") as usize;
        assert!(kept <= told.len() + round, "more is stored than was ever begun");
        // What is kept beside the objects is of the same transactions.
        let whole = Since { seen: 0, removals: store.version(D).await.expect("a version") };
        let changes = store.changes_since(D, whole, 1000).await.expect("changes");
        assert_eq!(changes.len(), kept);
        assert!(changes.windows(2).all(|pair| pair[0].version < pair[1].version));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_one_replica_is_told_to_the_readers_of_another() {
    let place = Place::database().await;
    let (one, other) = (place.open().await, place.open().await);
    let mut heard = other.changes();
    let mut changes = BTreeSet::new();
    for n in 0..20 {
        let version = one.insert(C, &n.to_string(), vec![n], None).await.expect("stored");
        timeout(TOLD, heard.wait_for(|last| last.of(C) >= version)).await.expect("told").expect("open");
        assert_eq!(other.get(C, &n.to_string()).await.expect("there").version, version);
        changes.insert(version);
    }
    assert_eq!(changes.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_make_the_tables_once() {
    let place = Place::database().await;
    let mut starts = JoinSet::new();
    for n in 0..6 {
        let text = place.text();
        starts.spawn(async move {
            let store = open(&text).await;
            store.insert(C, &n.to_string(), vec![], None).await.map(|_| store)
        });
    }
    for store in starts.join_all().await {
        assert_eq!(store.expect("stored").count(C).await.ok(), Some(6));
    }
}

/// The server is set to answer before it writes; the store must not be.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_database_loses_nothing_that_was_answered() {
    let cluster = Arc::new(Cluster::start("-c synchronous_commit=off -c wal_writer_delay=10s"));
    let url = cluster.database().await;
    let store = open(&url).await;
    for n in 0..50 {
        store.insert(C, &format!("{n:02}"), vec![], None).await.expect("stored");
    }
    cluster.crash();
    cluster.resume();
    let store = open(&url).await;
    assert_eq!(store.count(C).await.ok(), Some(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_database_is_503_and_comes_back_by_itself() {
    let cluster = Arc::new(Cluster::start(""));
    let store = open(&cluster.database().await).await;
    let server = Server::on(store.clone()).await;
    let id = server.configuration("fleet", json!([Ca::root("root").element(true)])).await;
    let path = format!("{M}/{id}");
    let list = server.ask(Method::GET, M).send().await.expect("an answer");
    let tag = list.headers()["etag"].to_str().expect("text").to_owned();
    let unchanged = || server.ask(Method::GET, M).header("if-none-match", &tag);
    assert_eq!(unchanged().send().await.expect("an answer").status(), 304);
    let mut changes = store.changes();
    changes.mark_unchanged();

    cluster.crash();
    for request in [
        server.ask(Method::GET, M),
        server.ask(Method::GET, &path),
        server.ask(Method::PATCH, &path).json(&json!({"displayName": "lost"})),
        server.ask(Method::DELETE, &path),
        // "Unchanged" is not known any longer, and so is not answered.
        unchanged(),
        unchanged().header("prefer", "wait=5"),
    ] {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "5");
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["error"]["code"], "ServiceUnavailable");
        assert!(!error.to_string().contains("sock"), "what is inside is not told: {error}");
    }

    cluster.resume();
    // Assumed to have changed while nobody listened: whoever waits looks again.
    timeout(LONG, changes.changed()).await.expect("it comes back").expect("open");
    let (status, found) = server.get(&path).await;
    assert_eq!((status, &found["displayName"]), (200, &json!("fleet")));
    assert_eq!(server.patch(&path, &json!({"displayName": "new"})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_its_database() {
    let cluster = Arc::new(Cluster::start(""));
    let url = cluster.database().await;
    cluster.crash();
    let store = open(&url).await;
    assert!(matches!(store.count(C).await, Err(StoreError::Unavailable(_))));
    let mut changes = store.changes();
    cluster.resume();
    timeout(LONG, changes.changed()).await.expect("it comes").expect("open");
    assert_eq!(store.count(C).await.ok(), Some(0));
}

/// The listening connection alone is cut, as an idle one is by a firewall that says so.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_while_nobody_listens_is_not_missed() {
    let place = Place::database().await;
    let (one, other) = (place.open().await, place.open().await);
    let mut heard = other.changes();
    let options: PgConnectOptions = place.text().parse().expect("a URL");
    let mut operator = options.connect().await.expect("a connection");
    for n in 0..5 {
        // Of this test's database only: other tests share the server.
        query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND (query LIKE 'LISTEN%' OR query LIKE '%FROM directory_collection')",
        )
        .execute(&mut operator)
        .await
        .expect("cut");
        // The store that writes is cut off too, and is back soon.
        let version = loop {
            match one.insert(C, &n.to_string(), vec![], None).await {
                Ok(version) => break version,
                Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        timeout(LONG, heard.wait_for(|last| last.of(C) >= version)).await.expect("told").expect("open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_through_two_replicas_leave_one_whole_list() {
    let place = Place::database().await;
    let servers = [
        Arc::new(Server::on(place.open().await).await),
        Arc::new(Server::on(place.open().await).await),
    ];
    let id = servers[0].configuration("fleet", json!([])).await;
    let path = format!("{M}/{id}");
    let tag = servers[1].get(&path).await.1["@odata.etag"].as_str().expect("a tag").to_owned();
    let lists: Vec<Vec<Ca>> =
        (0..6).map(|n| (0..3).map(|m| Ca::root(&format!("root {n} {m}"))).collect()).collect();
    let element = |ca: &Ca| ca.element(true);
    for conditional in [true, false] {
        let mut patches = JoinSet::new();
        for (n, list) in lists.iter().enumerate() {
            let (server, path, tag) = (Arc::clone(&servers[n % 2]), path.clone(), tag.clone());
            let body =
                json!({"certificateAuthorities": list.iter().map(element).collect::<Vec<_>>()});
            patches.spawn(async move {
                let request = server.ask(Method::PATCH, &path).json(&body);
                let request = if conditional { request.header("if-match", tag) } else { request };
                answer(request).await.0
            });
        }
        let statuses = patches.join_all().await;
        let done = statuses.iter().filter(|status| **status == 200).count();
        let stale = statuses.iter().filter(|status| **status == 412).count();
        let expected = if conditional { (1, 5) } else { (6, 0) };
        assert_eq!((done, stale), expected, "{statuses:?}");
        let stored = servers[1].get(&path).await.1;
        let stored: Vec<&str> = stored["certificateAuthorities"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|authority| authority["certificate"].as_str())
            .collect();
        let whole =
            lists.iter().any(|list| stored == list.iter().map(Ca::base64).collect::<Vec<_>>());
        assert!(whole, "the stored list is nobody's: {stored:?}");
    }
}
