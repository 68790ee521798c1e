//! The last good list on disk: what a gateway starts with when its directory cannot be reached.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::graph::Collection;
use crate::graph::wire;
use crate::runtime::atomic::{self, AtomicError};
use crate::trust::configurations::AnchorSet;
use crate::x509::time::Timestamp;

/// What the file is, and the version of its form.
const fn kind(collection: Collection) -> &'static str {
    match collection {
        Collection::Devices => "anchors/1",
        Collection::Applications => "applications/1",
    }
}

/// Bytes of a file that are read.
const MAX_FILE: u64 = 512 * 1024 * 1024;

/// A list that was in force.
#[derive(Debug)]
pub struct LastGood {
    /// The list.
    pub set: AnchorSet,
    /// When the directory last said so.
    pub at: Timestamp,
    /// Why the newest file was passed over for its predecessor, if it was.
    pub fell_back: Option<String>,
}

/// Writes the list away.
pub async fn save(
    path: &Path,
    collection: Collection,
    set: &AnchorSet,
    at: Timestamp,
) -> Result<(), String> {
    let (path, json) = (path.to_owned(), encode(set, at));
    let write = move || atomic::write(&path, kind(collection), json.to_string().as_bytes());
    match spawn_blocking(write).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the writing task ended early".into()),
    }
}

/// Reads the list of the last run; `None` when there never was one.
pub async fn load(path: PathBuf, collection: Collection) -> Result<Option<LastGood>, String> {
    let read = move || match atomic::read(&path, kind(collection), MAX_FILE) {
        Ok(loaded) => {
            let (set, at) = decode(collection, &loaded.payload)
                .map_err(|why| format!("{}: {why}", path.display()))?;
            Ok(Some(LastGood { set, at, fell_back: loaded.fell_back.map(|e| e.to_string()) }))
        }
        Err(AtomicError::Missing(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    spawn_blocking(read).await.unwrap_or_else(|_| Err("the reading task ended early".into()))
}

fn encode(set: &AnchorSet, at: Timestamp) -> Value {
    let mut list = wire::write_anchor_set(set);
    list["fetchedAt"] = json!(at.0);
    list
}

fn decode(collection: Collection, payload: &[u8]) -> Result<(AnchorSet, Timestamp), String> {
    let set = wire::read_set(collection, payload).map_err(|error| error.to_string())?;
    let json = wire::parse(payload).map_err(|error| error.to_string())?;
    let at = json["fetchedAt"].as_i64().ok_or("no time of fetching")?;
    Ok((set, Timestamp(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::Changes;
    use crate::sync::configurations::changes::tests::{authority, set};
    use crate::trust::configurations::Kind;

    #[tokio::test]
    async fn what_was_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("anchors");
        assert!(load(path.clone(), Collection::Devices).await.expect("no error").is_none());
        let mut a = authority("a", true);
        a.crl_url = Some("http://pki.example/a.crl".into());
        a.delta_crl_url = Some("http://pki.example/a-delta.crl".into());
        let list = set(&[("1", &[a, authority("i", false)]), ("2", &[])]);
        save(&path, Collection::Devices, &list, Timestamp(77)).await.expect("saved");
        let loaded =
            load(path.clone(), Collection::Devices).await.expect("no error").expect("a list");
        assert_eq!(loaded.at, Timestamp(77));
        assert!(Changes::between(&list, &loaded.set).is_empty());
        assert_eq!(loaded.set.configurations.len(), 2);
        // One collection's file is none of the other's, whoever renamed it.
        assert!(load(path, Collection::Applications).await.is_err());
    }

    #[tokio::test]
    async fn applications_are_loaded_as_applications() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("applications");
        let mut list = set(&[("1", &[authority("a", true), authority("i", false)])]);
        list.configurations[0].kind = Kind::Applications;
        save(&path, Collection::Applications, &list, Timestamp(78)).await.expect("saved");
        let loaded = load(path, Collection::Applications).await.expect("no error").expect("a list");
        assert!(Changes::between(&list, &loaded.set).is_empty());
        assert_eq!(loaded.set.configurations[0].kind, Kind::Applications);
    }
}
