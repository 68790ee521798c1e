//! The saved list of configurations: a gateway starts with it if its directory cannot be reached.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use crate::graph::Collection;
use crate::graph::wire::{self, JsonKind};
use crate::sync::configurations::outline::Outline;
use crate::sync::files::{self, Saved};
use crate::sync::journal;
use crate::trust::configurations::Configurations;
use crate::x509::time::Timestamp;

/// Largest file, in bytes.
const MAX_FILE: u64 = 512 * 1024 * 1024;

/// Forms that are read: the current one, which is written, then the one of the previous release.  A form
/// gets a file in `tests/graph/forms` when it is released.
const fn forms<K: JsonKind>() -> &'static [&'static str] {
    match K::COLLECTION {
        Collection::MutualTlsOauth => &["anchors/1"],
        Collection::CertificateBasedApplication => &["applications/1"],
    }
}

/// As [`forms`], of the journal beside the file.
const fn journal_forms<K: JsonKind>() -> &'static [&'static str] {
    match K::COLLECTION {
        Collection::MutualTlsOauth => &["anchors-journal/1"],
        Collection::CertificateBasedApplication => &["applications-journal/1"],
    }
}

/// Saves a list that the directory confirmed at `at`.
pub(super) async fn save<K: JsonKind>(
    path: PathBuf,
    set: Arc<Configurations<K>>,
    at: Timestamp,
) -> Result<(), String> {
    let outlined = Arc::clone(&set);
    let encode_journal =
        move || serde_json::to_vec(&Outline::of(&outlined, at)).map_err(|error| error.to_string());
    journal::write(&path, journal_forms::<K>()[0], encode_journal).await?;
    let encode = move || {
        let mut list = wire::write_configurations(&set);
        list["fetchedAt"] = json!(at.0);
        Ok(list.to_string().into_bytes())
    };
    files::write(path, forms::<K>()[0], encode).await
}

/// Reads the saved list, without what its journal removes.  Returns `None` if no file exists.
pub(super) async fn load<K: JsonKind>(
    path: PathBuf,
) -> Result<Option<Saved<Configurations<K>>>, String> {
    let decode = |payload: &[u8]| decode(payload).map(Some);
    let saved = files::read(path.clone(), forms::<K>(), MAX_FILE, decode).await?;
    let Some(mut saved) = saved else { return Ok(None) };
    let decode_journal = |payload: &[u8]| {
        let outline: Outline =
            serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let at = outline.at();
        Ok((outline, at))
    };
    let restrict = |set: &mut Configurations<K>, outline: Outline| outline.restrict(set);
    let forms = journal_forms::<K>();
    journal::apply(&mut saved, &path, forms, MAX_FILE, decode_journal, restrict).await;
    Ok(Some(saved))
}

fn decode<K: JsonKind>(payload: &[u8]) -> Result<(Configurations<K>, Timestamp), String> {
    let set = wire::read_configurations(payload).map_err(|error| error.to_string())?;
    let json = wire::parse(payload).map_err(|error| error.to_string())?;
    let at = json["fetchedAt"].as_i64().ok_or("fetchedAt is missing")?;
    Ok((set, Timestamp(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::Changes;
    use crate::sync::configurations::changes::tests::{authority, set};
    use crate::trust::configurations::{Application, Configuration, Device};
    use std::path::Path;

    #[tokio::test]
    async fn loads_the_saved_list() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("anchors");
        assert!(load::<Device>(path.clone()).await.expect("no error").is_none());
        let mut a = authority("a", true);
        a.crl_url = Some("http://pki.example/a.crl".into());
        a.delta_crl_url = Some("http://pki.example/a-delta.crl".into());
        let list = set(&[("1", &[a, authority("i", false)]), ("2", &[])]);
        save(path.clone(), Arc::new(list.clone()), Timestamp(77)).await.expect("saved");
        let loaded = load(path.clone()).await.expect("no error").expect("a list");
        assert_eq!(loaded.at, Timestamp(77));
        assert!(Changes::between(&list, &loaded.data).is_empty());
        assert_eq!(loaded.data.configurations.len(), 2);
        // The file of one collection cannot be loaded as the other.
        assert!(load::<Application>(path).await.is_err());
    }

    #[tokio::test]
    async fn loads_application_configurations() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("applications");
        let list = Configurations::from_iter([Configuration {
            id: "1".into(),
            domain: Arc::default(),
            display_name: "scripts".to_owned(),
            kind: Application,
            authorities: vec![authority("a", true), authority("i", false)],
        }]);
        save(path.clone(), Arc::new(list.clone()), Timestamp(78)).await.expect("saved");
        let loaded = load(path).await.expect("no error").expect("a list");
        assert!(Changes::between(&list, &loaded.data).is_empty());
        assert_eq!(loaded.data.configurations[0].authorities.len(), 2);
    }

    /// Copies the file of a form to `path`.
    fn place(form: &str, path: &Path) {
        let name = form.replace('/', "-");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graph/forms").join(name);
        std::fs::copy(&fixture, path).expect("a file of each form");
    }

    async fn reads_every_form<K: JsonKind>() {
        for form in forms::<K>() {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("state");
            place(form, &path);
            let saved = load::<K>(path).await.expect("readable").expect("a list");
            assert_eq!((saved.at, saved.fell_back), (Timestamp(77), None), "{form}");
            let [one] = &saved.data.configurations[..] else { panic!("one configuration: {form}") };
            let [a, i] = &one.authorities[..] else { panic!("two authorities: {form}") };
            assert_eq!((one.id.as_str(), a.is_root, i.is_root), ("1", true, false));
            assert_eq!(a.certificate.subject.to_string(), "CN=a");
            assert_eq!(a.crl_url.as_deref(), Some("http://pki.example/a.crl"));
            assert_eq!(a.delta_crl_url.as_deref(), Some("http://pki.example/a-delta.crl"));
        }
        // The file of each form has a journal that lacks authority `i`.
        for (form, journal) in forms::<K>().iter().zip(journal_forms::<K>()) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("state");
            place(form, &folder.path().join("state.1"));
            place(journal, &folder.path().join("state.journal"));
            let saved = load::<K>(path).await.expect("readable").expect("a list");
            assert_eq!(saved.may_readmit, None, "{journal}");
            assert_eq!(saved.data.authorities().count(), 1, "{journal}");
        }
    }

    #[tokio::test]
    async fn reads_every_form_of_configurations() {
        reads_every_form::<Device>().await;
        reads_every_form::<Application>().await;
    }
}
