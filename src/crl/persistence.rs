//! The last good list of each address, on disk.
//!
//! What is kept is the list as it was received: its signature is checked again when it is loaded, so
//! that the file need not be believed.  The trailer has what a conditional request needs, and a
//! checksum of all before it.
//!
//! ```text
//! list · JSON of `Meta` · length of the JSON, 4 octets · SHA-256 of all that · magic, 8 octets
//! ```

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use crate::crl::transport::Validators;
use crate::domain::cert::Fingerprint;

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
}

/// A directory of lists.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// The store in `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    fn path(&self, address: &str) -> PathBuf {
        let name = Fingerprint::of(address.as_bytes()).to_string();
        self.directory.join(format!("{name}.crl"))
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

    /// Reads the list of `address`, in pieces; `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or is of another address; or `piece` refuses.
    pub fn load(
        &self,
        address: &str,
        mut piece: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Meta>> {
        let mut file = match File::open(self.path(address)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let length = file.metadata()?.len();
        let body = length.checked_sub(TAIL).ok_or_else(|| damaged("too short"))?;
        let mut tail = [0; TAIL as usize];
        file.seek(SeekFrom::Start(body))?;
        file.read_exact(&mut tail)?;
        let (meta_length, rest) = tail.split_at(4);
        let (checksum, magic) = rest.split_at(32);
        if magic != MAGIC {
            return Err(damaged("not a list of this program's"));
        }
        let meta_length = meta_length.iter().fold(0, |n, &b| (n << 8) | u64::from(b));
        let list = body
            .checked_sub(meta_length)
            .filter(|_| meta_length <= MAX_META)
            .ok_or_else(|| damaged("impossible lengths"))?;

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

    fn meta(address: &str) -> Meta {
        let validators = Validators { etag: Some("\"1\"".to_owned()), last_modified: None };
        Meta { address: address.to_owned(), validators, fetched: 7 }
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
}
