//! The copies on disk: the last valid list of each address.
//!
//! A copy is the list as it was received.  Its signature is checked again when it is loaded, so the file
//! need not be trusted.  A trailer holds the data for a conditional request and a checksum.
//!
//! ```text
//! list · JSON of `Metadata` · length of the JSON, 4 bytes · SHA-256 of all that · magic, 8 bytes
//! ```

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::crl::copy_key;
use crate::crl::transport::Validators;
use crate::runtime::state_files;
use crate::runtime::unsaved::Unsaved;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Number of the form before the last byte: a form of the previous release is read as well.
const MAGIC: &[u8; 8] = b"agcrl\x00\x01\n";
const TRAILER: u64 = 4 + 32 + 8;
const MAX_METADATA: u64 = 64 * 1024;

/// Data stored beside a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Metadata {
    /// Key of the copy.  Its address is the one that the list was fetched from.
    pub(super) address: String,
    /// Version of the list.
    pub(super) validators: Validators,
    /// Time of the fetch, in seconds since 1970.
    pub(super) fetched: i64,
    /// The list's nextUpdate, in seconds since 1970.
    #[serde(default)]
    pub(super) next_update: Option<i64>,
}

/// Shortest time for which the copy of an address that is no longer named is retained.  An authority
/// that is added again within this time starts with its old list, and accepts no older one.
const RETENTION: Duration = Duration::from_secs(7 * 86_400);
/// A copy is also retained until its nextUpdate, when an older list is stale too, but not longer than
/// this.
const MAX_RETENTION: Duration = Duration::from_secs(400 * 86_400);

/// Name of the state for [`Unsaved`].
const STATE: &str = "revocation lists";

/// A directory of copies.
#[derive(Debug, Clone)]
pub(super) struct Store {
    directory: PathBuf,
    /// The last write failed.
    failing: Arc<AtomicBool>,
    unsaved: Unsaved,
}

impl Store {
    /// Opens the store in `directory`, and creates the directory if it does not exist.
    pub(super) fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        for file in fs::read_dir(&directory)? {
            let path = file?.path();
            // Left over by a process that ended during a write.
            if path.to_string_lossy().ends_with(".crl.new") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { directory, failing: Arc::default(), unsaved: Unsaved::default() })
    }

    /// Also tells `unsaved` whether lists are on disk.
    #[must_use]
    pub(super) fn with_unsaved(self, unsaved: Unsaved) -> Self {
        Self { unsaved, ..self }
    }

    fn path(&self, key: &str) -> PathBuf {
        let name = Fingerprint::of(key.as_bytes()).to_string();
        self.directory.join(format!("{name}.crl"))
    }

    /// Turns an error of the disk into a log message: without a copy, the list is used all the same.
    /// Only the first error is a warning until a write succeeds, because a full disk fails each write.
    pub(super) fn report<T>(&self, what: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(done) => Some(done),
            Err(error) => {
                self.unsaved.failed(STATE, &error.to_string());
                if self.failing.swap(true, Ordering::Relaxed) {
                    debug!(what, %error, "CRL copy not written");
                } else {
                    warn!(
                        what,
                        %error,
                        "CRL copy not written; further failures are logged at debug level until a \
                         write succeeds"
                    );
                }
                None
            }
        }
    }

    /// Records that a copy was written completely.
    pub(super) fn report_success(&self) {
        self.unsaved.saved(STATE);
        if self.failing.swap(false, Ordering::Relaxed) {
            info!("CRL copies are written to disk again");
        }
    }

    /// Retires the copies whose keys are not among `named`, and removes copies that were retired
    /// long ago.  Returns the first error, after processing all files.
    pub(super) fn sweep(&self, named: &[Arc<str>], now: Timestamp) -> io::Result<()> {
        let named: HashSet<PathBuf> = named.iter().map(|key| self.path(key)).collect();
        let mut result = Ok(());
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            let swept = match path.extension().and_then(OsStr::to_str) {
                Some("crl") if !named.contains(&path) => retire(&path, now),
                Some(RETIRED) if !named.contains(&path.with_extension("crl")) => {
                    remove_expired(&path, now)
                }
                _ => Ok(()),
            };
            result = result.and(swept);
        }
        result
    }

    /// Starts to write a copy of a list of `address`.  The old copy stays until [`PendingFile::commit`].
    pub(super) fn begin(&self, address: &str) -> io::Result<PendingFile> {
        let temporary = self.path(address).with_extension("crl.new");
        Ok(PendingFile {
            file: state_files::create(&temporary)?,
            checksum: Context::new(&SHA256),
            store: self.clone(),
            temporary: Some(temporary),
        })
    }

    /// Removes the copy of this key, also a retired one, when a newer list is in force.
    pub(super) fn remove(&self, key: &str) -> io::Result<()> {
        let path = self.path(key);
        let mut is_removed = false;
        for path in [path.with_extension(RETIRED), path] {
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => is_removed |= removed.map(|()| true)?,
            }
        }
        // A power failure must not restore the removed file.
        if is_removed { sync_directory(&self.directory) } else { Ok(()) }
    }

    /// Gives a copy another key of the same address, and replaces the copy of that key.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        sync_directory(&self.directory)
    }

    /// Opens the copy of a key, also a retired one, which is restored because its address is named again.
    fn open_copy(&self, key: &str) -> io::Result<Option<File>> {
        let path = self.path(key);
        let retired = path.with_extension(RETIRED);
        // The second time for a copy that was retired between the two steps.
        for _ in 0..2 {
            match state_files::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.map(Some),
            }
            match fs::rename(&retired, &path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        match state_files::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Reads the copy of a key, in pieces; `None` if it does not exist.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or belongs to another address; or `piece` returns an error.
    pub(super) fn load(
        &self,
        key: &str,
        mut piece: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Metadata>> {
        let Some(mut file) = self.open_copy(key)? else { return Ok(None) };
        let Trailer { list, metadata: metadata_length, checksum, bytes } =
            Trailer::read(&mut file)?;

        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 256 * 1024];
        file.seek(SeekFrom::Start(0))?;
        let mut left = list;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = file.read(&mut buffer[..want])?;
            if read == 0 {
                return Err(damaged("the file is truncated"));
            }
            context.update(&buffer[..read]);
            piece(&buffer[..read])?;
            left -= read as u64;
        }
        let mut metadata = vec![0; usize::try_from(metadata_length).unwrap_or(0)];
        file.read_exact(&mut metadata)?;
        context.update(&metadata);
        context.update(&bytes[..4]);
        if context.finish().as_ref() != checksum {
            return Err(damaged("the checksum does not match"));
        }
        let metadata: Metadata = serde_json::from_slice(&metadata)?;
        if copy_key::address(&metadata.address) != copy_key::address(key) {
            return Err(damaged("the list belongs to another address"));
        }
        Ok(Some(metadata))
    }
}

/// The end of a file.
struct Trailer {
    /// Length of the list in bytes.
    list: u64,
    /// Length of the JSON after it in bytes.
    metadata: u64,
    checksum: [u8; 32],
    bytes: [u8; TRAILER as usize],
}

impl Trailer {
    fn read(file: &mut File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let body = length.checked_sub(TRAILER).ok_or_else(|| damaged("the file is too short"))?;
        let mut bytes = [0; TRAILER as usize];
        file.seek(SeekFrom::Start(body))?;
        file.read_exact(&mut bytes)?;
        let (metadata, rest) = bytes.split_at(4);
        let (sum, magic) = rest.split_at(32);
        if magic != MAGIC {
            let is_other_form = magic[..6] == MAGIC[..6] && magic[7] == MAGIC[7];
            return Err(damaged(match is_other_form {
                true => "the copy has another form, which another version wrote",
                false => "the file is not a CRL copy of this program",
            }));
        }
        let metadata = metadata.iter().fold(0, |n, &b| (n << 8) | u64::from(b));
        let list = body
            .checked_sub(metadata)
            .filter(|_| metadata <= MAX_METADATA)
            .ok_or_else(|| damaged("the lengths in the trailer are not possible"))?;
        let mut checksum = [0; 32];
        checksum.copy_from_slice(sum);
        Ok(Self { list, metadata, checksum, bytes })
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// File name extension of copies whose address is no longer named.  The modification time is the time of
/// retirement.
const RETIRED: &str = "aside";

fn retire(path: &Path, now: Timestamp) -> io::Result<()> {
    let retired = path.with_extension(RETIRED);
    // Set the time before renaming: a retired copy with an old time would be removed at once.
    let opened = state_files::open_with(File::options().append(true), path)?;
    opened.set_modified(system_time(now))?;
    fs::rename(path, retired)
}

/// Removes a retired copy after its retention time.
fn remove_expired(path: &Path, now: Timestamp) -> io::Result<()> {
    let since = Timestamp::from(fs::metadata(path)?.modified()?);
    // A damaged copy has no readable nextUpdate, and would not be used.
    let next_update =
        state_files::open(path).and_then(|mut file| next_update(&mut file)).ok().flatten();
    let until = next_update.map_or(since.after(RETENTION), |at| at.max(since.after(RETENTION)));
    if now < until.min(since.after(MAX_RETENTION)) {
        return Ok(());
    }
    fs::remove_file(path)?;
    debug!(path = %path.display(), "CRL copy removed: its address is no longer named");
    Ok(())
}

fn next_update(file: &mut File) -> io::Result<Option<Timestamp>> {
    let trailer = Trailer::read(file)?;
    file.seek(SeekFrom::Start(trailer.list))?;
    let mut metadata = Vec::new();
    file.take(trailer.metadata).read_to_end(&mut metadata)?;
    let metadata: Metadata = serde_json::from_slice(&metadata)?;
    Ok(metadata.next_update.map(Timestamp))
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.0).unwrap_or(0))
}

/// A copy that is being written.
pub(super) struct PendingFile {
    file: File,
    checksum: Context,
    store: Store,
    /// `None` after the rename.
    temporary: Option<PathBuf>,
}

impl PendingFile {
    pub(super) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.checksum.update(piece);
        self.file.write_all(piece)
    }

    /// Replaces the old copy of the key in `metadata` atomically and durably.  After an error, the old copy
    /// is still there.
    pub(super) fn commit(mut self, metadata: &Metadata) -> io::Result<()> {
        let target = self.store.path(&metadata.address);
        let metadata = serde_json::to_vec(metadata)?;
        let length = u32::try_from(metadata.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.write(&metadata)?;
        self.write(&length)?;
        let checksum = self.checksum.clone().finish();
        self.file.write_all(checksum.as_ref())?;
        self.file.write_all(MAGIC)?;
        self.file.sync_all()?;
        if let Some(temporary) = self.temporary.take() {
            fs::rename(temporary, target)?;
        }
        // The rename is durable once the directory is synced.
        sync_directory(&self.store.directory)
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // If this fails, the next write overwrites the file.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

#[cfg(test)]
mod tests;
