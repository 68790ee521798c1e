//! Reads files that an operator names (keys, certificates, tokens, settings) with a limit on their
//! size.
//!
//! # Design notes
//! The limit is applied while reading, not to the length that the file system reports: a device or
//! a pipe has no length, and a file can grow between the check and the read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct ReadFileError {
    /// Path of the file, or the name of the stream.
    pub path: PathBuf,
    /// Reason, without the path.
    pub cause: ReadFileCause,
}

/// Reason why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadFileCause {
    /// The operating system reported an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file has more bytes than the limit, which is given.
    #[error("longer than {0} bytes")]
    TooLong(u64),
}

/// Reads the whole file at `path`, which may have up to `limit` bytes.
///
/// # Errors
/// The file cannot be opened or read, or is longer than `limit`.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, ReadFileError> {
    let opened = File::open(path);
    let file = opened.map_err(|e| ReadFileError { path: path.to_owned(), cause: e.into() })?;
    read_bounded_from(file, path, limit)
}

/// Like [`read_bounded`], on a thread where blocking is allowed.
///
/// # Errors
/// As [`read_bounded`].
pub(crate) async fn read_bounded_async(
    path: impl Into<PathBuf>,
    limit: u64,
) -> Result<Vec<u8>, ReadFileError> {
    let path = path.into();
    let task = spawn_blocking({
        let path = path.clone();
        move || read_bounded(&path, limit)
    });
    match task.await {
        Ok(read) => read,
        // The runtime is shutting down.
        Err(error) => Err(ReadFileError { path, cause: io::Error::other(error).into() }),
    }
}

/// Like [`read_bounded`], for a stream such as standard input.  `name` appears in the error.
///
/// # Errors
/// The stream cannot be read, or is longer than `limit`.
pub(crate) fn read_bounded_from(
    stream: impl Read,
    name: impl AsRef<Path>,
    limit: u64,
) -> Result<Vec<u8>, ReadFileError> {
    let failed = |cause| ReadFileError { path: name.as_ref().to_owned(), cause };
    let mut bytes = Vec::new();
    // One byte past the limit distinguishes "exactly full" from "too long".
    let read = stream.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| failed(error.into()))?;
    if bytes.len() as u64 > limit {
        return Err(failed(ReadFileCause::TooLong(limit)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_file_is_read_up_to_the_limit_and_rejected() {
        let error = read_bounded(Path::new("/dev/zero"), 4096).expect_err("endless");
        assert_eq!(error.to_string(), "/dev/zero: longer than 4096 bytes");
    }

    #[tokio::test]
    async fn a_file_of_exactly_the_limit_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 16]).expect("written");
        assert_eq!(read_bounded_async(&path, 16).await.expect("read"), [7; 16]);
        assert!(read_bounded_async(&path, 15).await.is_err());
    }

    #[test]
    fn an_error_names_the_missing_file() {
        let error = read_bounded(Path::new("/nonexistent/key.pem"), 1).expect_err("missing");
        assert!(error.to_string().starts_with("/nonexistent/key.pem: "), "{error}");
    }
}
