//! Exclusive use of a data directory by one process.
//!
//! # Design notes
//! Two processes that write the same state files corrupt them.  The lock is held on an open file, so
//! the operating system releases it when the process ends, also after a crash.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use crate::runtime::state_files;

/// An exclusive lock on a directory.  Dropping it releases the lock.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Locks `directory`.  Creates it with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// An error of the operating system, or another process holds the lock.  Both name the directory.
    pub fn acquire(directory: &Path) -> io::Result<Self> {
        let acquire = || {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let path = directory.join("lock");
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false);
            let file = state_files::open_with(&mut options, &path)?;
            match file.try_lock() {
                Ok(()) => Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) => Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    "another process is using it; stop that process, or choose another directory",
                )),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        acquire().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", directory.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_lock_at_a_time() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("a/b");
        let first = DirectoryLock::acquire(&directory).expect("free");
        let second = DirectoryLock::acquire(&directory).expect_err("locked").to_string();
        assert!(second.contains("a/b: another process"), "{second}");
        drop(first);
        DirectoryLock::acquire(&directory).expect("free again");
    }
}
