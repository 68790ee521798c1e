//! The copies of one address: read after a start, and removed when a newer list is in force.

use std::io;
use std::sync::Arc;

use tracing::warn;

use crate::crl::copy_key;
use crate::crl::persistence::{Metadata, Store};
use crate::crl::replacement::{self, Rejected};
use crate::crl::targets::Expected;
use crate::runtime::text::Cleaned;
use crate::x509::certificate::Certificate;
use crate::x509::crl::{ListReader, RevocationList};
use crate::x509::time::Timestamp;

/// The clock of the rules while copies are read.  The list was in force, so a thisUpdate in the future means
/// that the clock was set back.  The judge rejects such a list, and a present one with no lower number replaces
/// it.  Dropping it here would allow any older list.
const ANY_TIME: Timestamp = Timestamp(i64::MAX);

/// The address whose copies are read or removed.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) address: &'a str,
    pub(super) expected: &'a Expected,
    pub(super) signers: &'a [Arc<Certificate>],
}

/// A list that was read from disk.
pub(super) struct LoadedCopy {
    pub(super) list: Arc<RevocationList>,
    pub(super) metadata: Metadata,
    /// Key of the copy.
    pub(super) key: Arc<str>,
}

/// Reads the copies of an address.  Of two copies of one list, the newer one is used and the other one is
/// removed.  A copy of an earlier version, which has the address alone as its key, gets the key of its list.
pub(super) fn load(store: &Store, at: Place<'_>, limit: u64) -> Vec<LoadedCopy> {
    let mut loaded: Vec<LoadedCopy> = Vec::new();
    let mut outdated: Vec<Arc<str>> = Vec::new();
    for key in copy_key::all(at.address, at.expected, at.signers) {
        let (list, metadata) = match read(store, at, &key, limit) {
            Ok(Some(read)) => read,
            Ok(None) => continue,
            Err(error) => {
                warn!(crl.address = %Cleaned(at.address), %error, "CRL copy on disk not used");
                continue;
            }
        };
        let others = loaded.iter().map(|copy| &copy.list);
        match replacement::accept(at.expected, others, &list, ANY_TIME) {
            Ok(true) => {}
            Ok(false) | Err(Rejected::NumberWentDown { .. } | Rejected::Older { .. }) => {
                outdated.push(key.into());
                continue;
            }
            // The address is another one's now, or an earlier version kept the list of another issuer.
            Err(_) => continue,
        }
        let is_replaced =
            |copy: &mut LoadedCopy| replacement::replaces(at.expected, &list, &copy.list);
        outdated.extend(loaded.extract_if(.., is_replaced).map(|copy| copy.key));
        loaded.push(LoadedCopy { list, metadata, key: key.into() });
    }
    for key in outdated {
        store.report(at.address, store.remove(&key));
    }
    rename(store, at, &mut loaded);
    // The version of the last response belongs to the copy that was written last.
    loaded.sort_by_key(|copy| copy.metadata.fetched);
    loaded
}

/// Gives each copy the key of its list.
fn rename(store: &Store, at: Place<'_>, loaded: &mut [LoadedCopy]) {
    for index in 0..loaded.len() {
        let copy = &loaded[index];
        let key = copy_key::of(at.address, at.expected, &copy.list);
        if loaded.iter().all(|other| other.key != key)
            && store.report(at.address, store.rename(&copy.key, &key)).is_some()
        {
            loaded[index].key = key;
        }
    }
}

/// Reads and verifies one copy.
fn read(
    store: &Store,
    at: Place<'_>,
    key: &str,
    limit: u64,
) -> Result<Option<(Arc<RevocationList>, Metadata)>, String> {
    let mut reader = ListReader::new(limit);
    let feed = |piece: &[u8]| reader.feed(piece).map_err(io::Error::other);
    let loaded = store.load(key, feed).map_err(|error| error.to_string())?;
    let Some(metadata) = loaded else { return Ok(None) };
    let list = reader.finish(at.signers, ANY_TIME);
    list.map(|list| Some((Arc::new(list), metadata))).map_err(|error| error.to_string())
}

/// Removes the copies of older lists when `list` comes into force, whose copy is `copy`.  It has none if
/// the disk is full; removing a file needs no space.  A start without a list refuses devices until there is
/// one; a start with an older list would accept devices that were revoked since.
pub(super) fn remove_older(
    store: &Store,
    at: Place<'_>,
    in_force: &[Arc<RevocationList>],
    list: &RevocationList,
    copy: Option<&str>,
) {
    let mut older = copy_key::of_name(at.address, at.expected, &list.issuer);
    for old in in_force {
        let key = copy_key::of(at.address, at.expected, old);
        if replacement::replaces(at.expected, list, old) {
            older.insert(key.to_string());
        } else {
            older.remove(&*key);
        }
    }
    for key in older.iter().filter(|key| copy != Some(&**key)) {
        store.report(at.address, store.remove(key));
    }
}
