//! Lists in mounted files.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use tokio::sync::mpsc::Sender;

use crate::crl::transport::{FetchError, Fetched, Validators};

/// The files that are being read.  A thread that waits for a dead disk cannot be cancelled, so there is
/// at most one for each file.
#[derive(Debug, Clone, Default)]
pub(super) struct ActiveReads(Arc<Mutex<HashSet<PathBuf>>>);

/// Marks one file as being read until this is dropped.
pub(super) struct ReadGuard(ActiveReads, PathBuf);

impl ActiveReads {
    pub(super) fn begin(&self, path: &Path) -> Result<ReadGuard, FetchError> {
        let mut active = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match active.insert(path.to_owned()) {
            true => Ok(ReadGuard(self.clone(), path.to_owned())),
            false => Err(FetchError::StillReading(path.display().to_string())),
        }
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        let Self(ActiveReads(active), path) = self;
        active.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }
}

/// Reads a file.  Other programs may replace it by any means, so the path is opened for each read.
pub(super) fn read(
    path: &Path,
    known: Option<&Validators>,
    limit: u64,
    out: &Sender<Bytes>,
) -> Result<Fetched, FetchError> {
    // Check before opening: opening a named pipe waits for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(FetchError::Address(format!("{} is not a file", path.display())));
    }
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() > limit {
        return Err(FetchError::TooLarge { bytes: metadata.len(), limit });
    }
    let validators = Validators { etag: None, last_modified: Some(version(&metadata)) };
    if known == Some(&validators) {
        return Ok(Fetched { unchanged: true, validators, max_age: None });
    }
    let mut total = 0u64;
    loop {
        let mut piece = vec![0; 64 * 1024];
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(Fetched { unchanged: false, validators, max_age: None });
        }
        total += read as u64;
        if total > limit {
            return Err(FetchError::TooLarge { bytes: total, limit });
        }
        piece.truncate(read);
        out.blocking_send(piece.into()).map_err(|_| FetchError::Stopped)?;
    }
}

/// Length, modification time and, on Unix, device and inode: a replaced file has another version.
fn version(metadata: &Metadata) -> String {
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
        .unwrap_or_default();
    #[cfg(unix)]
    let identity = {
        use std::os::unix::fs::MetadataExt as _;
        format!("{}-{}", metadata.dev(), metadata.ino())
    };
    #[cfg(not(unix))]
    let identity = "";
    format!("{}-{}-{identity}", metadata.len(), modified.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crl::transport::{Config, Location, Transport};
    use std::time::Duration;

    #[tokio::test]
    async fn a_file_that_hangs_blocks_at_most_one_thread() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("1.crl");
        std::fs::write(&path, vec![0; 200_000]).expect("room");
        let timeout = Duration::from_millis(20);
        let transport = Transport::new(Config { files: true, timeout, ..Config::default() });
        let transport = transport.expect("a transport");
        let location = Location::File(path);
        let fetch = |out| transport.fetch(&location, None, false, out);
        // The pieces are not received, so the read blocks.
        let (out, pieces) = tokio::sync::mpsc::channel(1);
        assert!(matches!(fetch(out).await, Err(FetchError::Timeout(_))));
        let (out, _) = tokio::sync::mpsc::channel(1);
        assert!(matches!(fetch(out).await, Err(FetchError::StillReading(_))));
        drop(pieces);
        while !transport.active_reads.0.lock().expect("no panic").is_empty() {
            tokio::task::yield_now().await;
        }
        let (out, pieces) = tokio::sync::mpsc::channel(8);
        assert!(fetch(out).await.is_ok(), "as before");
        drop(pieces);
    }
}
