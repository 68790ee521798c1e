//! The saved list of configurations: a gateway starts with it if its directory cannot be reached.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::graph::Collection;
use crate::graph::wire;
use crate::runtime::atomic::{self, AtomicError};
use crate::trust::configurations::AnchorSet;
use crate::x509::time::Timestamp;

/// Kind and version of the file.
const fn kind(collection: Collection) -> &'static str {
    match collection {
        Collection::MutualTlsOauth => "anchors/1",
        Collection::CertificateBasedApplication => "applications/1",
    }
}

/// Largest file, in bytes.
const MAX_FILE: u64 = 512 * 1024 * 1024;

/// A saved list.
#[derive(Debug)]
pub(super) struct LastGood {
    pub(super) set: AnchorSet,
    /// Time at which the directory confirmed it.
    pub(super) at: Timestamp,
    /// The newest file was not usable for this reason; its predecessor was read.
    pub(super) fell_back: Option<String>,
}

/// Saves the list.
pub(super) async fn save(
    path: &Path,
    collection: Collection,
    set: &AnchorSet,
    at: Timestamp,
) -> Result<(), String> {
    let (path, json) = (path.to_owned(), encode(set, at));
    let write = move || atomic::write(&path, kind(collection), json.to_string().as_bytes());
    match spawn_blocking(write).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the write was aborted".into()),
    }
}

/// Reads the saved list.  Returns `None` if no file exists.
pub(super) async fn load(
    path: PathBuf,
    collection: Collection,
) -> Result<Option<LastGood>, String> {
    let read = move || match atomic::read(&path, kind(collection), MAX_FILE) {
        Ok(loaded) => {
            let (set, at) = decode(collection, &loaded.payload)
                .map_err(|why| format!("{}: {why}", path.display()))?;
            Ok(Some(LastGood { set, at, fell_back: loaded.fell_back.map(|e| e.to_string()) }))
        }
        Err(AtomicError::Missing(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    };
    spawn_blocking(read).await.unwrap_or_else(|_| Err("the read was aborted".into()))
}

fn encode(set: &AnchorSet, at: Timestamp) -> Value {
    let mut list = wire::write_anchor_set(set);
    list["fetchedAt"] = json!(at.0);
    list
}

fn decode(collection: Collection, payload: &[u8]) -> Result<(AnchorSet, Timestamp), String> {
    let set = wire::read_set(collection, payload).map_err(|error| error.to_string())?;
    let json = wire::parse(payload).map_err(|error| error.to_string())?;
    let at = json["fetchedAt"].as_i64().ok_or("fetchedAt is missing")?;
    Ok((set, Timestamp(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::Changes;
    use crate::sync::configurations::changes::tests::{authority, set};
    use crate::trust::configurations::Kind;

    #[tokio::test]
    async fn loads_the_saved_list() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("anchors");
        assert!(load(path.clone(), Collection::MutualTlsOauth).await.expect("no error").is_none());
        let mut a = authority("a", true);
        a.crl_url = Some("http://pki.example/a.crl".into());
        a.delta_crl_url = Some("http://pki.example/a-delta.crl".into());
        let list = set(&[("1", &[a, authority("i", false)]), ("2", &[])]);
        save(&path, Collection::MutualTlsOauth, &list, Timestamp(77)).await.expect("saved");
        let loaded = load(path.clone(), Collection::MutualTlsOauth)
            .await
            .expect("no error")
            .expect("a list");
        assert_eq!(loaded.at, Timestamp(77));
        assert!(Changes::between(&list, &loaded.set).is_empty());
        assert_eq!(loaded.set.configurations.len(), 2);
        // The file of one collection cannot be loaded as the other.
        assert!(load(path, Collection::CertificateBasedApplication).await.is_err());
    }

    #[tokio::test]
    async fn loads_application_configurations() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("applications");
        let mut list = set(&[("1", &[authority("a", true), authority("i", false)])]);
        list.configurations[0].kind = Kind::Applications;
        save(&path, Collection::CertificateBasedApplication, &list, Timestamp(78))
            .await
            .expect("saved");
        let loaded = load(path, Collection::CertificateBasedApplication)
            .await
            .expect("no error")
            .expect("a list");
        assert!(Changes::between(&list, &loaded.set).is_empty());
        assert_eq!(loaded.set.configurations[0].kind, Kind::Applications);
    }
}
