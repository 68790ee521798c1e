//! Faults of the engine and of this program, and restores that run meanwhile.

use std::sync::mpsc::channel;
use std::thread;

use tempfile::TempDir;

use super::*;
use crate::store::backup::Writer;

const C: Collection = Collection::Devices;

fn store() -> (Embedded, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    (Embedded::open(&folder.path().join("directory.redb")).expect("a store"), folder)
}

fn insert(store: &Embedded, id: &str) -> Result<u64, StoreError> {
    let (id, body) = (id.to_owned(), b"body".to_vec());
    store.write(C, Write::Insert { id, body, most: None, refers_to: None })
}

#[test]
fn a_panic_is_named_and_ends_changes_only_if_a_change_panicked() {
    let (store, _folder) = store();
    let read = store.read::<()>(|_| panic!("a fault\nin a read"));
    let why = read.expect_err("a panic").to_string();
    let named = "the engine or this program stopped unexpectedly: a fault\\u{a}in a read";
    assert!(why.contains(named), "{why}");
    insert(&store, "a").expect("stored");
    store.change::<()>(|_| panic!("a fault in a change")).expect_err("a panic");
    let why = insert(&store, "b").expect_err("refused").to_string();
    assert!(why.contains("may be damaged (the engine or this program stopped"), "{why}");
    assert!(why.contains("a fault in a change"), "{why}");
    assert_eq!(store.count(C).ok(), Some(1), "reads continue");
}

#[test]
fn changes_that_meet_a_restore_are_refused_and_have_no_effect() {
    let (store, _folder) = store();
    insert(&store, "before").expect("stored");
    let (entered, is_inside) = channel();
    let (leave, may_leave) = channel::<()>();
    thread::scope(|scope| {
        let store = &store;
        // A transaction runs, a change waits for it, and then a restore begins.
        let running = scope.spawn(move || {
            store.queue.write(C, removal("absent"), |batch| {
                entered.send(()).expect("received");
                may_leave.recv().expect("sent");
                store.apply(batch);
            })
        });
        is_inside.recv().expect("a transaction runs");
        let queued = scope.spawn(|| insert(store, "queued"));
        store.queue.until_waiting(1);
        let (begun, has_begun) = channel();
        let (end, may_end) = channel::<()>();
        scope.spawn(move || {
            let restoring = store.queue.refuse_changes().expect("no other restore");
            begun.send(()).expect("received");
            may_end.recv().expect("sent");
            drop(restoring);
        });
        let refused = queued.join().expect("no panic").expect_err("refused").to_string();
        assert!(refused.contains("a restore is running"), "{refused}");
        leave.send(()).expect("received");
        has_begun.recv().expect("the transaction has ended");
        assert!(matches!(running.join().expect("no panic"), Err(StoreError::Missing)));

        let refused = insert(store, "during").expect_err("refused").to_string();
        assert!(refused.contains("a restore is running"), "{refused}");
        assert_eq!(store.count(C).ok(), Some(1), "reads continue");
        assert!(store.queue.refuse_changes().is_err(), "another restore");
        end.send(()).expect("received");
    });
    insert(&store, "after").expect("stored");
    let ids: Vec<_> =
        store.list(C, None, 9).expect("a page").into_iter().map(|one| one.id).collect();
    assert_eq!(ids, ["after", "before"]);
}

fn removal(id: &str) -> Write {
    Write::Remove { id: id.to_owned(), expected: None, kept_removals: 9 }
}

#[test]
fn a_backup_with_one_version_twice_is_refused() {
    let (store, folder) = store();
    insert(&store, "a").expect("stored");
    let file = folder.path().join("backup");
    for (second, is_valid) in [(5, false), (6, true)] {
        let out = File::create(&file).expect("a file");
        let mut writer = Writer::start(out, "d".into(), 6).expect("written");
        writer.object(C, "x", 5, b"x").expect("written");
        writer.object(C, "y", second, b"y").expect("written");
        writer.end().expect("written");
        let restored = store.restore(&File::open(&file).expect("it"), true).map(|_| ());
        match is_valid {
            true => restored.expect("valid"),
            false => {
                let why = restored.expect_err("refused").to_string();
                assert!(why.contains("two objects of devices have the version 5"), "{why}");
                assert_eq!(store.get(C, "a").expect("unchanged").id, "a");
            }
        }
    }
}
