//! The saved registry: the devices that a gateway starts with, and the delta link that stands for them.
//!
//! After a start the changes since then are requested, however long ago that is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use url::Url;

use crate::runtime::atomic::{self, AtomicError};
use crate::trust::devices::DeviceRegistry;
use crate::x509::time::Timestamp;

/// Kind and version of the file.  Its payload is one line of JSON, then the registry's bytes.
const KIND: &str = "devices/1";
/// Largest file: bytes for each device that is allowed.
const MAX_FILE_PER_DEVICE: u64 = 36;
/// Largest file: bytes for everything else.
const MAX_FILE_BASE: u64 = 16 * 1024 * 1024;

/// A saved registry.
#[derive(Debug)]
pub(super) struct LastGood {
    pub(super) registry: DeviceRegistry,
    /// Delta link that stands for these devices.
    pub(super) cursor: String,
    /// Time at which the directory confirmed them.
    pub(super) at: Timestamp,
    /// The newest file was not usable for this reason; its predecessor was read.
    pub(super) fell_back: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    /// URL of the enumeration.  The devices of one directory must not be used for another.
    #[serde(rename = "asked")]
    start: String,
    delta_link: String,
    fetched_at: i64,
}

/// Saves a registry that was enumerated at `start` and confirmed at `at`.
pub(super) async fn save(
    path: &Path,
    start: &Url,
    cursor: &Url,
    registry: DeviceRegistry,
    at: Timestamp,
) -> Result<(), String> {
    let (start, delta_link) = (start.to_string(), cursor.to_string());
    let head = Head { start, delta_link, fetched_at: at.0 };
    let path = path.to_owned();
    let write = move || {
        let mut payload = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
        payload.push(b'\n');
        registry.write(&mut payload);
        atomic::write(&path, KIND, &payload).map_err(|error| error.to_string())
    };
    spawn_blocking(write).await.unwrap_or_else(|_| Err("the write was aborted".into()))
}

/// Reads the saved registry.  Returns `None` if no file exists that was enumerated at `start`.
pub(super) async fn load(
    path: PathBuf,
    start: Url,
    max_devices: usize,
) -> Result<Option<LastGood>, String> {
    let limit = MAX_FILE_PER_DEVICE.saturating_mul(max_devices as u64);
    let limit = limit.saturating_add(MAX_FILE_BASE);
    let read = move || match atomic::read(&path, KIND, limit) {
        Ok(loaded) => {
            let failed = |why: String| format!("{}: {why}", path.display());
            let (head, registry) = decode(&loaded.payload, max_devices).map_err(failed)?;
            if head.start != start.as_str() {
                return Ok(None);
            }
            Ok(Some(LastGood {
                registry,
                cursor: head.delta_link,
                at: Timestamp(head.fetched_at),
                fell_back: loaded.fell_back.map(|e| e.to_string()),
            }))
        }
        Err(AtomicError::Missing(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    spawn_blocking(read).await.unwrap_or_else(|_| Err("the read was aborted".into()))
}

fn decode(payload: &[u8], max_devices: usize) -> Result<(Head, DeviceRegistry), String> {
    let end = payload.iter().position(|&b| b == b'\n').ok_or("the first line is missing")?;
    let head = serde_json::from_slice(&payload[..end]).map_err(|error| error.to_string())?;
    let registry = DeviceRegistry::read(&payload[end + 1..], max_devices);
    Ok((head, registry.map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::devices::{Change, DeviceKey, NewState, ObjectKey};

    fn registry(devices: usize) -> DeviceRegistry {
        let change = |n: usize| Change {
            object: ObjectKey::of(&n.to_string()),
            state: NewState::Is {
                device: Some(Some(DeviceKey::of(&format!("device-{n}")))),
                enabled: Some(n.is_multiple_of(2)),
                known_to: None,
            },
        };
        let changes: Vec<_> = (0..devices).map(change).collect();
        DeviceRegistry::default().changed(&changes, devices).expect("within the limit").0
    }

    #[tokio::test]
    async fn loads_the_saved_registry() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("devices");
        let url = |text: &str| Url::parse(text).expect("a URL");
        let (start, cursor) = (url("https://g.example/delta"), url("https://g.example/delta?t=1"));
        let load = |start: &Url, most| load(path.clone(), start.clone(), most);
        assert!(load(&start, 10).await.expect("no error").is_none());
        let devices = registry(10);
        save(&path, &start, &cursor, devices.clone(), Timestamp(7)).await.expect("saved");
        let last = load(&start, 10).await.expect("no error").expect("a registry");
        assert!(devices.difference(&last.registry).is_empty());
        assert_eq!((last.at, last.cursor), (Timestamp(7), cursor.to_string()));
        let elsewhere = url("https://other.example/delta");
        assert!(load(&elsewhere, 10).await.expect("no error").is_none(), "of another directory");
        let error = load(&start, 9).await.expect_err("above the limit");
        assert!(error.contains("10 devices; at most 9"), "{error}");
    }
}
