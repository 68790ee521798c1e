//! The last good list of each address, on disk.
//!
//! What is kept is the list as it was received: its signature is checked again when it is loaded, so
//! that the file need not be believed.  The trailer has what a conditional request needs, and a
//! checksum of all before it.
//!
//! ```text
//! list · JSON of `Meta` · length of the JSON, 4 octets · SHA-256 of all that · magic, 8 octets
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

use crate::crl::transport::Validators;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

const MAGIC: &[u8; 8] = b"agcrl\x00\x01\n";
const TAIL: u64 = 4 + 32 + 8;
const MAX_META: u64 = 64 * 1024;

/// What is kept beside a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The address it was fetched from.
    pub address: String,
    /// Of this version.
    pub validators: Validators,
    /// When it was fetched, in seconds since 1970.
    pub fetched: i64,
    /// The list's nextUpdate, likewise.
    #[serde(default)]
    pub next_update: Option<i64>,
}

/// How long the list of an address that nobody names is kept at least: an authority that is put back
/// by then starts with its old list, and takes no older one.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// And until its nextUpdate, when an older one is stale too; but no longer than this.
const KEPT_AT_MOST: Duration = Duration::from_secs(400 * 86_400);

/// A directory of lists.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    /// The disk failed the last time.
    failing: Arc<AtomicBool>,
}

impl Store {
    /// The store in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        for file in fs::read_dir(&directory)? {
            let path = file?.path();
            // Of a process that was ended while it wrote.
            if path.to_string_lossy().ends_with(".crl.new") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { directory, failing: Arc::default() })
    }

    fn path(&self, address: &str) -> PathBuf {
        let name = Fingerprint::of(address.as_bytes()).to_string();
        self.directory.join(format!("{name}.crl"))
    }

    /// A disk that fails costs the copy, never the list.  It is told once, until it works again: a
    /// full disk fails every list at every look.
    pub fn kept<T>(&self, what: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(kept) => Some(kept),
            Err(error) => {
                if self.failing.swap(true, Ordering::Relaxed) {
                    debug!(what, %error, "no copy on disk");
                } else {
                    warn!(what, %error, "no copy on disk, nor of others until the disk is mended");
                }
                None
            }
        }
    }

    /// A copy is whole on the disk.
    pub fn works(&self) {
        if self.failing.swap(false, Ordering::Relaxed) {
            info!("copies of lists are kept on disk again");
        }
    }

    /// Sets aside the lists of addresses that are not among `named`, and removes those that were set
    /// aside long ago.
    ///
    /// # Errors
    /// The disk refuses; the rest is done all the same.
    pub fn sweep(&self, named: &[Arc<str>], now: Timestamp) -> io::Result<()> {
        let named: HashSet<PathBuf> = named.iter().map(|address| self.path(address)).collect();
        let mut done = Ok(());
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            let swept = match path.extension().and_then(OsStr::to_str) {
                Some("crl") if !named.contains(&path) => set_aside(&path, now),
                Some(ASIDE) if !named.contains(&path.with_extension("crl")) => forget(&path, now),
                _ => Ok(()),
            };
            done = done.and(swept);
        }
        done
    }

    /// Begins to write the list of `address`.  Nothing is in its place before
    /// [`Saving::commit`].
    ///
    /// # Errors
    /// The disk refuses.
    pub fn begin(&self, address: &str) -> io::Result<Saving> {
        let target = self.path(address);
        let temporary = target.with_extension("crl.new");
        Ok(Saving {
            file: File::create(&temporary)?,
            checksum: Context::new(&SHA256),
            temporary: Some(temporary),
            target,
        })
    }

    /// Removes the copy of `address`: a newer list is in force, and could not be kept.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self, address: &str) -> io::Result<()> {
        let path = self.path(address);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // Gone for good: a loss of power must not bring it back.
            done => done.and_then(|()| path.parent().map_or(Ok(()), sync_directory)),
        }
    }

    /// Reads the list of `address`, in pieces; `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is of another address; or `piece` refuses.
    pub fn load(
        &self,
        address: &str,
        mut piece: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Meta>> {
        let path = self.path(address);
        // Named again: what was set aside is its list.
        match fs::rename(path.with_extension(ASIDE), &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let Tail { list, meta: meta_length, checksum, bytes: tail } = Tail::read(&mut file)?;

        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0; 256 * 1024];
        file.seek(SeekFrom::Start(0))?;
        let mut left = list;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = file.read(&mut buffer[..want])?;
            if read == 0 {
                return Err(damaged("truncated"));
            }
            context.update(&buffer[..read]);
            piece(&buffer[..read])?;
            left -= read as u64;
        }
        let mut meta = vec![0; usize::try_from(meta_length).unwrap_or(0)];
        file.read_exact(&mut meta)?;
        context.update(&meta);
        context.update(&tail[..4]);
        if context.finish().as_ref() != checksum {
            return Err(damaged("the checksum is another"));
        }
        let meta: Meta = serde_json::from_slice(&meta)?;
        if meta.address != address {
            return Err(damaged("a list of another address"));
        }
        Ok(Some(meta))
    }
}

/// The end of a file.
struct Tail {
    /// Octets of the list.
    list: u64,
    /// Octets of the JSON after it.
    meta: u64,
    checksum: [u8; 32],
    bytes: [u8; TAIL as usize],
}

impl Tail {
    fn read(file: &mut File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let body = length.checked_sub(TAIL).ok_or_else(|| damaged("too short"))?;
        let mut bytes = [0; TAIL as usize];
        file.seek(SeekFrom::Start(body))?;
        file.read_exact(&mut bytes)?;
        let (meta, rest) = bytes.split_at(4);
        let (sum, magic) = rest.split_at(32);
        if magic != MAGIC {
            return Err(damaged("not a list of this program's"));
        }
        let meta = meta.iter().fold(0, |n, &b| (n << 8) | u64::from(b));
        let list = body
            .checked_sub(meta)
            .filter(|_| meta <= MAX_META)
            .ok_or_else(|| damaged("impossible lengths"))?;
        let mut checksum = [0; 32];
        checksum.copy_from_slice(sum);
        Ok(Self { list, meta, checksum, bytes })
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Ends the names of lists that nobody asks for; the file's time says since when.
const ASIDE: &str = "aside";

fn set_aside(path: &Path, now: Timestamp) -> io::Result<()> {
    let aside = path.with_extension(ASIDE);
    // The time first: a list that is aside with an old time would be removed at once.
    File::options().append(true).open(path)?.set_modified(system_time(now))?;
    fs::rename(path, aside)
}

/// Removes a list that was set aside long enough ago.
fn forget(path: &Path, now: Timestamp) -> io::Result<()> {
    let since = Timestamp::from(fs::metadata(path)?.modified()?);
    // What is damaged says nothing of nextUpdate, and would not be used.
    let next_update = File::open(path).and_then(|mut file| next_update(&mut file)).ok().flatten();
    let until = next_update.map_or(since.after(KEPT), |at| at.max(since.after(KEPT)));
    if now < until.min(since.after(KEPT_AT_MOST)) {
        return Ok(());
    }
    fs::remove_file(path)?;
    debug!(path = %path.display(), "a list that nobody names was removed");
    Ok(())
}

fn next_update(file: &mut File) -> io::Result<Option<Timestamp>> {
    let tail = Tail::read(file)?;
    file.seek(SeekFrom::Start(tail.list))?;
    let mut meta = Vec::new();
    file.take(tail.meta).read_to_end(&mut meta)?;
    let meta: Meta = serde_json::from_slice(&meta)?;
    Ok(meta.next_update.map(Timestamp))
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.0).unwrap_or(0))
}

/// A list being written.
pub struct Saving {
    file: File,
    checksum: Context,
    /// `None` once it is in its place.
    temporary: Option<PathBuf>,
    target: PathBuf,
}

impl Saving {
    /// Appends to the list.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.checksum.update(piece);
        self.file.write_all(piece)
    }

    /// Puts the list in its place, whole and on the disk, or not at all.
    ///
    /// # Errors
    /// The disk refuses; what was there before stays.
    pub fn commit(mut self, meta: &Meta) -> io::Result<()> {
        let meta = serde_json::to_vec(meta)?;
        let length = u32::try_from(meta.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.write(&meta)?;
        self.write(&length)?;
        let checksum = self.checksum.clone().finish();
        self.file.write_all(checksum.as_ref())?;
        self.file.write_all(MAGIC)?;
        self.file.sync_all()?;
        if let Some(temporary) = self.temporary.take() {
            fs::rename(temporary, &self.target)?;
        }
        // The new name is on the disk only when its directory is.
        self.target.parent().map_or(Ok(()), sync_directory)
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What is left over is overwritten the next time.
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
mod tests {
    use super::*;

    const ADDRESS: &str = "http://ca.example/1.crl";
    const NOW: Timestamp = Timestamp(1_767_225_600);
    const DAY: i64 = 86_400;

    fn meta(address: &str) -> Meta {
        let validators = Validators { etag: Some("\"1\"".to_owned()), last_modified: None };
        Meta {
            address: address.to_owned(),
            validators,
            fetched: 7,
            next_update: Some(NOW.0 + 30 * DAY),
        }
    }

    fn save(store: &Store, content: &[u8]) {
        let mut saving = store.begin(ADDRESS).expect("a file");
        content.chunks(1000).for_each(|piece| saving.write(piece).expect("room"));
        saving.commit(&meta(ADDRESS)).expect("committed");
    }

    fn load(store: &Store) -> io::Result<Option<(Vec<u8>, Meta)>> {
        let mut content = Vec::new();
        let meta = store.load(ADDRESS, |piece| {
            content.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(meta.map(|meta| (content, meta)))
    }

    #[test]
    fn what_was_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path().join("new")).expect("a store");
        assert!(load(&store).expect("readable").is_none());
        for content in [&b""[..], b"list", &[7; 600_000]] {
            save(&store, content);
            assert_eq!(load(&store).expect("readable"), Some((content.to_vec(), meta(ADDRESS))));
        }
    }

    #[test]
    fn what_was_not_committed_is_not_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        save(&store, b"first");
        let mut saving = store.begin(ADDRESS).expect("a file");
        saving.write(b"second").expect("room");
        drop(saving);
        assert_eq!(
            load(&store).expect("readable").map(|(content, _)| content),
            Some(b"first".to_vec())
        );
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
    }

    #[test]
    fn every_damaged_octet_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        save(&store, b"the list");
        let path = store.path(ADDRESS);
        let whole = fs::read(&path).expect("the file");
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).expect("room");
            assert!(load(&store).is_err(), "octet {at}");
            fs::write(&path, &whole[..at]).expect("room");
            assert!(load(&store).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_list_that_nobody_names_is_kept_for_a_while() {
        let directory = tempfile::tempdir().expect("a directory");
        let files = || fs::read_dir(directory.path()).expect("readable").count();
        fs::write(directory.path().join("x.crl.new"), "left over").expect("room");
        fs::write(directory.path().join("sighted"), "another's").expect("room");
        let store = Store::open(directory.path()).expect("a store");
        save(&store, b"the list");
        assert_eq!(files(), 2);
        let sweep = |named: &[Arc<str>], days| {
            store.sweep(named, Timestamp(NOW.0 + days * DAY)).expect("swept");
        };
        sweep(&[ADDRESS.into()], 1000);
        assert_eq!(files(), 2, "it is named");
        // Its nextUpdate is at day 30; it was set aside at day 10.
        for day in [10, 16, 29] {
            sweep(&[], day);
            assert_eq!(files(), 2, "day {day}");
        }
        assert!(load(&store).expect("readable").is_some(), "put back, it starts with its list");
        sweep(&[], 28);
        sweep(&[], 34);
        assert_eq!(files(), 2, "seven days count anew");
        sweep(&[], 35);
        assert_eq!(files(), 1);
        assert!(load(&store).expect("readable").is_none());
    }

    #[test]
    fn a_damaged_list_that_nobody_names_goes_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        fs::write(store.path(ADDRESS), "garbage").expect("room");
        store.sweep(&[], NOW).expect("swept");
        store.sweep(&[], Timestamp(NOW.0 + 7 * DAY - 1)).expect("swept");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1);
        store.sweep(&[], Timestamp(NOW.0 + 7 * DAY)).expect("swept");
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
    }

    #[test]
    fn a_disk_that_fails_is_told_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path().join("lists")).expect("a store");
        fs::remove_dir(directory.path().join("lists")).expect("empty");
        for _ in 0..3 {
            assert!(store.kept(ADDRESS, store.begin(ADDRESS)).is_none());
            assert!(store.failing.load(Ordering::Relaxed));
        }
        fs::create_dir(directory.path().join("lists")).expect("room");
        let saving = store.kept(ADDRESS, store.begin(ADDRESS)).expect("a file");
        assert!(store.failing.load(Ordering::Relaxed), "an empty file is no proof");
        saving.commit(&meta(ADDRESS)).expect("committed");
        store.works();
        assert!(!store.failing.load(Ordering::Relaxed));
    }
}
