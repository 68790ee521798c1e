//! Changes, many in one transaction: the disk is waited for once for all that came in while it was
//! being waited for.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};

use crate::store::embedded::Failure;
use crate::store::embedded::tables::{
    KEPT, META, REFERENCES, REFERRED, VERSION, changed, forget, last, objects, removed,
};
use crate::store::objects::{Collection, StoreError};

/// Changes that one transaction takes at most, which bounds what one of them waits for the others.
pub(super) const BATCH: usize = 256;

/// A change of one collection.
pub(in crate::store) enum Write {
    /// A new object.
    Insert { id: String, body: Vec<u8>, most: Option<u64>, refers_to: Option<(Collection, String)> },
    /// Another body for an object.
    Replace { id: String, expected: u64, body: Vec<u8> },
    /// An object's end; how many removals are remembered.
    Remove { id: String, expected: Option<u64>, remembered: u64 },
}

/// A change that waits for a transaction, and who waits for it.
pub(super) struct Pending {
    collection: Collection,
    write: Write,
    answer: SyncSender<Result<u64, StoreError>>,
}

impl Pending {
    pub(super) fn new(
        collection: Collection,
        write: Write,
    ) -> (Self, Receiver<Result<u64, StoreError>>) {
        let (answer, done) = sync_channel(1);
        (Self { collection, write, answer }, done)
    }

    pub(super) fn done(&self, result: Result<u64, StoreError>) {
        // Who has gone away needs no answer.
        let _ = self.answer.send(result);
    }

    /// Makes the change.  A rule is checked before anything is written, so that what is refused leaves
    /// no trace in a transaction that others share.
    pub(super) fn apply(
        &self,
        transaction: &WriteTransaction,
    ) -> Result<Result<u64, StoreError>, redb::Error> {
        let done = match &self.write {
            Write::Insert { id, body, most, refers_to } => {
                let target = refers_to.as_ref().map(|(kind, id)| (*kind, &**id));
                insert(transaction, self.collection, id, body, *most, target)
            }
            Write::Replace { id, expected, body } => {
                replace(transaction, self.collection, id, *expected, body)
            }
            Write::Remove { id, expected, remembered } => {
                remove(transaction, self.collection, id, *expected, *remembered)
            }
        };
        match done {
            Ok(version) => Ok(Ok(version)),
            Err(Failure::Rule(error)) => Ok(Err(error)),
            Err(Failure::Engine(error)) => Err(*error),
        }
    }
}

fn insert(
    transaction: &WriteTransaction,
    collection: Collection,
    id: &str,
    body: &[u8],
    most: Option<u64>,
    refers_to: Option<(Collection, &str)>,
) -> Result<u64, Failure> {
    if let Some((kind, id)) = refers_to
        && transaction.open_table(objects(kind))?.get(id)?.is_none()
    {
        return Err(StoreError::Missing.into());
    }
    let mut objects = transaction.open_table(objects(collection))?;
    match most {
        Some(most) if objects.len()? >= most => return Err(StoreError::Full(most).into()),
        _ => {}
    }
    if objects.get(id)?.is_some() {
        return Err(StoreError::Exists.into());
    }
    let version = next_version(transaction, collection)?;
    objects.insert(id, (version, body))?;
    transaction.open_table(changed(collection))?.insert(version, id)?;
    if let Some((kind, target)) = refers_to {
        let (name, from) = (kind.name(), collection.name());
        transaction.open_table(REFERENCES)?.insert((from, id), (name, target))?;
        transaction.open_table(REFERRED)?.insert((name, target, from, id), ())?;
    }
    Ok(version)
}

fn replace(
    transaction: &WriteTransaction,
    collection: Collection,
    id: &str,
    expected: u64,
    body: &[u8],
) -> Result<u64, Failure> {
    let mut objects = transaction.open_table(objects(collection))?;
    let found = objects.get(id)?.map(|object| object.value().0);
    let found = expect(found, Some(expected))?;
    let version = next_version(transaction, collection)?;
    objects.insert(id, (version, body))?;
    let mut changed = transaction.open_table(changed(collection))?;
    changed.remove(found)?;
    changed.insert(version, id)?;
    Ok(version)
}

fn remove(
    transaction: &WriteTransaction,
    collection: Collection,
    id: &str,
    expected: Option<u64>,
    remembered: u64,
) -> Result<u64, Failure> {
    let mut objects = transaction.open_table(objects(collection))?;
    let found = objects.get(id)?.map(|object| object.value().0);
    let found = expect(found, expected)?;
    let mut referred = transaction.open_table(REFERRED)?;
    let (name, after) = (collection.name(), format!("{id}\0"));
    if let Some(by) = referred.range((name, id, "", "")..(name, &*after, "", ""))?.next() {
        return Err(StoreError::Referenced(by?.0.value().3.into()).into());
    }
    let version = next_version(transaction, collection)?;
    objects.remove(id)?;
    transaction.open_table(changed(collection))?.remove(found)?;
    transaction.open_table(removed(collection))?.insert(version, id)?;
    let mut references = transaction.open_table(REFERENCES)?;
    if let Some(target) = references.remove((collection.name(), id))? {
        let (name, target) = target.value();
        referred.remove((name, target, collection.name(), id))?;
    }
    forget(transaction, collection, remembered)?;
    Ok(version)
}

fn next_version(transaction: &WriteTransaction, collection: Collection) -> Result<u64, Failure> {
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(VERSION)?.map_or(0, |v| v.value()) + 1;
    meta.insert(VERSION, version)?;
    meta.insert(KEPT, version)?;
    meta.insert(&*last(collection), version)?;
    Ok(version)
}

/// The version found, if that is one to be changed.
fn expect(found: Option<u64>, expected: Option<u64>) -> Result<u64, StoreError> {
    match (found, expected) {
        (None, _) => Err(StoreError::Missing),
        (Some(found), Some(expected)) if found != expected => {
            Err(StoreError::Changed { expected, found })
        }
        (Some(found), _) => Ok(found),
    }
}
