//! Backup and restore of the store.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anchorgate::store::{Collection, Record, Since, Store, StoreError};
use tokio::time::timeout;

use crate::{C, LONG, Place, open};

const T: Collection = Collection::DeviceTemplates;

pub(crate) fn beside(place: &Place, name: &str) -> PathBuf {
    PathBuf::from(place.text()).with_file_name(name)
}

/// Objects of all collections that the tests use.
pub(crate) async fn everything(store: &Store) -> Vec<Record> {
    let mut all = store.list(C, None, 100).await.expect("a page");
    all.extend(store.list(T, None, 100).await.expect("a page"));
    all
}

/// A store with two configurations and a template that refers to one of them.
pub(crate) async fn filled(place: &Place) -> Store {
    let store = place.open().await;
    store.insert(C, "a", b"one".to_vec(), None).await.expect("stored");
    store.insert(C, "b", vec![0, 255, 10], None).await.expect("stored");
    store.insert_referring(T, "t", b"t".to_vec(), None, (C, "a")).await.expect("stored");
    store
}

async fn refusal(store: &Store, path: PathBuf) -> String {
    match store.restore(path, false).await {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_brings_everything_back_and_begins_a_new_history() {
    let place = Place::file();
    let store = filled(&place).await;
    let path = beside(&place, "copy");
    let (before, history) = (everything(&store).await, store.identity().await.expect("one"));
    let made = store.backup(path.clone()).await.expect("written");
    assert_eq!((made.objects, made.version), (3, store.version(T).await.expect("a version")));
    let why = store.backup(path.clone()).await.expect_err("the file exists").to_string();
    assert!(why.contains("copy"), "{why}");

    store.remove(C, "b", None).await.expect("removed");
    store.replace(C, "a", before[0].version, b"two".to_vec()).await.expect("replaced");
    let last = store.insert(C, "c", b"c".to_vec(), None).await.expect("stored");
    let mut changes = store.changes();
    changes.mark_unchanged();
    assert_eq!(store.restore(path.clone(), false).await.expect("restored"), made);
    timeout(LONG, changes.changed()).await.expect("notified").expect("open");

    assert_eq!(everything(&store).await, before);
    assert_ne!(store.identity().await.expect("one"), history);
    let refused = store.remove(C, "a", None).await;
    assert!(matches!(&refused, Err(StoreError::Referenced(by)) if by == "t"), "{refused:?}");
    // No reader of the old history continues, and no version of it is used again.
    for version in 0..=last {
        let refused = store.changes_since(C, Since::version(version), 9).await;
        assert!(matches!(refused, Err(StoreError::HistoryExpired(_))), "{version}: {refused:?}");
    }
    assert!(store.insert(C, "d", b"d".to_vec(), None).await.expect("stored") > last);
    let store = crate::reopen(&place, store).await;
    let ids: Vec<_> = everything(&store).await.into_iter().map(|one| one.id).collect();
    assert_eq!(ids, ["a", "b", "d", "t"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_valid_changes_nothing() {
    let place = Place::file();
    let store = filled(&place).await;
    let path = beside(&place, "copy");
    store.backup(path.clone()).await.expect("written");
    store.insert(C, "later", b"x".to_vec(), None).await.expect("stored");
    let (now, history) = (everything(&store).await, store.identity().await.expect("one"));
    let good = fs::read_to_string(&path).expect("text");
    let without_last = good.trim_end().rsplit_once('\n').expect("lines").0;
    for (name, bytes, word) in [
        ("empty", String::new(), "line 1: the file ends early"),
        ("cut", format!("{without_last}\n"), "the file ends early"),
        ("changed", good.replace("\"id\":\"b\"", "\"id\":\"B\""), "it was changed"),
        ("secret", "root:x:0:0\n".to_owned(), "not a line of a backup"),
    ] {
        let path = beside(&place, name);
        fs::write(&path, bytes).expect("written");
        let why = refusal(&store, path).await;
        assert!(why.contains(word) && why.contains("unchanged"), "{name}: {why}");
    }
    let why = refusal(&store, beside(&place, "missing")).await;
    assert!(why.contains("missing: No such file"), "{why}");
    let why = refusal(&store, beside(&place, "")).await;
    assert!(why.contains("it is not a file"), "{why}");
    assert_eq!(everything(&store).await, now);
    assert_eq!(store.identity().await.expect("one"), history, "the history continues");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_directory_that_is_not_empty_is_replaced_only_if_the_operator_says_so() {
    let (place, other) = (Place::file(), Place::file());
    let path = beside(&place, "copy");
    let store = filled(&place).await;
    store.backup(path.clone()).await.expect("written");
    let second = filled(&other).await;
    let why = refusal(&second, path.clone()).await;
    assert!(why.contains("another directory") && why.contains("--accept-other-directory"), "{why}");
    second.remove(C, "b", None).await.expect("removed");
    second.restore(path, true).await.expect("accepted");
    assert_eq!(everything(&second).await, everything(&store).await);
    let second = crate::reopen(&other, second).await;
    assert_eq!(everything(&second).await, everything(&store).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_backed_up_with_its_own_programs() {
    let store = Place::database().await.open().await;
    let path = tempfile::tempdir().expect("a folder").keep().join("copy");
    for result in [store.backup(path.clone()).await, store.restore(path, true).await] {
        let why = result.expect_err("refused").to_string();
        assert!(why.contains("pg_dump") && why.contains("pg_restore"), "{why}");
    }
}

/// Variable with the location for the child of [`a_killed_restore_is_complete_or_absent`].
const CHILD: &str = "ANCHORGATE_TEST_RESTORE";

/// The process that is killed; does nothing as a test.  Prints a line before each restore.
#[tokio::test(flavor = "multi_thread")]
async fn child_process_that_restores() {
    let Ok(place) = std::env::var(CHILD) else { return };
    let store = open(&place).await;
    for body in ["a", "b"].into_iter().cycle() {
        println!("begins {body}");
        let path = PathBuf::from(&place).with_file_name(body);
        store.restore(path, false).await.expect("restored");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_restore_is_complete_or_absent() {
    const OBJECTS: usize = 500;
    let place = Place::file();
    let store = place.open().await;
    for body in ["a", "b"] {
        for n in 0..OBJECTS {
            let (id, bytes) = (format!("{n:04}"), body.repeat(300).into_bytes());
            match store.get(C, &id).await {
                Ok(old) => store.replace(C, &id, old.version, bytes).await,
                Err(_) => store.insert(C, &id, bytes, None).await,
            }
            .expect("stored");
        }
        store.backup(beside(&place, body)).await.expect("written");
    }
    drop(store);
    for round in 1..=4 {
        let text = place.text();
        let run = move || {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "backup::child_process_that_restores", "--nocapture"])
                .env(CHILD, text)
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child");
            let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
            let begun = lines.map_while(Result::ok).filter(|line| line.contains("begins"));
            assert_eq!(begun.take(round).count(), round, "the child restored until it was killed");
            child.kill().expect("killed");
            child.wait().expect("ended");
        };
        tokio::task::spawn_blocking(run).await.expect("ended");
        let store = place.open().await;
        let mut bodies = BTreeMap::new();
        for object in store.list(C, None, 2 * OBJECTS).await.expect("a page") {
            *bodies.entry(object.body).or_insert(0) += 1;
        }
        assert_eq!(bodies.into_values().collect::<Vec<_>>(), [OBJECTS], "one of the backups");
    }
}
