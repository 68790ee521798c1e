//! One process at a time in a data directory.
//!
//! # Why
//! Two that write the same state files mix them up.  The lock is on an open file, so that it ends with
//! the process however that ends.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// The right to write in a directory, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

/// Makes the directory if it is not there, for its owner alone, and claims it.
///
/// # Errors
/// The operating system's, or that another process has it; both name the directory.
pub fn claim(directory: &Path) -> io::Result<Claim> {
    let claim = || {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let path = directory.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Claim { _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process is using it"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    };
    claim().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", directory.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_claimed_once_at_a_time() {
        let parent = tempfile::tempdir().expect("a directory");
        let directory = parent.path().join("a/b");
        let first = claim(&directory).expect("free");
        let second = claim(&directory).expect_err("taken").to_string();
        assert!(second.contains("a/b: another process"), "{second}");
        drop(first);
        claim(&directory).expect("free again");
    }
}
