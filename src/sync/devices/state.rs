//! The registry on disk: what a gateway starts with, and from where it goes on.
//!
//! The deltaLink is kept with the devices that it stands for: after a start the directory is asked for
//! what changed since, however long ago that was.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use url::Url;

use crate::runtime::atomic::{self, AtomicError};
use crate::trust::devices::DeviceRegistry;
use crate::x509::time::Timestamp;

/// What the file is, and the version of its form: a line of JSON, then the registry's bytes.
const KIND: &str = "devices/1";
/// Bytes of a file for each device that is allowed, and for the rest.
const MAX_FILE: (u64, u64) = (36, 16 * 1024 * 1024);

/// A registry that was in force.
#[derive(Debug)]
pub(super) struct LastGood {
    pub(super) registry: DeviceRegistry,
    /// Where to ask for what changed since.
    pub(super) cursor: String,
    /// When the directory last said so.
    pub(super) at: Timestamp,
    /// Why the newest file was passed over for its predecessor, if it was.
    pub(super) fell_back: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    /// Where the enumeration began: devices of one directory are nobody's in another.
    asked: String,
    delta_link: String,
    fetched_at: i64,
}

/// Writes the registry away.
pub(super) async fn save(
    path: &Path,
    asked: &Url,
    cursor: &Url,
    registry: DeviceRegistry,
    at: Timestamp,
) -> Result<(), String> {
    let (asked, delta_link) = (asked.to_string(), cursor.to_string());
    let head = Head { asked, delta_link, fetched_at: at.0 };
    let path = path.to_owned();
    let write = move || {
        let mut payload = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
        payload.push(b'\n');
        registry.write(&mut payload);
        atomic::write(&path, KIND, &payload).map_err(|error| error.to_string())
    };
    spawn_blocking(write).await.unwrap_or_else(|_| Err("the writing task ended early".into()))
}

/// Reads the registry of the last run; `None` when there never was one of what is `asked`.
pub(super) async fn load(
    path: PathBuf,
    asked: Url,
    max_devices: usize,
) -> Result<Option<LastGood>, String> {
    let limit = MAX_FILE.0.saturating_mul(max_devices as u64).saturating_add(MAX_FILE.1);
    let read = move || match atomic::read(&path, KIND, limit) {
        Ok(loaded) => {
            let failed = |why: String| format!("{}: {why}", path.display());
            let (head, registry) = decode(&loaded.payload, max_devices).map_err(failed)?;
            if head.asked != asked.as_str() {
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
    spawn_blocking(read).await.unwrap_or_else(|_| Err("the reading task ended early".into()))
}

fn decode(payload: &[u8], max_devices: usize) -> Result<(Head, DeviceRegistry), String> {
    let end = payload.iter().position(|&b| b == b'\n').ok_or("no first line")?;
    let head = serde_json::from_slice(&payload[..end]).map_err(|error| error.to_string())?;
    let registry = DeviceRegistry::read(&payload[end + 1..], max_devices);
    Ok((head, registry.map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::devices::{Change, DeviceKey, News, ObjectKey};

    fn registry(devices: usize) -> DeviceRegistry {
        let change = |n: usize| Change {
            object: ObjectKey::of(&n.to_string()),
            news: News::Is {
                device: Some(Some(DeviceKey::of(&format!("device-{n}")))),
                enabled: Some(n.is_multiple_of(2)),
                known_to: None,
            },
        };
        let changes: Vec<_> = (0..devices).map(change).collect();
        DeviceRegistry::default().changed(&changes, devices).expect("within the limit").0
    }

    #[tokio::test]
    async fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("devices");
        let url = |text: &str| Url::parse(text).expect("a URL");
        let (asked, cursor) = (url("https://g.example/delta"), url("https://g.example/delta?t=1"));
        let load = |asked: &Url, most| load(path.clone(), asked.clone(), most);
        assert!(load(&asked, 10).await.expect("no error").is_none());
        let devices = registry(10);
        save(&path, &asked, &cursor, devices.clone(), Timestamp(7)).await.expect("saved");
        let last = load(&asked, 10).await.expect("no error").expect("a registry");
        assert!(devices.difference(&last.registry).is_empty());
        assert_eq!((last.at, last.cursor), (Timestamp(7), cursor.to_string()));
        let elsewhere = url("https://other.example/delta");
        assert!(load(&elsewhere, 10).await.expect("no error").is_none(), "another directory's");
        let error = load(&asked, 9).await.expect_err("above the limit");
        assert!(error.contains("10 devices; at most 9"), "{error}");
    }
}
