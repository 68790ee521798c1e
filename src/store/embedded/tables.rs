//! How the file is laid out, and how a file of an earlier program is brought up to it.
//!
//! Objects and references are the truth; what is kept by version, and who refers to an object, follows
//! from them.  A program that knows only the objects leaves the rest behind: the number of the change
//! up to which the rest is kept tells, and it is made anew.

use redb::{
    MultimapTableDefinition, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};

use crate::runtime::random::guid;
use crate::store::embedded::Failure;
use crate::store::objects::Collection;

/// The name of an object's table, and its id.
pub(super) type Name<'a> = (&'a str, &'a str);
/// An object's version and bytes, by id.
type Objects = TableDefinition<'static, &'static str, (u64, &'static [u8])>;
/// Ids by version.
type Ids = TableDefinition<'static, u64, &'static str>;

/// The object that an object refers to, both by the names of their tables and their ids.
pub(super) const REFERENCES: TableDefinition<'static, Name<'static>, Name<'static>> =
    TableDefinition::new("references");
/// The same the other way round: an object, and one that refers to it.
pub(super) const REFERRED: TableDefinition<'static, (&str, &str, &str, &str), ()> =
    TableDefinition::new("referred");
/// What the first program had instead of [`REFERRED`].
const REFERRERS: MultimapTableDefinition<'static, Name<'static>, Name<'static>> =
    MultimapTableDefinition::new("referrers");
/// Numbers by name.
pub(super) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
/// Texts by name.
pub(super) const TEXTS: TableDefinition<'static, &'static str, &'static str> =
    TableDefinition::new("texts");
/// The number of the last change.
pub(super) const VERSION: &str = "version";
/// The number of the change up to which the tables beside the objects are kept.
pub(super) const KEPT: &str = "kept";
/// What tells this file from any other.
pub(super) const IDENTITY: &str = "identity";

pub(super) fn objects(collection: Collection) -> Objects {
    TableDefinition::new(collection.name())
}

/// Objects by the version of their last change.
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

/// The removals that are remembered, by version.
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

/// In [`META`]: the version of a collection's last change.
pub(super) fn last(collection: Collection) -> String {
    format!("{} last", collection.name())
}

/// In [`META`]: the version up to which removals are not remembered.
pub(super) fn forgotten(collection: Collection) -> String {
    format!("{} forgotten", collection.name())
}

/// Makes every table, so that a reader never meets a missing one.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), Failure> {
    for collection in Collection::ALL {
        transaction.open_table(objects(collection))?;
        transaction.open_table(changed(collection))?;
        transaction.open_table(removed(collection))?;
    }
    transaction.open_table(REFERENCES)?;
    transaction.open_table(REFERRED)?;
    let mut texts = transaction.open_table(TEXTS)?;
    if texts.get(IDENTITY)?.is_none() {
        texts.insert(IDENTITY, &*guid())?;
    }
    let mut meta = transaction.open_table(META)?;
    let version = meta.get(VERSION)?.map_or(0, |v| v.value());
    let kept = meta.get(KEPT)?.map(|v| v.value());
    if kept == Some(version) {
        return Ok(());
    }
    for collection in Collection::ALL {
        let mut changed = transaction.open_table(changed(collection))?;
        changed.retain(|_, _| false)?;
        for object in transaction.open_table(objects(collection))?.iter()? {
            let (id, object) = object?;
            changed.insert(object.value().0, id.value())?;
        }
        transaction.open_table(removed(collection))?.retain(|_, _| false)?;
        // What was changed and removed is not known: all of it may have been.
        meta.insert(&*last(collection), version)?;
        meta.insert(&*forgotten(collection), version)?;
    }
    transaction.delete_multimap_table(REFERRERS)?;
    let mut referred = transaction.open_table(REFERRED)?;
    referred.retain(|_, ()| false)?;
    for reference in transaction.open_table(REFERENCES)?.iter()? {
        let (from, target) = reference?;
        let ((from_name, from_id), (name, id)) = (from.value(), target.value());
        referred.insert((name, id, from_name, from_id), ())?;
    }
    meta.insert(KEPT, version)?;
    Ok(())
}

/// Removals forgotten when more than `most` are remembered.
pub(super) fn forget(
    transaction: &WriteTransaction,
    collection: Collection,
    most: u64,
) -> Result<(), Failure> {
    let mut removed = transaction.open_table(removed(collection))?;
    let mut newest = None;
    while removed.len()? > most {
        newest = removed.pop_first()?.map(|(version, _)| version.value());
    }
    if let Some(version) = newest {
        transaction.open_table(META)?.insert(&*forgotten(collection), version)?;
    }
    Ok(())
}
