//! Saved data: complete files, read and written off the runtime's threads.

use std::path::PathBuf;

use tokio::task::spawn_blocking;

use crate::runtime::atomic::{self, AtomicError};
use crate::x509::time::Timestamp;

/// Data that an earlier run saved.
#[derive(Debug)]
pub struct Saved<T> {
    /// The data.
    pub data: T,
    /// Time at which the directory confirmed it.
    pub at: Timestamp,
    /// The newest file was not usable for this reason; its predecessor was read.
    pub fell_back: Option<String>,
    /// The data may contain what the newest version had removed, for this reason.
    pub may_readmit: Option<String>,
}

/// Writes what `encode` returns to `path`.
pub(super) async fn write(
    path: PathBuf,
    kind: &'static str,
    encode: impl FnOnce() -> Result<Vec<u8>, String> + Send + 'static,
) -> Result<(), String> {
    let write = move || atomic::write(&path, kind, &encode()?).map_err(|error| error.to_string());
    spawn_blocking(write).await.unwrap_or_else(|_| Err("the write was aborted".into()))
}

/// Reads `path`, which has one of `forms` and may have `limit` bytes.  Returns `None` if it does not exist, or if `decode`
/// does.
pub(super) async fn read<T: Send + 'static>(
    path: PathBuf,
    forms: &'static [&'static str],
    limit: u64,
    decode: impl FnOnce(&[u8]) -> Result<Option<(T, Timestamp)>, String> + Send + 'static,
) -> Result<Option<Saved<T>>, String> {
    let read = move || {
        let loaded = match atomic::read(&path, forms, limit) {
            Ok(loaded) => loaded,
            Err(AtomicError::Missing(_)) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let decoded = decode(&loaded.payload);
        let decoded = decoded.map_err(|why| format!("{}: {why}", path.display()))?;
        let fell_back = loaded.fell_back.map(|error| error.to_string());
        Ok(decoded.map(|(data, at)| Saved { data, at, fell_back, may_readmit: None }))
    };
    spawn_blocking(read).await.unwrap_or_else(|_| Err("the read was aborted".into()))
}
