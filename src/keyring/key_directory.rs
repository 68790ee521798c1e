//! The directory of rotating signing keys, which replicas share.
//!
//! | file | contents |
//! |---|---|
//! | `ES256-000007.pem` | the time at which the key begins to sign, and the key, PKCS#8 PEM |
//! | `ES256-000007.revoked` | the key ID of a key that was revoked. The key is never used again |
//!
//! # Design notes
//! A number is taken by the first process that creates its file, so replicas need no other lock.
//! A key whose file disappears without a `.revoked` file was lost, not removed: it stays in use, and
//! is written back while it signs or will sign.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::keyring::generate::{new_key_pem, write_once};
use crate::keyring::{KeyringError, parse_signing_key, read_own_secret};
use crate::runtime::secret_files::FileModes;
use crate::token::keys::{Algorithm, SigningKey};
use crate::token::rotation::KeyTime;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// First line of a key file, before the time.
const SIGNS_FROM: &str = "Signs-From: ";
/// Limit on the files that one check reads, far above the number of published keys.
const MAX_FILES: usize = 4096;

/// Place of a key in the sequence of keys of its algorithm, which is its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyId {
    pub(super) algorithm: Algorithm,
    pub(super) number: u64,
}

impl KeyId {
    /// Parses a file name without its extension, such as `ES256-000007`.
    pub(super) fn parse(stem: &str) -> Option<Self> {
        let (algorithm, digits) = stem.rsplit_once('-')?;
        let id = Self { algorithm: Algorithm::parse(algorithm)?, number: digits.parse().ok()? };
        // One spelling for each number, so that two files cannot have the same one.
        (id.number > 0 && id.to_string() == stem).then_some(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:06}", self.algorithm.as_str(), self.number)
    }
}

/// A key, and the file that it was read from.
#[derive(Clone)]
pub(super) struct DatedKey {
    pub(super) key: Arc<SigningKey>,
    pub(super) signs_from: Timestamp,
    hash: Fingerprint,
    file: Zeroizing<Vec<u8>>,
}

/// Keys of the directory.
#[derive(Clone, Default)]
pub(super) struct Keys {
    pub(super) keys: BTreeMap<KeyId, DatedKey>,
    /// Numbers of revoked keys.
    revoked: BTreeSet<KeyId>,
    /// Numbers of files that exist, usable or not.
    taken: BTreeSet<KeyId>,
    /// Keys whose file is missing although they were not revoked.
    pub(super) lost: BTreeSet<KeyId>,
    /// Files that are not usable, with the reasons.
    pub(super) problems: Vec<String>,
}

impl Keys {
    /// Returns the times of the keys of one algorithm, sorted by number.
    pub(super) fn times(&self, algorithm: Algorithm) -> Vec<KeyTime> {
        let of = self.keys.iter().filter(|(id, _)| id.algorithm == algorithm);
        of.map(|(id, key)| KeyTime { number: id.number, signs_from: key.signs_from }).collect()
    }

    /// Returns true if there never was a key of the algorithm.
    pub(super) fn is_unused(&self, algorithm: Algorithm) -> bool {
        let mut numbers = self.taken.iter().chain(&self.revoked);
        numbers.all(|id| id.algorithm != algorithm)
    }

    /// Returns true if no file exists.
    pub(super) fn is_everything_lost(&self) -> bool {
        self.taken.is_empty()
    }

    /// Returns a number that no key of the algorithm has had.
    fn next(&self, algorithm: Algorithm) -> KeyId {
        let numbers = self.keys.keys().chain(&self.revoked).chain(&self.taken);
        let last = numbers.filter(|id| id.algorithm == algorithm).map(|id| id.number).max();
        KeyId { algorithm, number: last.unwrap_or(0) + 1 }
    }
}

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct KeyDirectory {
    pub(super) path: PathBuf,
    pub(super) file_modes: FileModes,
}

impl KeyDirectory {
    /// Reads the directory.  Whatever cannot be read is a problem, and keeps its value of `before`.
    pub(super) fn read(&self, before: &Keys) -> Result<Keys, KeyringError> {
        let failed = |error| KeyringError::Write { path: self.path.clone(), error };
        let (mut keys, mut files) = (Keys::default(), BTreeMap::new());
        for entry in fs::read_dir(&self.path).map_err(failed)?.take(MAX_FILES) {
            let path = entry.map_err(failed)?.path();
            let stem = path.file_stem().and_then(|stem| KeyId::parse(stem.to_str()?));
            match (stem, path.extension().and_then(|e| e.to_str())) {
                (Some(id), Some("pem")) => drop(files.insert(id, path)),
                (Some(id), Some("revoked")) => drop(keys.revoked.insert(id)),
                _ => {}
            }
        }
        // A revocation whose file was removed stays in force while the process runs.
        keys.revoked.extend(&before.revoked);
        keys.taken = files.keys().copied().collect();
        for (id, path) in files {
            if keys.revoked.contains(&id) {
                continue;
            }
            let earlier = before.keys.get(&id);
            match self.key(id, &path, earlier) {
                Ok(key) => drop(keys.keys.insert(id, key)),
                Err(error) => {
                    keys.problems.push(error.to_string());
                    if let Some(earlier) = earlier {
                        keys.keys.insert(id, earlier.clone());
                    }
                }
            }
        }
        for (id, key) in &before.keys {
            if !keys.keys.contains_key(id) && !keys.revoked.contains(id) {
                keys.lost.insert(*id);
                keys.keys.insert(*id, key.clone());
            }
        }
        Ok(keys)
    }

    /// Reads one file; the key is parsed only if it differs from `earlier`.
    fn key(
        &self,
        id: KeyId,
        path: &Path,
        earlier: Option<&DatedKey>,
    ) -> Result<DatedKey, KeyringError> {
        let file = read_own_secret(path, self.file_modes)?;
        let hash = Fingerprint::of(&file);
        if let Some(earlier) = earlier.filter(|earlier| earlier.hash == hash) {
            return Ok(earlier.clone());
        }
        let first = file.split(|&b| b == b'\n').next().unwrap_or_default();
        let signs_from = std::str::from_utf8(first)
            .ok()
            .and_then(|line| Timestamp::parse_rfc3339(line.strip_prefix(SIGNS_FROM)?.trim()))
            .ok_or_else(|| KeyringError::Contents {
                path: path.to_owned(),
                why: format!("the first line is not `{SIGNS_FROM}` and a time"),
            })?;
        let key = Arc::new(parse_signing_key(id.algorithm, path, &file)?);
        Ok(DatedKey { key, signs_from, hash, file })
    }

    /// Creates the next key of an algorithm, or leaves it to another replica that does.
    pub(super) fn create(
        &self,
        keys: &Keys,
        algorithm: Algorithm,
        signs_from: Timestamp,
    ) -> Result<(), KeyringError> {
        let path = self.path_of(keys.next(algorithm), "pem");
        let pem = new_key_pem(&path, algorithm)?;
        self.write(&path, signs_from, &pem)
    }

    /// Puts a key that exists into the directory, as the first one of its algorithm.
    pub(super) fn import(
        &self,
        algorithm: Algorithm,
        pem: &str,
        signs_from: Timestamp,
    ) -> Result<(), KeyringError> {
        let path = self.path_of(KeyId { algorithm, number: 1 }, "pem");
        self.write(&path, signs_from, pem)
    }

    fn write(&self, path: &Path, signs_from: Timestamp, pem: &str) -> Result<(), KeyringError> {
        let file = Zeroizing::new(format!("{SIGNS_FROM}{signs_from}\n{pem}"));
        write_once(path, file.as_bytes())
            .map(|_| ())
            .map_err(|error| KeyringError::Write { path: path.to_owned(), error })
    }

    /// Writes the file of a lost key back.
    pub(super) fn restore(&self, id: KeyId, key: &DatedKey) -> Result<(), KeyringError> {
        let path = self.path_of(id, "pem");
        write_once(&path, &key.file)
            .map(|_| ())
            .map_err(|error| KeyringError::Write { path, error })
    }

    /// Revokes a key for every replica.  Its private key is deleted.
    pub(super) fn revoke(&self, id: KeyId, kid: &str, now: Timestamp) -> Result<(), KeyringError> {
        let path = self.path_of(id, "revoked");
        write_once(&path, format!("{kid} revoked at {now}\n").as_bytes())
            .map_err(|error| KeyringError::Write { path, error })?;
        self.remove(id)
    }

    /// Deletes the file of a key.
    pub(super) fn remove(&self, id: KeyId) -> Result<(), KeyringError> {
        let path = self.path_of(id, "pem");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(KeyringError::Write { path, error })
            }
            _ => Ok(()),
        }
    }

    fn path_of(&self, id: KeyId, extension: &str) -> PathBuf {
        self.path.join(format!("{id}.{extension}"))
    }
}
