//! Layout of the file, and the upgrade of files from earlier program versions.
//!
//! Objects and references are the primary data.  The indexes by version and by referenced object are
//! derived from them.  An earlier program version changes only the primary data.  [`INDEXED`] is the
//! version up to which the indexes are current: if it is not the last version, they are rebuilt.

use redb::{
    MultimapTableDefinition, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};

use crate::runtime::random::guid;
use crate::store::embedded::failure::Failure;
use crate::store::objects::{Collection, StoreError};

/// Name of an object's table, and the id of the object.
type Name<'a> = (&'a str, &'a str);
/// Version and bytes of each object, by id.
type Objects = TableDefinition<'static, &'static str, (u64, &'static [u8])>;
/// Ids by version.
type Ids = TableDefinition<'static, u64, &'static str>;

/// Target of each reference, by the object that refers to it.
pub(super) const REFERENCES: TableDefinition<'static, Name<'static>, Name<'static>> =
    TableDefinition::new("references");
/// Index of the references by target: table and id of the target, then table and id of the referrer.
pub(super) const REFERRERS: TableDefinition<'static, (&str, &str, &str, &str), ()> =
    TableDefinition::new("referred");
/// Predecessor of [`REFERRERS`] in the first program version.
const OLD_REFERRERS: MultimapTableDefinition<'static, Name<'static>, Name<'static>> =
    MultimapTableDefinition::new("referrers");
/// Numbers by name.
pub(super) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
/// Texts by name.
pub(super) const TEXTS: TableDefinition<'static, &'static str, &'static str> =
    TableDefinition::new("texts");
/// In [`META`]: version of the last change.
pub(super) const VERSION: &str = "version";
/// In [`META`]: version up to which the indexes are current.
pub(super) const INDEXED: &str = "kept";
/// In [`TEXTS`]: identity of the history that began when the file was opened.
pub(super) const IDENTITY: &str = "identity";
/// In [`TEXTS`]: identity of the directory, which all copies and restored backups share.
pub(super) const DIRECTORY: &str = "directory";
/// In [`TEXTS`]: identity of the directory that a restore replaced.  The identity file still names it if
/// the process ended directly after the restore.
pub(super) const REPLACED: &str = "replaced";

pub(super) fn objects(collection: Collection) -> Objects {
    TableDefinition::new(collection.name())
}

/// Index of the objects by the version of their last change.
pub(super) fn changed(collection: Collection) -> Ids {
    TableDefinition::new(match collection {
        Collection::MutualTlsOauthConfigurations => "mutualTlsOauthConfigurations changed",
        Collection::ApplicationConfigurations => {
            "certificateBasedApplicationConfigurations changed"
        }
        Collection::DeviceTemplates => "deviceTemplates changed",
        Collection::Devices => "devices changed",
    })
}

/// Kept removals, by version.
pub(super) fn removed(collection: Collection) -> Ids {
    TableDefinition::new(match collection {
        Collection::MutualTlsOauthConfigurations => "mutualTlsOauthConfigurations removed",
        Collection::ApplicationConfigurations => {
            "certificateBasedApplicationConfigurations removed"
        }
        Collection::DeviceTemplates => "deviceTemplates removed",
        Collection::Devices => "devices removed",
    })
}

/// In [`META`]: version of a collection's last change.
pub(super) fn last(collection: Collection) -> String {
    format!("{} last", collection.name())
}

/// In [`META`]: version up to which removals are no longer kept.
pub(super) fn expired(collection: Collection) -> String {
    format!("{} forgotten", collection.name())
}

/// Creates every table, so that readers never find one missing, and rebuilds outdated indexes.  Returns
/// the identity of the directory.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<String, Failure> {
    for collection in Collection::ALL {
        transaction.open_table(objects(collection))?;
        transaction.open_table(changed(collection))?;
        transaction.open_table(removed(collection))?;
    }
    transaction.open_table(REFERENCES)?;
    transaction.open_table(REFERRERS)?;
    let mut texts = transaction.open_table(TEXTS)?;
    // A file can be an older copy of itself.  Its next changes then get versions that readers have
    // already seen with other objects, so every opening begins a new history.
    texts.insert(IDENTITY, &*guid())?;
    let directory = texts.get(DIRECTORY)?.map(|text| text.value().to_owned());
    let directory = match directory {
        Some(directory) => directory,
        None => {
            let new = guid();
            texts.insert(DIRECTORY, &*new)?;
            new
        }
    };
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(VERSION)?.map_or(0, |v| v.value());
    let indexed = meta.get(INDEXED)?.map(|v| v.value());
    if indexed == Some(version) {
        return Ok(directory);
    }
    for collection in Collection::ALL {
        let mut changed = transaction.open_table(changed(collection))?;
        changed.retain(|_, _| false)?;
        for object in transaction.open_table(objects(collection))?.iter()? {
            let (id, object) = object?;
            let version = object.value().0;
            if changed.insert(version, id.value())?.is_some() {
                let why =
                    format!("two objects of {} have the version {version}", collection.name());
                return Err(StoreError::Refused(why).into());
            }
        }
        transaction.open_table(removed(collection))?.retain(|_, _| false)?;
        // The history is unknown: readers must read everything again.
        meta.insert(&*last(collection), version)?;
        meta.insert(&*expired(collection), version)?;
    }
    transaction.delete_multimap_table(OLD_REFERRERS)?;
    let mut referrers = transaction.open_table(REFERRERS)?;
    referrers.retain(|_, ()| false)?;
    for reference in transaction.open_table(REFERENCES)?.iter()? {
        let (from, target) = reference?;
        let ((from_name, from_id), (name, id)) = (from.value(), target.value());
        referrers.insert((name, id, from_name, from_id), ())?;
    }
    meta.insert(INDEXED, version)?;
    Ok(directory)
}

/// Deletes the oldest removals, so that at most `kept` are left.
pub(super) fn expire_removals(
    transaction: &WriteTransaction,
    collection: Collection,
    kept: u64,
) -> Result<(), Failure> {
    let mut removed = transaction.open_table(removed(collection))?;
    let mut newest = None;
    while removed.len()? > kept {
        newest = removed.pop_first()?.map(|(version, _)| version.value());
    }
    if let Some(version) = newest {
        transaction.open_table(META)?.insert(&*expired(collection), version)?;
    }
    Ok(())
}
