//! The file of the embedded store is lost, or replaced while it is open.

use std::fs;

use anchorgate::store::{Store, StoreError};

use crate::{C, Place};

async fn refusal(place: &Place) -> String {
    match Store::open(place.text().as_ref()).await {
        Err(StoreError::Unavailable(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_does_not_begin_again_empty() {
    let place = Place::file();
    let store = place.open().await;
    store.insert(C, "a", b"one".to_vec(), None).await.expect("stored");
    drop(store);
    let path = place.text();
    let kept = fs::read(&path).expect("the store");

    fs::remove_file(&path).expect("removed");
    let why = refusal(&place).await;
    assert!(why.contains("is missing") && why.contains("directory.identity"), "{why}");
    assert!(fs::metadata(&path).is_err(), "nothing was created");
    fs::write(&path, b"").expect("emptied");
    let why = refusal(&place).await;
    assert!(why.contains("is empty") && why.contains("put the file or a copy of it back"), "{why}");

    let other = Place::file();
    drop(other.open().await);
    fs::copy(other.text(), &path).expect("copied");
    let why = refusal(&place).await;
    assert!(why.contains("belongs to another directory"), "{why}");

    // A copy of the store is accepted.
    fs::write(&path, &kept).expect("restored");
    let store = place.open().await;
    assert_eq!(store.get(C, "a").await.expect("there").body, b"one");
    drop(store);
    // The operator wants an empty one.
    fs::remove_file(&path).expect("removed");
    fs::remove_file(path.replace(".redb", ".identity")).expect("removed");
    assert_eq!(place.open().await.count(C).await.ok(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_is_not_written_on() {
    let place = Place::file();
    let store = place.open().await;
    store.insert(C, "a", b"one".to_vec(), None).await.expect("stored");
    let path = place.text();
    let away = format!("{path}.away");
    fs::rename(&path, &away).expect("moved");
    for replacement in [false, true] {
        if replacement {
            fs::copy(&away, &path).expect("copied");
        }
        let refused = store.insert(C, "b", b"two".to_vec(), None).await;
        let Err(StoreError::Unavailable(why)) = refused else { panic!("{refused:?}") };
        let fault = if replacement { "was replaced" } else { "is missing" };
        assert!(why.contains(fault) && why.contains("changes are refused"), "{why}");
        assert_eq!(store.count(C).await.ok(), Some(1), "reads continue");
    }
    fs::rename(&away, &path).expect("moved back");
    store.insert(C, "b", b"two".to_vec(), None).await.expect("stored");
    assert_eq!(crate::reopen(&place, store).await.count(C).await.ok(), Some(2));
}
