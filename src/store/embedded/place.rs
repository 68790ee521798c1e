//! The place of the store: its file, and a small file beside it with the identity of the directory.
//!
//! A directory whose file is lost must not begin again, empty, unnoticed: its followers would trust
//! nothing, or hold an empty list back for days.  A file that is replaced while it is open is another
//! file: changes that are written to the open one are lost with the restart.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::runtime::atomic::{self, AtomicError};
use crate::runtime::state_files;
use crate::store::objects::StoreError;

/// Forms of the identity file: the current one.
const FORMS: [&str; 1] = ["directory-identity/1"];
/// Longest identity in bytes.
const MAX_IDENTITY: u64 = 64;

/// Device and number of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// Path of the store.
pub(super) struct Place {
    path: PathBuf,
}

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn identity_file(&self) -> PathBuf {
        self.path.with_extension("identity")
    }

    /// Describes why the file cannot be a store.
    pub(super) fn fault(&self) -> Option<String> {
        match fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > 0 => None,
            Ok(_) => Some("is empty".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is missing".to_owned()),
            Err(error) => Some(format!("cannot be used: {error}")),
        }
    }

    /// Reads the identity of the directory that was here.  Returns `None` if none was.
    ///
    /// # Errors
    /// The identity file is not usable, or it exists and the store is missing or empty.
    pub(super) fn known_identity(&self) -> Result<Option<String>, StoreError> {
        let Some(identity) = self.noted_identity()? else { return Ok(None) };
        match self.fault() {
            None => Ok(Some(identity)),
            Some(fault) => Err(self.lost(&fault)),
        }
    }

    /// Reads the identity file.
    pub(super) fn noted_identity(&self) -> Result<Option<String>, StoreError> {
        match atomic::read(&self.identity_file(), &FORMS, MAX_IDENTITY) {
            Ok(loaded) => Ok(Some(String::from_utf8_lossy(&loaded.payload).into_owned())),
            Err(AtomicError::Missing(_)) => Ok(None),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    }

    /// The error of a store that is not the one of the identity file.
    pub(super) fn lost(&self, fault: &str) -> StoreError {
        StoreError::Unavailable(format!(
            "{} {fault}, and {} shows that a directory was here: put the file or a copy of it back, or \
             run `anchorgate directory restore BACKUP --offline CONFIG`. To begin with an empty directory, \
             remove both",
            self.path.display(),
            self.identity_file().display()
        ))
    }

    /// Checks that the store is not a symbolic link, which the database engine would follow.
    pub(super) fn refuse_link(&self) -> Result<(), StoreError> {
        state_files::check(&self.path)
            .map_err(|error| StoreError::Unavailable(format!("{}: {error}", self.path.display())))
    }

    /// Writes the identity file.
    pub(super) fn note_identity(&self, identity: &str) -> Result<(), StoreError> {
        let file = self.identity_file();
        atomic::write(&file, FORMS[0], identity.as_bytes())
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        // The replaced file would be read once the operator has removed the present one.
        match fs::remove_file(file.with_extension("identity.1")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Unavailable(format!("{}.1: {error}", file.display())))
            }
            _ => Ok(()),
        }
    }

    /// Writes the identity of a restored store to the identity file.  If that fails, the next start
    /// repeats it: the store knows the identity that it replaced.
    pub(super) fn follow(&self, identity: &str) {
        if let Err(error) = self.note_identity(identity) {
            warn!(
                "directory restored, but not its identity file, which the next start writes: {error}"
            );
        }
    }

    /// Path of a file that can replace the store.  Removes the one that an interrupted restore left.
    pub(super) fn new_file(&self) -> Result<PathBuf, StoreError> {
        let new = self.path.with_extension("redb.new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Unavailable(format!("{}: {error}", new.display())))
            }
            _ => Ok(new),
        }
    }

    /// Replaces the store by the file `new`.
    pub(super) fn put(&self, new: &Path) -> Result<(), StoreError> {
        let put = || {
            fs::rename(new, &self.path)?;
            // The rename is durable once the folder is synced.
            self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        put().map_err(|error| StoreError::Unavailable(format!("{}: {error}", self.path.display())))
    }

    /// Identifies the file that is at the path now.
    pub(super) fn file_id(&self) -> Result<FileId, StoreError> {
        match fs::metadata(&self.path) {
            Ok(metadata) => Ok(FileId::of(&metadata)),
            Err(error) => Err(StoreError::Unavailable(format!("{}: {error}", self.path.display()))),
        }
    }

    /// Checks that the file at the path is `open`, the one that is in use.
    ///
    /// # Errors
    /// It was replaced or removed.
    pub(super) fn check(&self, open: FileId) -> Result<(), StoreError> {
        let fault = match self.file_id() {
            Ok(found) if found == open => return Ok(()),
            Ok(_) => "was replaced",
            Err(_) => "is missing",
        };
        Err(StoreError::Unavailable(format!(
            "{} {fault} while it is in use: changes are refused, and reads show the earlier file. Move the \
             earlier file back, or restart the gateway to use the new one",
            self.path.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use crate::store::embedded::Embedded;

    #[test]
    fn a_store_behind_a_link_is_not_opened() {
        let folder = tempfile::tempdir().expect("a folder");
        let (target, link) =
            (folder.path().join("other.redb"), folder.path().join("directory.redb"));
        std::os::unix::fs::symlink(&target, &link).expect("linked");
        let error = Embedded::open(&link).err().expect("a link").to_string();
        assert!(error.contains("directory.redb: a symbolic link is not followed"), "{error}");
        assert!(!target.exists(), "nothing was created");
    }
}
