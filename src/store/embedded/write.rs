//! Changes and their application in batches.
//!
//! A commit waits for the disk.  The changes that arrive during one commit share the next one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use redb::{ReadableTable, ReadableTableMetadata, WriteTransaction};

use crate::store::embedded::failure::Failure;
use crate::store::embedded::tables::{
    INDEXED, META, REFERENCES, REFERRERS, VERSION, changed, expire_removals, last, objects, removed,
};
use crate::store::objects::{Collection, StoreError};

/// Maximum number of changes in one transaction.  It limits how long one change waits for others.
const BATCH: usize = 256;
/// Bytes of bodies in one transaction, unless one change alone has more.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Takes the oldest changes out of the queue, at most one batch.
pub(super) fn next_batch(queue: &mut Vec<Pending>) -> Vec<Pending> {
    let mut bytes = 0;
    let fits = |pending: &&Pending| {
        bytes += pending.length();
        bytes <= BATCH_BYTES
    };
    let number = queue.iter().take(BATCH).take_while(fits).count().max(1).min(queue.len());
    queue.drain(..number).collect()
}

/// Change of one collection.
pub(in crate::store) enum Write {
    /// Adds an object.
    Insert { id: String, body: Vec<u8>, most: Option<u64>, refers_to: Option<(Collection, String)> },
    /// Replaces the body of an object.
    Replace { id: String, expected: u64, body: Vec<u8> },
    /// Removes an object and keeps at most `kept_removals` removals.
    Remove { id: String, expected: Option<u64>, kept_removals: u64 },
}

/// Queued change, with the sender of its result.
pub(super) struct Pending {
    collection: Collection,
    write: Write,
    result: SyncSender<Result<u64, StoreError>>,
}

impl Pending {
    pub(super) fn new(
        collection: Collection,
        write: Write,
    ) -> (Self, Receiver<Result<u64, StoreError>>) {
        let (result, done) = sync_channel(1);
        (Self { collection, write, result }, done)
    }

    fn length(&self) -> usize {
        match &self.write {
            Write::Insert { body, .. } | Write::Replace { body, .. } => body.len(),
            Write::Remove { .. } => 0,
        }
    }

    pub(super) fn done(&self, result: Result<u64, StoreError>) {
        // The caller may no longer wait for the result.
        let _ = self.result.send(result);
    }

    /// Applies the change.  The rules are checked before anything is written, so that a rejected change
    /// has no effect on the transaction, which other changes share.
    pub(super) fn apply(
        &self,
        transaction: &WriteTransaction,
    ) -> Result<Result<u64, StoreError>, Failure> {
        let done = match &self.write {
            Write::Insert { id, body, most, refers_to } => {
                let target = refers_to.as_ref().map(|(kind, id)| (*kind, &**id));
                insert(transaction, self.collection, id, body, *most, target)
            }
            Write::Replace { id, expected, body } => {
                replace(transaction, self.collection, id, *expected, body)
            }
            Write::Remove { id, expected, kept_removals } => {
                remove(transaction, self.collection, id, *expected, *kept_removals)
            }
        };
        match done {
            Ok(version) => Ok(Ok(version)),
            Err(Failure::Rule(error)) => Ok(Err(error)),
            Err(failure) => Err(failure),
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
        transaction.open_table(REFERRERS)?.insert((name, target, from, id), ())?;
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
    kept_removals: u64,
) -> Result<u64, Failure> {
    let mut objects = transaction.open_table(objects(collection))?;
    let found = objects.get(id)?.map(|object| object.value().0);
    let found = expect(found, expected)?;
    let mut referrers = transaction.open_table(REFERRERS)?;
    let (name, after) = (collection.name(), format!("{id}\0"));
    if let Some(by) = referrers.range((name, id, "", "")..(name, &*after, "", ""))?.next() {
        return Err(StoreError::Referenced(by?.0.value().3.into()).into());
    }
    let version = next_version(transaction, collection)?;
    objects.remove(id)?;
    transaction.open_table(changed(collection))?.remove(found)?;
    transaction.open_table(removed(collection))?.insert(version, id)?;
    let mut references = transaction.open_table(REFERENCES)?;
    if let Some(target) = references.remove((collection.name(), id))? {
        let (name, target) = target.value();
        referrers.remove((name, target, collection.name(), id))?;
    }
    expire_removals(transaction, collection, kept_removals)?;
    Ok(version)
}

fn next_version(transaction: &WriteTransaction, collection: Collection) -> Result<u64, Failure> {
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(VERSION)?.map_or(0, |v| v.value()) + 1;
    meta.insert(VERSION, version)?;
    meta.insert(INDEXED, version)?;
    meta.insert(&*last(collection), version)?;
    Ok(version)
}

/// Returns the stored version if the object exists and has the expected version, if one is given.
fn expect(found: Option<u64>, expected: Option<u64>) -> Result<u64, StoreError> {
    match (found, expected) {
        (None, _) => Err(StoreError::Missing),
        (Some(found), Some(expected)) if found != expected => {
            Err(StoreError::Changed { expected, found })
        }
        (Some(found), _) => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_in_changes_and_bytes() {
        let change = |length: usize| {
            let write = Write::Replace { id: String::new(), expected: 1, body: vec![0; length] };
            Pending::new(Collection::Devices, write).0
        };
        for (lengths, batches) in [
            (vec![0; 600], &[256, 256, 88][..]),
            (vec![BATCH_BYTES / 2; 5], &[2, 2, 1]),
            (vec![1, BATCH_BYTES + 1, 1, 1], &[1, 1, 2]),
        ] {
            let mut queue: Vec<Pending> = lengths.into_iter().map(change).collect();
            let taken = std::iter::from_fn(|| Some(next_batch(&mut queue).len()));
            let taken: Vec<usize> = taken.take_while(|number| *number > 0).collect();
            assert_eq!(taken, batches);
        }
    }
}
