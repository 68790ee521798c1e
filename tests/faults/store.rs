//! The embedded store after crashes: no acknowledged write is lost, and no other one appears.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anchorgate::store::{Collection, Store, StoreError};
use tempfile::TempDir;

use crate::random::Random;

const C: Collection = Collection::Devices;

/// A store and the objects that it must have: version and content by id.
struct Stored {
    folder: TempDir,
    store: Store,
    objects: BTreeMap<String, (u64, Vec<u8>)>,
    crashes: usize,
}

impl Stored {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("0.redb")).await.expect("a store");
        Self { folder, store, objects: BTreeMap::new(), crashes: 0 }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(format!("{}.redb", self.crashes))
    }

    /// Performs one write and notes it once it is acknowledged.
    async fn write(&mut self, random: &mut Random) -> Result<(), StoreError> {
        let id = format!("o{}", random.below(20));
        let body = random.number().to_be_bytes().repeat(random.between(1, 200) as usize);
        match self.objects.get(&id).map(|(version, _)| *version) {
            None => {
                let version = self.store.insert(C, &id, body.clone(), None).await?;
                self.objects.insert(id, (version, body));
            }
            Some(version) if random.chance(60) => {
                let version = self.store.replace(C, &id, version, body.clone()).await?;
                self.objects.insert(id, (version, body));
            }
            Some(version) => {
                self.store.remove(C, &id, Some(version)).await?;
                self.objects.remove(&id);
            }
        }
        Ok(())
    }

    /// Continues with the bytes that the file has now, as after a kill.  The old process writes nothing
    /// into them.
    async fn crash(&mut self) {
        let image = std::fs::read(self.file()).expect("the file");
        self.crashes += 1;
        std::fs::write(self.file(), image).expect("room");
        self.store = Store::open(&self.file()).await.expect("a store");
    }

    async fn check(&self) {
        let count = self.store.count(C).await.expect("a count");
        assert_eq!(count, self.objects.len() as u64, "after {} crashes", self.crashes);
        for (id, (version, body)) in &self.objects {
            let found = self.store.get(C, id).await.expect("an object");
            assert_eq!((found.version, &found.body), (*version, body), "{id}");
        }
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_crashes() {
    for seed in 0..3 {
        let (mut random, mut stored) = (Random::new(seed), Stored::new().await);
        for _ in 0..12 {
            for _ in 0..random.between(1, 20) {
                stored.write(&mut random).await.expect("a write");
            }
            stored.crash().await;
            stored.check().await;
        }
    }
}

/// After the first integrity error, nothing is written into the damaged file.
#[tokio::test]
async fn a_damaged_store_refuses_every_change() {
    let (mut random, mut stored) = (Random::new(1), Stored::new().await);
    for n in 0..400 {
        let body = random.number().to_be_bytes().repeat(200);
        stored.store.insert(C, &format!("filler-{n}"), body, None).await.expect("a write");
    }
    // The next process has no pages in memory.
    stored.crash().await;
    let file = OpenOptions::new().write(true).open(stored.file()).expect("the file");
    let length = file.metadata().expect("its length").len();
    const INTACT: u64 = 64 * 1024;
    file.write_all_at(&vec![0; (length - INTACT) as usize], INTACT).expect("damaged");
    let mut refused = None;
    for n in 0..400 {
        let id = format!("filler-{n}");
        if let Err(error) = stored.store.insert(C, &format!("{id}-2"), vec![1; 100], None).await {
            refused = Some(error.to_string());
            break;
        }
    }
    assert!(refused.is_some(), "the damage is not noticed");
    let damaged = std::fs::read(stored.file()).expect("the file");
    for n in 0..3 {
        let refused = stored.store.insert(C, &format!("later-{n}"), vec![1], None).await;
        let why = refused.expect_err("refused").to_string();
        assert!(why.contains("may be damaged") && why.contains("changes are refused"), "{why}");
        let command = "`anchorgate directory restore BACKUP --offline CONFIG`";
        assert!(why.contains(command), "{why}");
    }
    assert!(std::fs::read(stored.file()).expect("the file") == damaged, "it was written");
}
