//! Files that are replaced atomically: the last good state, for a start without the network.
//!
//! A header line contains kind, format version, SHA-256 and length of the payload, so that a truncated,
//! misplaced or overwritten file is detected.  A write goes to a new file, which is synced and renamed.
//! The replaced file is kept with the suffix `.1`, and is read if the newest one is damaged.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::runtime::state_files;
use crate::x509::certificate::Fingerprint;

/// Errors of reading and writing.
#[derive(Debug, thiserror::Error)]
pub enum AtomicError {
    /// Neither the file nor the previous one exists.
    #[error("{0}: the file does not exist, and neither does a previous one")]
    Missing(PathBuf),
    /// An error of the operating system.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The bytes are not the ones that were written.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The failed check.
        why: String,
    },
    /// The file has a form that this version does not read.
    #[error(
        "{path} has the form {found}, and this version reads {}: another version wrote it; start that \
         version, or move the file away to fetch the state again",
        forms.join(" and ")
    )]
    Form {
        /// The file.
        path: PathBuf,
        /// Kind and form of the file.
        found: String,
        /// The forms that are read.
        forms: &'static [&'static str],
    },
}

/// The result of a read.
#[derive(Debug)]
pub struct Loaded {
    /// The payload, as it was written.
    pub payload: Vec<u8>,
    /// Kind and form of the file.
    pub form: &'static str,
    /// The error of the newest file, if the previous one was read instead.
    pub fell_back: Option<AtomicError>,
}

/// Replaces the file at `path`.  After a power failure at any time, a reader finds either the new or the
/// old payload, complete.  `kind` is the kind and format version, such as `anchors/1`.
///
/// # Errors
/// An error of the operating system.  The old file stays readable.
pub fn write(path: &Path, kind: &str, payload: &[u8]) -> Result<(), AtomicError> {
    let failed = |error| AtomicError::Io { path: path.to_owned(), error };
    let (new, old) = (beside(path, ".new"), beside(path, ".1"));
    let store = || -> io::Result<()> {
        let mut file = state_files::create(&new)?;
        file.write_all(header(kind, payload).as_bytes())?;
        file.write_all(payload)?;
        file.sync_all()?;
        match fs::rename(path, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Between the two renames the file has its temporary name, and `read` finds it there.
        fs::rename(&new, path)?;
        match path.parent() {
            // The renames are durable once the directory is synced.
            Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    };
    store().map_err(failed)
}

/// Reads a file that [`write()`] wrote with one of `forms`, or the previous file if the newest is missing
/// or not usable.  The payload has at most `limit` bytes.
///
/// `forms` are the current form and the one of the previous release, such as `anchors/2` and `anchors/1`.
///
/// # Errors
/// The error of the newest file, if the previous one cannot be read either.
pub fn read(
    path: &Path,
    forms: &'static [&'static str],
    limit: u64,
) -> Result<Loaded, AtomicError> {
    let newest = match read_one(path, forms, limit) {
        Ok(loaded) => return Ok(loaded),
        Err(error) => error,
    };
    // A crash between the two renames leaves the newest file under its temporary name, complete.
    if matches!(newest, AtomicError::Missing(_))
        && let Ok(loaded) = read_one(&beside(path, ".new"), forms, limit)
    {
        return Ok(loaded);
    }
    match (newest, read_one(&beside(path, ".1"), forms, limit)) {
        (newest, Ok(previous)) => Ok(Loaded { fell_back: Some(newest), ..previous }),
        (AtomicError::Missing(_), Err(older)) => Err(match older {
            AtomicError::Missing(_) => AtomicError::Missing(path.to_owned()),
            older => older,
        }),
        (newest, Err(_)) => Err(newest),
    }
}

fn read_one(
    path: &Path,
    forms: &'static [&'static str],
    limit: u64,
) -> Result<Loaded, AtomicError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => AtomicError::Missing(path.to_owned()),
        _ => AtomicError::Io { path: path.to_owned(), error },
    };
    let damaged = |why: String| AtomicError::Damaged { path: path.to_owned(), why };
    let mut bytes = Vec::new();
    let most = limit.saturating_add(MAX_HEADER);
    // One byte more than allowed distinguishes a full file from one that is too long.
    state_files::open(path)
        .and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(damaged(format!("it is longer than {limit} bytes")));
    }
    let end = bytes.iter().position(|&b| b == b'\n').map(|end| end + 1);
    let Some(end) = end.filter(|&end| end as u64 <= MAX_HEADER) else {
        return Err(damaged("it has no header line".into()));
    };
    let payload = bytes.split_off(end);
    if payload.len() as u64 > limit {
        return Err(damaged(format!("it is longer than {limit} bytes")));
    }
    let found = String::from_utf8_lossy(&bytes);
    // The rest of the header must be right for any form: a damaged form is not taken for another one.
    let expected = |form: &str| header(form, &payload);
    if let Some(form) = forms.iter().copied().find(|form| found == expected(form)) {
        return Ok(Loaded { payload, form, fell_back: None });
    }
    let other = found.split(' ').nth(1).filter(|other| is_other_form(other, forms));
    if let Some(other) = other.filter(|other| found == expected(other)) {
        return Err(AtomicError::Form { path: path.to_owned(), found: other.to_owned(), forms });
    }
    let expected = forms.first().map(|form| expected(form)).unwrap_or_default();
    Err(damaged(format!("its header is `{}`, not `{}`", found.trim_end(), expected.trim_end())))
}

/// True for the same kind as `forms` with another number.
fn is_other_form(found: &str, forms: &[&str]) -> bool {
    let split = |form: &str| {
        form.split_once('/').map(|(kind, number)| (kind.to_owned(), number.to_owned()))
    };
    let Some((kind, number)) = split(found) else { return false };
    number.parse::<u32>().is_ok()
        && forms.iter().filter_map(|form| split(form)).any(|(of, _)| of == kind)
}

/// Longest header line in bytes.
const MAX_HEADER: u64 = 256;

fn header(kind: &str, payload: &[u8]) -> String {
    format!("anchorgate {kind} sha256={} length={}\n", Fingerprint::of(payload), payload.len())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        (folder, path)
    }

    #[test]
    fn reads_the_last_write() {
        let (_folder, path) = place();
        assert!(matches!(read(&path, &["x/1"], 100), Err(AtomicError::Missing(_))));
        write(&path, "x/1", b"one").expect("written");
        write(&path, "x/1", b"two").expect("written");
        let loaded = read(&path, &["x/1"], 100).expect("read");
        assert_eq!((&loaded.payload[..], loaded.fell_back.is_none()), (&b"two"[..], true));
        assert!(read(&path, &["y/1"], 100).is_err(), "another kind");
        assert!(read(&path, &["x/1"], 2).is_err(), "above the limit");
    }

    #[test]
    fn reads_the_current_and_the_previous_form() {
        let (_folder, path) = place();
        for form in ["x/1", "x/2"] {
            write(&path, form, b"one").expect("written");
            let loaded = read(&path, &["x/2", "x/1"], 100).expect("read");
            assert_eq!((loaded.form, loaded.fell_back.is_none()), (form, true));
        }
        write(&path, "x/3", b"two").expect("written");
        let loaded = read(&path, &["x/2", "x/1"], 100).expect("the previous file");
        assert_eq!(loaded.payload, b"one");
        let why = loaded.fell_back.expect("the newest is not used").to_string();
        assert!(why.contains("has the form x/3, and this version reads x/2 and x/1"), "{why}");
        let mut bytes = fs::read(&path).expect("read");
        *bytes.last_mut().expect("a byte") ^= 1;
        fs::write(&path, bytes).expect("written");
        let why = read(&path, &["x/2"], 100).expect("the previous file").fell_back;
        assert!(matches!(why, Some(AtomicError::Damaged { .. })), "{why:?}");
    }

    #[test]
    fn a_crash_between_the_renames_leaves_the_previous_file() {
        let (_folder, path) = place();
        write(&path, "x/1", b"one").expect("written");
        write(&path, "x/1", b"two").expect("written");
        // The state after a crash: the newest file was renamed, and the new one was not.
        fs::rename(&path, beside(&path, ".1")).expect("moved");
        fs::write(beside(&path, ".new"), b"half").expect("written");
        let loaded = read(&path, &["x/1"], 100).expect("read");
        assert_eq!(loaded.payload, b"two");
        assert!(matches!(loaded.fell_back, Some(AtomicError::Missing(_))));
        write(&path, "x/1", b"three").expect("written");
        assert_eq!(read(&path, &["x/1"], 100).expect("read").payload, b"three");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let (_folder, path) = place();
        write(&path, "x/1", b"one").expect("written");
        fs::create_dir(beside(&path, ".new")).expect("in the way");
        assert!(matches!(write(&path, "x/1", b"two"), Err(AtomicError::Io { .. })));
        assert_eq!(read(&path, &["x/1"], 100).expect("read").payload, b"one");
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_not_followed() {
        let (folder, path) = place();
        let other = folder.path().join("other");
        write(&other, "x/1", b"foreign").expect("written");
        let before = fs::read(&other).expect("read");
        for name in [path.clone(), beside(&path, ".1"), beside(&path, ".new")] {
            std::os::unix::fs::symlink(&other, &name).expect("linked");
            let error = read(&path, &["x/1"], 100).expect_err("a link");
            assert!(!matches!(error, AtomicError::Damaged { .. }), "{error}");
            fs::remove_file(&name).expect("removed");
        }
        // The file is replaced, and its temporary name is not written through.
        std::os::unix::fs::symlink(&other, &path).expect("linked");
        write(&path, "x/1", b"own").expect("written");
        assert_eq!(read(&path, &["x/1"], 100).expect("read").payload, b"own");
        std::os::unix::fs::symlink(&other, beside(&path, ".new")).expect("linked");
        let error = write(&path, "x/1", b"own").expect_err("a link").to_string();
        assert!(error.contains("a symbolic link is not followed"), "{error}");
        assert_eq!(fs::read(&other).expect("read"), before);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn detects_any_damage(at in 0usize..200, byte in any::<u8>(), cut in any::<bool>()) {
            let (_folder, path) = place();
            write(&path, "x/1", b"older").expect("written");
            write(&path, "x/1", b"newer").expect("written");
            let mut bytes = fs::read(&path).expect("read");
            let at = at % bytes.len();
            if cut {
                bytes.truncate(at);
            } else {
                prop_assume!(bytes[at] != byte);
                bytes[at] = byte;
            }
            fs::write(&path, bytes).expect("written");
            let loaded = read(&path, &["x/1"], 100).expect("read");
            prop_assert_eq!(loaded.payload, b"older");
            prop_assert!(loaded.fell_back.is_some());
        }
    }
}
