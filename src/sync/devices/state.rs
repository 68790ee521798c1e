//! The saved registry: the devices that a gateway starts with, and the delta link that stands for them.
//!
//! After a start the changes since then are requested, however long ago that is.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use url::Url;

use crate::sync::files::{self, Saved};
use crate::sync::journal;
use crate::trust::devices::{DeviceRegistry, Removals};
use crate::x509::time::Timestamp;

/// Forms that are read: the current one, which is written, then the one of the previous release.  A form
/// gets a file in `tests/graph/forms` when it is released.  The payload is one line of JSON, then the
/// registry's bytes.
const FORMS: [&str; 1] = ["devices/1"];
/// As [`FORMS`], of the journal beside the file.  The payload is one line of JSON, then the removals' bytes.
const JOURNAL_FORMS: [&str; 1] = ["devices-journal/1"];
/// Largest file: bytes for each device that is allowed.
const MAX_FILE_PER_DEVICE: u64 = 36;
/// Largest file: bytes for everything else.
const MAX_FILE_BASE: u64 = 16 * 1024 * 1024;

/// A registry, and the delta link that stands for it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) registry: DeviceRegistry,
    pub(super) cursor: String,
    /// Time at which the last enumeration began.
    pub(super) enumerated_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    /// URL of the enumeration.  The devices of one directory must not be used for another.
    #[serde(rename = "asked")]
    start: String,
    delta_link: String,
    fetched_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enumerated_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JournalHead {
    fetched_at: i64,
}

/// The saved versions, for the journal: it names what the newest removed from the one before, which is
/// still on disk.
#[derive(Debug, Default)]
pub(super) struct SavedVersions {
    newest: Option<DeviceRegistry>,
    /// Removals between the previous version and the newest.
    removals: Removals,
}

impl SavedVersions {
    /// Notes the version that was read at the start.
    pub(super) fn loaded(&mut self, registry: DeviceRegistry) {
        *self = Self { newest: Some(registry), removals: Removals::default() };
    }

    /// Returns the removals between the newest saved version and `next`.
    pub(super) async fn latest(&self, next: DeviceRegistry) -> Result<Removals, String> {
        let Some(newest) = self.newest.clone() else { return Ok(Removals::default()) };
        // Large registries take a while, which must not delay other tasks.
        let removals = spawn_blocking(move || newest.removals(&next)).await;
        removals.map_err(|_| "the comparison was aborted".to_owned())
    }

    /// Returns the removals from both saved versions, with the `latest` ones.
    pub(super) fn all(&self, latest: Removals) -> Removals {
        let mut removals = self.removals.clone();
        removals.extend(latest);
        removals
    }

    /// Notes that `next` was saved.
    pub(super) fn saved(&mut self, next: DeviceRegistry, latest: Removals) {
        *self = Self { newest: Some(next), removals: latest };
    }
}

/// Writes the journal for a version that the directory confirmed at `at`.
pub(super) async fn save_journal(
    path: &Path,
    removals: Removals,
    at: Timestamp,
) -> Result<(), String> {
    let encode = move || {
        let head = JournalHead { fetched_at: at.0 };
        let mut payload = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
        payload.push(b'\n');
        removals.write(&mut payload);
        Ok(payload)
    };
    journal::write(path, JOURNAL_FORMS[0], encode).await
}

fn decode_journal(payload: &[u8]) -> Result<(Removals, Timestamp), String> {
    let (head, removals) = split::<JournalHead>(payload)?;
    let removals = Removals::read(removals).map_err(|error| error.to_string())?;
    Ok((removals, Timestamp(head.fetched_at)))
}

/// Saves a registry that was enumerated at `start` and confirmed at `at`.
pub(super) async fn save(
    path: PathBuf,
    start: &Url,
    state: State,
    at: Timestamp,
) -> Result<(), String> {
    let State { registry, cursor: delta_link, enumerated_at } = state;
    let enumerated_at = enumerated_at.map(|at| at.0);
    let head = Head { start: start.to_string(), delta_link, fetched_at: at.0, enumerated_at };
    let encode = move || {
        let mut payload = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
        payload.push(b'\n');
        registry.write(&mut payload);
        Ok(payload)
    };
    files::write(path, FORMS[0], encode).await
}

/// Reads the saved registry, without what its journal removes.  Returns `None` if no file exists that was enumerated at `start`.
pub(super) async fn load(
    path: PathBuf,
    start: &Url,
    max_devices: usize,
) -> Result<Option<Saved<State>>, String> {
    let limit = MAX_FILE_PER_DEVICE.saturating_mul(max_devices as u64);
    let start = start.to_string();
    let decode = move |payload: &[u8]| {
        let (head, registry) = decode(payload, max_devices)?;
        let enumerated_at = head.enumerated_at.map(Timestamp);
        let state = State { registry, cursor: head.delta_link, enumerated_at };
        Ok((head.start == start).then_some((state, Timestamp(head.fetched_at))))
    };
    let limit = limit.saturating_add(MAX_FILE_BASE);
    let Some(mut saved) = files::read(path.clone(), &FORMS, limit, decode).await? else {
        return Ok(None);
    };
    let mut failed = None;
    let restrict = |state: &mut State, removals: Removals| match state.registry.without(&removals) {
        Ok(registry) => state.registry = registry,
        Err(error) => failed = Some(error.to_string()),
    };
    journal::apply(&mut saved, &path, &JOURNAL_FORMS, limit, decode_journal, restrict).await;
    saved.may_readmit = saved.may_readmit.or(failed);
    Ok(Some(saved))
}

fn decode(payload: &[u8], max_devices: usize) -> Result<(Head, DeviceRegistry), String> {
    let (head, registry) = split(payload)?;
    let registry = DeviceRegistry::read(registry, max_devices);
    Ok((head, registry.map_err(|error| error.to_string())?))
}

/// Splits a payload into the JSON of its first line and the rest.
fn split<T: DeserializeOwned>(payload: &[u8]) -> Result<(T, &[u8]), String> {
    let end = payload.iter().position(|&b| b == b'\n').ok_or("the first line is missing")?;
    let head = serde_json::from_slice(&payload[..end]).map_err(|error| error.to_string())?;
    Ok((head, &payload[end + 1..]))
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
        assert!(load(path.clone(), &start, 10).await.expect("no error").is_none());
        let devices = registry(10);
        let state = State {
            registry: devices.clone(),
            cursor: cursor.to_string(),
            enumerated_at: Some(Timestamp(5)),
        };
        save(path.clone(), &start, state, Timestamp(7)).await.expect("saved");
        let last = load(path.clone(), &start, 10).await.expect("no error").expect("a registry");
        assert!(devices.difference(&last.data.registry).is_empty());
        assert_eq!((last.at, last.data.cursor), (Timestamp(7), cursor.to_string()));
        assert_eq!(last.data.enumerated_at, Some(Timestamp(5)));
        let elsewhere = url("https://other.example/delta");
        assert!(
            load(path.clone(), &elsewhere, 10).await.expect("no error").is_none(),
            "of another directory"
        );
        let error = load(path.clone(), &start, 9).await.expect_err("above the limit");
        assert!(error.contains("10 devices; at most 9"), "{error}");
    }

    #[tokio::test]
    async fn reads_every_form_of_devices() {
        let fixture = |form: &str| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graph/forms");
            std::fs::read(folder.join(form.replace('/', "-"))).expect("a file of each form")
        };
        let start = Url::parse("https://g.example/delta").expect("a URL");
        for (form, journal) in FORMS.iter().zip(&JOURNAL_FORMS) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("devices");
            std::fs::write(&path, fixture(form)).expect("written");
            let saved = load(path.clone(), &start, 10).await.expect("readable").expect("devices");
            assert_eq!((saved.at, saved.fell_back), (Timestamp(77), None), "{form}");
            assert!(registry(4).difference(&saved.data.registry).is_empty(), "{form}");
            assert_eq!(saved.data.cursor, "https://g.example/delta?t=1");
            // The journal of each form removes device 0 and disables device 2.
            std::fs::rename(&path, folder.path().join("devices.1")).expect("moved");
            std::fs::write(folder.path().join("devices.journal"), fixture(journal))
                .expect("written");
            let saved = load(path, &start, 10).await.expect("readable").expect("devices");
            let difference = registry(4).difference(&saved.data.registry);
            assert_eq!((difference.removed, difference.disabled), (1, 1), "{journal}");
            assert_eq!(saved.may_readmit, None, "{journal}");
        }
    }
}
