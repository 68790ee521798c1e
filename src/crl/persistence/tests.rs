use super::*;

const ADDRESS: &str = "http://ca.example/1.crl";
const NOW: Timestamp = Timestamp(1_767_225_600);
const DAY: i64 = 86_400;

fn metadata(address: &str) -> Metadata {
    let validators = Validators { etag: Some("\"1\"".to_owned()), last_modified: None };
    Metadata {
        address: address.to_owned(),
        validators,
        fetched: 7,
        next_update: Some(NOW.0 + 30 * DAY),
    }
}

fn save(store: &Store, content: &[u8]) {
    let mut pending = store.begin(ADDRESS).expect("a file");
    content.chunks(1000).for_each(|piece| pending.write(piece).expect("room"));
    pending.commit(&metadata(ADDRESS)).expect("committed");
}

fn load(store: &Store) -> io::Result<Option<(Vec<u8>, Metadata)>> {
    let mut content = Vec::new();
    let metadata = store.load(ADDRESS, |piece| {
        content.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(metadata.map(|metadata| (content, metadata)))
}

#[test]
fn loads_a_committed_copy() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path().join("new")).expect("a store");
    assert!(load(&store).expect("readable").is_none());
    for content in [&b""[..], b"list", &[7; 600_000]] {
        save(&store, content);
        assert_eq!(load(&store).expect("readable"), Some((content.to_vec(), metadata(ADDRESS))));
    }
}

#[test]
fn discards_a_copy_that_was_not_committed() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("a store");
    save(&store, b"first");
    let mut pending = store.begin(ADDRESS).expect("a file");
    pending.write(b"second").expect("room");
    drop(pending);
    assert_eq!(
        load(&store).expect("readable").map(|(content, _)| content),
        Some(b"first".to_vec())
    );
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
}

#[test]
fn detects_each_damaged_byte() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("a store");
    save(&store, b"the list");
    let path = store.path(ADDRESS);
    let whole = fs::read(&path).expect("the file");
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, &damaged).expect("room");
        assert!(load(&store).is_err(), "byte {at}");
        fs::write(&path, &whole[..at]).expect("room");
        assert!(load(&store).is_err(), "cut at {at}");
    }
}

#[test]
fn retains_the_copy_of_an_unnamed_address_for_a_while() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = || fs::read_dir(directory.path()).expect("readable").count();
    fs::write(directory.path().join("x.crl.new"), "left over").expect("room");
    fs::write(directory.path().join("sighted"), "not a copy").expect("room");
    let store = Store::open(directory.path()).expect("a store");
    save(&store, b"the list");
    assert_eq!(files(), 2);
    let sweep = |named: &[Arc<str>], days| {
        store.sweep(named, Timestamp(NOW.0 + days * DAY)).expect("swept");
    };
    sweep(&[ADDRESS.into()], 1000);
    assert_eq!(files(), 2, "the address is named");
    // nextUpdate is day 30; the copy is retired at day 10.
    for day in [10, 16, 29] {
        sweep(&[], day);
        assert_eq!(files(), 2, "day {day}");
    }
    assert!(load(&store).expect("readable").is_some(), "the address is named again");
    sweep(&[], 28);
    sweep(&[], 34);
    assert_eq!(files(), 2, "the seven days start again");
    sweep(&[], 35);
    assert_eq!(files(), 1);
    assert!(load(&store).expect("readable").is_none());
}

#[test]
fn removes_a_damaged_copy_of_an_unnamed_address() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("a store");
    fs::write(store.path(ADDRESS), "garbage").expect("room");
    store.sweep(&[], NOW).expect("swept");
    store.sweep(&[], Timestamp(NOW.0 + 7 * DAY - 1)).expect("swept");
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
    store.sweep(&[], Timestamp(NOW.0 + 7 * DAY)).expect("swept");
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
}

#[test]
fn warns_once_about_a_failing_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path().join("lists")).expect("a store");
    fs::remove_dir(directory.path().join("lists")).expect("empty");
    for _ in 0..3 {
        assert!(store.report(ADDRESS, store.begin(ADDRESS)).is_none());
        assert!(store.failing.load(Ordering::Relaxed));
    }
    fs::create_dir(directory.path().join("lists")).expect("room");
    let pending = store.report(ADDRESS, store.begin(ADDRESS)).expect("a file");
    assert!(
        store.failing.load(Ordering::Relaxed),
        "creating a file does not prove that the disk works"
    );
    pending.commit(&metadata(ADDRESS)).expect("committed");
    store.report_success();
    assert!(!store.failing.load(Ordering::Relaxed));
}
