//! Faults of the engine and of this program, and restores that run meanwhile.

use tempfile::TempDir;

use super::*;

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
