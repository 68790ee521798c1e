//! Format of a backup: a text file with one JSON object on a line.
//!
//! The first line names the format, the directory and its last version.  Then come all objects, then all
//! references between them.  The last line has their number and the SHA-256 of the bytes before it, so
//! that a file that is cut short or changed is recognised.  One line at a time is in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::runtime::clock;
use crate::store::objects::{Collection, Record, StoreError};

/// Name and version of the format.
const FORMAT: &str = "anchorgate-directory-backup/1";
/// Longest line in bytes.  The longest object, 1 MiB of JSON, needs a tenth of it.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// Contents of a backup, without the objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// Identity of the directory, which all copies of it share.
    pub directory: String,
    /// Time at which the backup was made.
    pub created: String,
    /// Version of the directory's last change.
    pub version: u64,
    /// Number of objects.
    pub objects: u64,
    /// SHA-256 of the file without its last line, in hexadecimal.
    pub sha256: String,
}

/// An object that refers to another one: collection and id of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reference {
    pub(super) from: (String, String),
    pub(super) to: (String, String),
}

/// Line of a backup between the first and the last one.
pub(super) enum Entry {
    Object(Collection, Record),
    Reference(Reference),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Line {
    Start { format: String, directory: String, created: String, version: u64 },
    Object { collection: String, id: String, version: u64, body: String },
    Reference(Reference),
    End { objects: u64, references: u64, sha256: String },
}

/// Writes a backup line by line.
pub(super) struct Writer<W> {
    out: W,
    hash: Context,
    backup: Backup,
    references: u64,
}

impl<W: Write> Writer<W> {
    /// Begins the backup of a directory whose last change has `version`.
    pub(super) fn start(out: W, directory: String, version: u64) -> io::Result<Self> {
        let created = clock::now().to_string();
        let line = Line::Start {
            format: FORMAT.into(),
            directory: directory.clone(),
            created: created.clone(),
            version,
        };
        let backup = Backup { directory, created, version, objects: 0, sha256: String::new() };
        let mut this = Self { out, hash: Context::new(&SHA256), backup, references: 0 };
        this.write(&line)?;
        Ok(this)
    }

    pub(super) fn object(
        &mut self,
        collection: Collection,
        id: &str,
        version: u64,
        body: &[u8],
    ) -> io::Result<()> {
        self.backup.objects += 1;
        let (collection, id, body) = (collection.name().into(), id.into(), STANDARD.encode(body));
        self.write(&Line::Object { collection, id, version, body })
    }

    pub(super) fn reference(&mut self, from: (&str, &str), to: (&str, &str)) -> io::Result<()> {
        self.references += 1;
        let owned = |(collection, id): (&str, &str)| (collection.to_owned(), id.to_owned());
        self.write(&Line::Reference(Reference { from: owned(from), to: owned(to) }))
    }

    /// Writes the last line.
    pub(super) fn end(mut self) -> io::Result<(W, Backup)> {
        self.backup.sha256 = hexadecimal(self.hash.clone());
        let (objects, sha256) = (self.backup.objects, self.backup.sha256.clone());
        self.write(&Line::End { objects, references: self.references, sha256 })?;
        Ok((self.out, self.backup))
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.hash.update(&bytes);
        self.out.write_all(&bytes)
    }
}

/// Reads a backup and passes its entries to `each`.  The backup is complete and unchanged only if this
/// returns it.
///
/// # Errors
/// [`StoreError::Refused`] with the fault of the file, or an error of `each`.
pub(super) fn read<E: From<StoreError>>(
    file: impl Read,
    mut each: impl FnMut(Entry) -> Result<(), E>,
) -> Result<Backup, E> {
    let mut lines = Lines { file: BufReader::new(file), hash: Context::new(&SHA256), number: 0 };
    let Line::Start { format, directory, created, version } = lines.next()?.0 else {
        return Err(lines.fault("it is not the first line of a backup").into());
    };
    if format != FORMAT {
        let why = format!("the format is {format:?}; this program reads {FORMAT:?}");
        return Err(lines.fault(&why).into());
    }
    let mut backup = Backup { directory, created, version, objects: 0, sha256: String::new() };
    let mut references = 0;
    loop {
        let (line, hash) = lines.next()?;
        match line {
            Line::Start { .. } => return Err(lines.fault("it begins another backup").into()),
            Line::Object { collection, id, version, body } => {
                let known = Collection::ALL.into_iter().find(|known| known.name() == collection);
                let (Some(collection), Ok(body)) = (known, STANDARD.decode(body)) else {
                    return Err(lines.fault("it does not have a valid object").into());
                };
                if version > backup.version {
                    return Err(lines.fault("its version is above that of the backup").into());
                }
                backup.objects += 1;
                each(Entry::Object(collection, Record { id, version, body }))?;
            }
            Line::Reference(reference) => {
                references += 1;
                each(Entry::Reference(reference))?;
            }
            Line::End { sha256, .. } if sha256 != hash => {
                let why =
                    format!("the SHA-256 of the file is {hash}, not {sha256}: it was changed");
                return Err(lines.fault(&why).into());
            }
            Line::End { objects, references: expected, sha256 } => {
                if (objects, expected) != (backup.objects, references) {
                    return Err(lines.fault("it has another number of objects").into());
                }
                if !lines.is_at_end().map_err(|error| lines.fault(&error.to_string()))? {
                    return Err(lines.fault("bytes follow the last line").into());
                }
                backup.sha256 = sha256;
                return Ok(backup);
            }
        }
    }
}

struct Lines<R> {
    file: BufReader<R>,
    hash: Context,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Returns the next line, and the hash of the bytes before it.
    fn next(&mut self) -> Result<(Line, String), StoreError> {
        self.number += 1;
        let mut bytes = Vec::new();
        let read = self.file.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        read.map_err(|error| self.fault(&error.to_string()))?;
        if bytes.last() != Some(&b'\n') {
            return Err(self.fault("the file ends early"));
        }
        // The file can be any file, so that its text is not in the message.
        let line = serde_json::from_slice(&bytes);
        let line = line.map_err(|_| self.fault("it is not a line of a backup"))?;
        let before = match line {
            Line::End { .. } => hexadecimal(self.hash.clone()),
            _ => String::new(),
        };
        self.hash.update(&bytes);
        Ok((line, before))
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        Ok(self.file.fill_buf()?.is_empty())
    }

    fn fault(&self, why: &str) -> StoreError {
        StoreError::Refused(format!(
            "the backup is not valid, line {}: {why}. The directory is unchanged",
            self.number
        ))
    }
}

/// Creates the file of a backup, which only its owner can read, and lets `write` fill it.  An incomplete
/// file is removed.
pub(super) fn create(
    path: &Path,
    write: impl FnOnce(File) -> Result<Backup, StoreError>,
) -> Result<Backup, StoreError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let backup = file.map_err(|error| refused(path, &error)).and_then(|file| {
        write(file).inspect_err(|_| {
            // The first error is the one to report.
            let _ = fs::remove_file(path);
        })
    })?;
    // The name is on disk too.
    let folder = path.parent().map(File::open);
    folder.map_or(Ok(()), |folder| folder?.sync_all()).map_err(|error| refused(path, &error))?;
    Ok(backup)
}

/// Opens the file of a backup.
pub(super) fn open(path: &Path) -> Result<File, StoreError> {
    // Opening a pipe would wait for its writer.
    let opened = fs::metadata(path).and_then(|found| match found.is_file() {
        true => File::open(path),
        false => Err(io::Error::other("it is not a file")),
    });
    opened.map_err(|error| refused(path, &error))
}

fn refused(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Refused(format!("{}: {error}", path.display()))
}

fn hexadecimal(hash: Context) -> String {
    hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut writer = Writer::start(Vec::new(), "d".into(), 9).expect("written");
        writer.object(Collection::DeviceTemplates, "t", 8, b"one").expect("written");
        writer.object(Collection::Devices, "a", 9, b"two").expect("written");
        let (from, to) = (("devices", "a"), ("deviceTemplates", "t"));
        writer.reference(from, to).expect("written");
        writer.end().expect("written").0
    }

    fn check(bytes: &[u8]) -> Result<Backup, StoreError> {
        read(bytes, |_| Ok::<_, StoreError>(()))
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_recognised() {
        let good = written();
        assert_eq!(check(&good).expect("complete").objects, 2);
        for at in 0..good.len() {
            assert!(check(&good[..at]).is_err(), "cut at {at}");
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(check(&bad).is_err(), "changed at {at}");
        }
        let longer = [&good[..], b"\n"].concat();
        assert!(check(&longer).is_err());
    }

    #[test]
    fn another_format_is_named() {
        let text = String::from_utf8(written()).expect("text").replace("backup/1", "backup/2");
        let error = check(text.as_bytes()).expect_err("another format").to_string();
        assert!(error.contains("anchorgate-directory-backup/2"), "{error}");
        assert!(error.contains("this program reads \"anchorgate-directory-backup/1\""), "{error}");
        let error = check(b"root:x:0:0\n").expect_err("not a backup").to_string();
        assert!(error.contains("line 1") && !error.contains("root"), "{error}");
    }
}
