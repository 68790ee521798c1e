//! The contract of the store: objects, versions, limits, references, pages and durability.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anchorgate::store::{Collection, READ_BYTES, Record, Since, StoreError};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::changes::{Reader, all};
use crate::{C, NOTIFIED, Place, both_engines, open, reopen};

const D: Collection = Collection::Devices;

both_engines!(
    objects_survive_a_restart,
    writes_are_compare_and_set,
    a_full_collection_rejects_inserts,
    the_limit_holds_under_concurrency,
    referenced_objects_are_not_removed,
    subscribers_are_notified_of_changes,
    collections_have_separate_versions,
    objects_that_refer_to_one_are_listed_by_page,
    dropped_callers_leave_the_store_consistent,
    lists_are_paged_in_byte_order,
    a_read_ends_at_a_limit_in_bytes,
    concurrent_changes_are_all_kept_and_never_mixed,
    behaves_like_a_persistent_map,
    a_killed_process_loses_no_acknowledged_write,
);

async fn objects_survive_a_restart(place: Place) {
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

async fn a_full_collection_rejects_inserts(place: Place) {
    let store = place.open().await;
    store.insert(Collection::Devices, "elsewhere", vec![], None).await.expect("stored");
    for id in ["a", "b"] {
        store.insert(C, id, vec![], Some(2)).await.expect("stored");
    }
    assert!(matches!(store.insert(C, "c", vec![], Some(2)).await, Err(StoreError::Full(2))));
    assert_eq!(store.count(C).await.ok(), Some(2));
}

async fn the_limit_holds_under_concurrency(place: Place) {
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

async fn referenced_objects_are_not_removed(place: Place) {
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

async fn subscribers_are_notified_of_changes(place: Place) {
    let store = place.open().await;
    let mut changes = store.changes();
    let version = store.insert(C, "a", vec![], None).await.expect("stored");
    timeout(NOTIFIED, changes.changed()).await.expect("a notification").expect("an open channel");
    assert_eq!(changes.borrow_and_update().of(C), version);
    let _ = store.insert(C, "a", vec![], None).await;
    assert!(!changes.has_changed().expect("open"), "a failed insert is not a change");
}

async fn collections_have_separate_versions(place: Place) {
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
    assert_eq!(store.version(C).await.ok(), Some(trust), "a rejected write is not a change");
    let again = reopen(&place, store).await;
    assert_eq!(again.version(C).await.ok(), Some(trust));
    assert_eq!(again.changes().borrow().of(Collection::Devices), removal);
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
    let store = reopen(&place, store).await;
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

async fn lists_are_paged_in_byte_order(place: Place) {
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

async fn a_read_ends_at_a_limit_in_bytes(place: Place) {
    const MEBIBYTE: usize = 1024 * 1024;
    let (store, target) = (place.open().await, (Collection::DeviceTemplates, "t"));
    store.insert(target.0, target.1, vec![], None).await.expect("stored");
    let ids: Vec<String> = (0..20).map(|n| format!("{n:02}")).collect();
    for id in &ids {
        store.insert_referring(D, id, vec![7; MEBIBYTE], None, target).await.expect("stored");
    }
    let most = READ_BYTES / MEBIBYTE;
    for of_target in [false, true] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = match of_target {
                false => store.list(D, after.clone(), 100).await.expect("a page"),
                true => store.referrers(target, D, after.clone(), 100).await.expect("a page"),
            };
            let Some(last) = page.last() else { break };
            assert!(page.len() <= most, "{} objects", page.len());
            after = Some(last.id.clone());
            seen.extend(page.into_iter().map(|r| r.id));
        }
        assert_eq!(seen, ids, "{of_target}");
    }
    // A removal is not reported before the changes that precede it.
    store.remove(D, &ids[3], None).await.expect("removed");
    let late = store.insert(D, "late", vec![], None).await.expect("stored");
    let (mut since, mut seen) = (Since { seen: 0, removals: 0 }, Vec::new());
    while since.seen < late {
        let page = store.changes_since(D, since, 100).await.expect("changes");
        assert!(page.len() <= most + 2, "{} changes", page.len());
        since.seen = page.last().expect("changes").version;
        seen.extend(
            page.into_iter().map(|change| (change.version, change.id, change.body.is_some())),
        );
    }
    assert!(seen.is_sorted(), "{seen:?}");
    let removed: Vec<_> = seen.iter().filter(|(_, _, is_present)| !is_present).collect();
    assert!(matches!(removed[..], [(_, id, _)] if *id == ids[3]), "{removed:?}");
    assert_eq!(seen.len(), ids.len() + 1);
}

/// Each writer adds its own entry to the list that it has read, like an administrator.
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

/// A client that disconnects drops its pending operation at any point.
async fn dropped_callers_leave_the_store_consistent(place: Place) {
    let store = place.open().await;
    let (mut answered, mut dropped) = (Vec::new(), 0);
    for polls in 0..80u32 {
        let id = format!("{polls:02}");
        let patience_ends = async {
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
            () = patience_ends => dropped += 1,
        }
    }
    assert!(dropped > 0, "no caller was dropped");
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

async fn behaves_like_a_persistent_map(place: Place) {
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

/// Variable with the location for the child of [`a_killed_process_loses_no_acknowledged_write`].
const CHILD: &str = "ANCHORGATE_TEST_STORE";

/// The process that is killed; does nothing as a test.  Prints a line for each acknowledged write.
#[tokio::test(flavor = "multi_thread")]
async fn child_process_that_writes() {
    let Ok(place) = std::env::var(CHILD) else { return };
    let store = open(&place).await;
    let from = store.count(Collection::Devices).await.expect("a count");
    for n in from.. {
        let id = format!("{n:08}");
        store.insert(Collection::Devices, &id, vec![7; 200], None).await.expect("stored");
        println!("stored {id}");
    }
}

async fn a_killed_process_loses_no_acknowledged_write(place: Place) {
    const ROUNDS: usize = 5;
    const WRITES: usize = 40;
    let mut acknowledged = Vec::new();
    for round in 1..=ROUNDS {
        let text = place.text();
        let of_this_round = move || {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "contract::child_process_that_writes", "--nocapture"])
                .env(CHILD, text)
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child");
            let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            let mut acknowledged = Vec::new();
            for line in lines.map_while(Result::ok) {
                acknowledged.extend(line.rsplit_once("stored ").map(|(_, id)| id.to_owned()));
                if acknowledged.len() == WRITES {
                    child.kill().expect("killed");
                }
            }
            child.wait().expect("ended");
            acknowledged
        };
        acknowledged.extend(tokio::task::spawn_blocking(of_this_round).await.expect("ended"));
        assert!(acknowledged.len() >= round * WRITES, "the child wrote until it was killed");
        let store = place.open().await;
        for id in &acknowledged {
            let found = store.get(Collection::Devices, id).await;
            assert!(found.is_ok(), "{id} was acknowledged and is lost: {found:?}");
        }
        // A pending write may be stored too: at most one for each kill.
        let kept = store.count(Collection::Devices).await.expect("a count") as usize;
        assert!(kept <= acknowledged.len() + round, "more objects than writes");
        // The records of changes belong to the same transactions.
        let whole = Since { seen: 0, removals: store.version(D).await.expect("a version") };
        let changes = store.changes_since(D, whole, 1000).await.expect("changes");
        assert_eq!(changes.len(), kept);
        assert!(changes.windows(2).all(|pair| pair[0].version < pair[1].version));
    }
}
