//! Backup of the file while it is in use, and its replacement by a backup.

use std::fs::File;
use std::io::{BufWriter, Seek as _, Write as _};

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, WriteTransaction};

use crate::store::backup::{self, Backup, Entry, Reference, Writer};
use crate::store::embedded::failure::Failure;
use crate::store::embedded::tables::{
    DIRECTORY, INDEXED, META, REFERENCES, REFERRERS, REPLACED, TEXTS, VERSION, changed, objects,
    prepare, removed,
};
use crate::store::objects::{Collection, StoreError};

/// Writes the state that `transaction` sees to `file`, and waits until it is on disk.
pub(super) fn write(transaction: &ReadTransaction, file: File) -> Result<Backup, Failure> {
    let failed = |error| StoreError::Refused(format!("the backup cannot be written: {error}"));
    let directory = transaction.open_table(TEXTS)?.get(DIRECTORY)?;
    let directory = directory.map_or_else(String::new, |text| text.value().to_owned());
    let version = transaction.open_table(META)?.get(VERSION)?.map_or(0, |v| v.value());
    let out = BufWriter::new(file);
    let mut writer = Writer::start(out, directory, version).map_err(failed)?;
    for collection in Collection::ALL {
        for object in transaction.open_table(objects(collection))?.iter()? {
            let (id, object) = object?;
            let (version, body) = object.value();
            writer.object(collection, id.value(), version, body).map_err(failed)?;
        }
    }
    for reference in transaction.open_table(REFERENCES)?.iter()? {
        let (from, to) = reference?;
        writer.reference(from.value(), to.value()).map_err(failed)?;
    }
    let (mut out, backup) = writer.end().map_err(failed)?;
    out.flush().and_then(|()| out.get_ref().sync_all()).map_err(failed)?;
    Ok(backup)
}

/// Checks a backup without using it.
pub(super) fn check(file: &File) -> Result<Backup, StoreError> {
    backup::read(rewound(file)?, |_| Ok(()))
}

/// The directory that a restore replaces.
#[derive(Default)]
pub(super) struct Present {
    /// Its identity, if it is known.
    pub(super) directory: Option<String>,
    /// Identity that the last restore replaced.
    pub(super) replaced: Option<String>,
    /// Version of its last change, or 0 if it cannot be read.
    pub(super) version: u64,
    /// True if it has an object, or cannot be read and may have one.
    pub(super) has_objects: bool,
}

impl Present {
    pub(super) fn read(transaction: &ReadTransaction) -> Result<Self, Failure> {
        let texts = transaction.open_table(TEXTS)?;
        let mut present = Self {
            directory: texts.get(DIRECTORY)?.map(|text| text.value().to_owned()),
            replaced: texts.get(REPLACED)?.map(|text| text.value().to_owned()),
            version: transaction.open_table(META)?.get(VERSION)?.map_or(0, |v| v.value()),
            has_objects: false,
        };
        for collection in Collection::ALL {
            present.has_objects |= !transaction.open_table(objects(collection))?.is_empty()?;
        }
        Ok(present)
    }

    /// Checks that `backup` may replace this directory: it is a backup of it, or nothing is lost.
    pub(super) fn accept(&self, backup: &Backup) -> Result<(), StoreError> {
        if !self.has_objects || self.directory.as_ref() == Some(&backup.directory) {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "the backup is of another directory, {}, and this one, {}, is not empty: it is unchanged. \
             `--accept-other-directory` replaces it nevertheless",
            backup.directory,
            self.directory.as_deref().unwrap_or("of unknown identity")
        )))
    }
}

/// Replaces all objects and the identity by those of `file`, which was checked to be `backup`, and begins
/// a new history.  `noted` is the identity in the identity file.  Returns the version of all collections.
pub(super) fn restore(
    transaction: &WriteTransaction,
    file: &File,
    backup: &Backup,
    present: &Present,
    noted: Option<&str>,
) -> Result<u64, Failure> {
    for collection in Collection::ALL {
        transaction.delete_table(objects(collection))?;
        transaction.delete_table(changed(collection))?;
        transaction.delete_table(removed(collection))?;
    }
    transaction.delete_table(REFERENCES)?;
    transaction.delete_table(REFERRERS)?;
    if backup::read(rewound(file)?, |entry| insert(transaction, &entry))? != *backup {
        let why = "the backup was changed while it was read. The directory is unchanged";
        return Err(StoreError::Refused(why.into()).into());
    }
    // Above all versions that an administrator can have seen, so that `If-Match` with an entity tag of the
    // old history does not match another object.
    let version = present.version.max(backup.version) + 1;
    {
        let mut texts = transaction.open_table(TEXTS)?;
        texts.insert(DIRECTORY, &*backup.directory)?;
        if let Some(noted) = noted {
            texts.insert(REPLACED, noted)?;
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(VERSION, version)?;
        meta.remove(INDEXED)?;
    }
    prepare(transaction)?;
    Ok(version)
}

fn insert(transaction: &WriteTransaction, entry: &Entry) -> Result<(), Failure> {
    let refuse = |why: String| {
        StoreError::Refused(format!("the backup is not valid: {why}. The directory is unchanged"))
    };
    match entry {
        Entry::Object(collection, object) => {
            let mut objects = transaction.open_table(objects(*collection))?;
            let value = (object.version, &*object.body);
            if objects.insert(&*object.id, value)?.is_some() {
                return Err(refuse(format!("the object {:?} is there twice", object.id)).into());
            }
        }
        Entry::Reference(Reference { from, to }) => {
            for (name, id) in [from, to] {
                let kind = Collection::ALL.into_iter().find(|kind| kind.name() == name);
                let exists = match kind {
                    Some(kind) => transaction.open_table(objects(kind))?.get(&**id)?.is_some(),
                    None => false,
                };
                if !exists {
                    return Err(
                        refuse(format!("the object {id:?} of a reference is missing")).into()
                    );
                }
            }
            let mut references = transaction.open_table(REFERENCES)?;
            references.insert((&*from.0, &*from.1), (&*to.0, &*to.1))?;
        }
    }
    Ok(())
}

fn rewound(mut file: &File) -> Result<&File, StoreError> {
    let failed = |error| StoreError::Refused(format!("the backup cannot be read: {error}"));
    file.rewind().map_err(failed)?;
    Ok(file)
}
