//! Identity of a restored directory, and restores of a store that is not in use.

use std::fs;
use std::path::{Path, PathBuf};

use anchorgate::store::{Store, StoreError};

use crate::backup::{beside, everything, filled};
use crate::{C, Place};

fn identity(place: &Place) -> Option<Vec<u8>> {
    fs::read(beside(place, "directory.identity")).ok()
}

async fn restore(place: &Place, backup: &Path, accept_other: bool) -> Result<(), String> {
    let restored =
        Store::restore_file(place.text().as_ref(), backup.to_owned(), accept_other).await;
    restored.map(|_| ()).map_err(|error| error.to_string())
}

/// A directory with two backups: of two configurations, and of three.
async fn two_backups(place: &Place) -> [PathBuf; 2] {
    let paths = ["first", "second"].map(|name| beside(place, name));
    let store = filled(place).await;
    store.backup(paths[0].clone()).await.expect("written");
    store.insert(C, "c", b"c".to_vec(), None).await.expect("stored");
    store.backup(paths[1].clone()).await.expect("written");
    paths
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_directory_is_the_one_of_the_backup() {
    let (place, online, offline) = (Place::file(), Place::file(), Place::file());
    let [first, second] = two_backups(&place).await;
    let store = online.open().await;
    store.restore(second.clone(), false).await.expect("it is empty");
    store.restore(first.clone(), false).await.expect("an older copy of the same directory");
    assert_eq!(identity(&online), identity(&place));
    assert_eq!(crate::reopen(&online, store).await.count(C).await.ok(), Some(2));

    restore(&offline, &second, false).await.expect("there was none");
    assert_eq!(offline.open().await.count(C).await.ok(), Some(3));
    restore(&offline, &first, false).await.expect("an older copy of the same directory");
    assert_eq!(identity(&offline), identity(&place));
    assert_eq!(offline.open().await.count(C).await.ok(), Some(2));
    // The identity that it had before is not read when the operator removes both files.
    fs::remove_file(online.text()).expect("removed");
    fs::remove_file(beside(&online, "directory.identity")).expect("removed");
    assert_eq!(online.open().await.count(C).await.ok(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_file_from_before_the_restore_is_repaired_at_the_next_start() {
    let place = Place::file();
    let [first, second] = two_backups(&place).await;
    for is_online in [true, false] {
        let restored = Place::file();
        let store = restored.open().await;
        let old = identity(&restored).expect("written");
        if is_online {
            store.restore(second.clone(), false).await.expect("it is empty");
            drop(store);
        } else {
            drop(store);
            restore(&restored, &second, false).await.expect("it is empty");
        }
        // As if the process had ended before it wrote the file.
        fs::write(beside(&restored, "directory.identity"), &old).expect("written");
        restore(&restored, &first, false).await.expect("of the directory that is there");
        fs::write(beside(&restored, "directory.identity"), &old).expect("written");
        assert_eq!(restored.open().await.count(C).await.ok(), Some(2));
        assert_eq!(identity(&restored), identity(&place));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_valid_creates_nothing() {
    let (place, empty) = (Place::file(), Place::file());
    let [first, _] = two_backups(&place).await;
    let bad = beside(&place, "bad");
    let text = fs::read_to_string(&first).expect("text");
    fs::write(&bad, text.replace("\"id\":\"b\"", "\"id\":\"B\"")).expect("written");
    for backup in [beside(&place, "no-such-file"), bad] {
        restore(&empty, &backup, false).await.expect_err("refused");
    }
    let opened = Store::open_existing(empty.text().as_ref()).await.map(|_| ());
    let Err(StoreError::Refused(why)) = opened else { panic!("{opened:?}") };
    assert!(why.contains("is missing"), "{why}");
    let folder = beside(&empty, "");
    assert_eq!(fs::read_dir(folder).expect("the folder").count(), 0, "a file was created");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_lost_store_is_replaced_by_a_backup_of_its_directory_only() {
    let (place, other) = (Place::file(), Place::file());
    let [first, _] = two_backups(&place).await;
    let [of_another, _] = two_backups(&other).await;
    for is_lost in [false, true] {
        let length = fs::metadata(place.text()).expect("the file").len();
        match is_lost {
            true => fs::remove_file(place.text()).expect("removed"),
            false => fs::write(place.text(), vec![7; length as usize]).expect("damaged"),
        }
        let why = restore(&place, &of_another, false).await.expect_err("refused");
        assert!(why.contains("of another directory") && why.contains("is unchanged"), "{why}");
        restore(&place, &first, false).await.expect("restored");
        let mut database = redb::Database::create(place.text()).expect("a store");
        assert_eq!(database.check_integrity().ok(), Some(true));
        drop(database);
        let store = place.open().await;
        assert_eq!(everything(&store).await.len(), 3);
        drop(store);
    }
    restore(&place, &of_another, true).await.expect("accepted");
    assert_eq!(identity(&place), identity(&other));
    assert_eq!(everything(&place.open().await).await.len(), 3);
    assert!(!beside(&place, "directory.redb.new").exists());
}
