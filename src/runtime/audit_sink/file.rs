//! A file of audit records that is rotated by size and by age.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::runtime::audit_sink::attempts::until_done;
use crate::x509::time::Timestamp;

/// Bytes at the end of a file in which its last line is looked for.
const TAIL: u64 = 64 * 1024;
/// Length of the end of an earlier file's name, such as `20261121T080000Z-0000`.
const END: usize = 21;

/// Limits of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes after which a new file is started.
    pub max_bytes: u64,
    /// Age after which a new file is started.
    pub max_age: Duration,
    /// Earlier files that are kept.
    pub keep: usize,
    /// Wait after each record until it is on the disk.
    pub sync: bool,
}

/// The file that is written, and its earlier files.
pub(super) struct RotatedFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
    started: SystemTime,
}

impl RotatedFile {
    /// Opens the file and returns its last line.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(path: PathBuf, rotation: Rotation) -> io::Result<(Self, Option<Vec<u8>>)> {
        let mut file = open(&path)?;
        let last = last_line(&mut file)?;
        if last.as_ref().is_some_and(|(_, is_whole)| !is_whole) {
            // The process ended while it wrote.  The next record starts on a line of its own.
            file.write_all(b"\n")?;
        }
        let metadata = file.metadata()?;
        // A file system without creation times starts a new file at the latest `max_age` after the start.
        let started = metadata.created().unwrap_or_else(|_| SystemTime::now());
        let bytes = metadata.len();
        Ok((Self { path, rotation, file, bytes, started }, last.map(|(line, _)| line)))
    }

    /// Starts a new file if the current one is too old, or too large for `more` bytes.
    fn rotate(&mut self, more: usize) -> io::Result<()> {
        let is_old = self.started.elapsed().is_ok_and(|age| age >= self.rotation.max_age);
        let is_large = self.bytes.saturating_add(more as u64) > self.rotation.max_bytes;
        if self.bytes == 0 || !(is_old || is_large) {
            return Ok(());
        }
        self.file.sync_all()?;
        fs::rename(&self.path, self.next_name()?)?;
        self.file = open(&self.path)?;
        (self.bytes, self.started) = (0, SystemTime::now());
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        let earlier = earlier_files(&self.path)?;
        let surplus = earlier.len().saturating_sub(self.rotation.keep);
        earlier.iter().take(surplus).try_for_each(fs::remove_file)
    }

    /// Name of a file that ends now: the path, the time, and a number.  It sorts after all earlier names,
    /// also when the clock was set back.
    fn next_name(&self) -> io::Result<PathBuf> {
        let mut time = Timestamp::from(SystemTime::now()).to_string().replace(['-', ':'], "");
        let mut number = 0;
        if let Some(newest) = earlier_files(&self.path)?.last() {
            let name = newest.to_string_lossy();
            let end = &name[name.len() - END..];
            let (newest, last) = (&end[..END - 5], end[END - 4..].parse().unwrap_or(0));
            if *newest >= *time {
                (time, number) = (newest.to_owned(), last + 1);
            }
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{time}-{number:04}"));
        Ok(PathBuf::from(name))
    }

    /// Writes the line whole, or leaves the file as it was.
    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        self.rotate(line.len())?;
        let written = self.file.write_all(line);
        let written = match self.rotation.sync {
            true => written.and_then(|()| self.file.sync_data()),
            false => written,
        };
        match written {
            Ok(()) => self.bytes += line.len() as u64,
            Err(_) => self.file.set_len(self.bytes)?,
        }
        written
    }
}

/// Writes whole lines.  A failed write is tried again until it succeeds.
impl Write for RotatedFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        until_done(|| self.append(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

/// The last line without its end, and whether it has one.
fn last_line(file: &mut File) -> io::Result<Option<(Vec<u8>, bool)>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let is_whole = tail.ends_with(b"\n");
    let lines = tail.strip_suffix(b"\n").unwrap_or(&tail);
    let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok((length > 0).then(|| (last.to_vec(), is_whole)))
}

/// The earlier files, oldest first.
fn earlier_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let prefix = path.file_name().unwrap_or_default().to_string_lossy().into_owned() + ".";
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // Other files of the folder are left alone.
        let is_time = |end: &str| {
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            end.len() == END
                && end.is_ascii()
                && digits(&end[..8])
                && &end[8..9] == "T"
                && digits(&end[9..15])
                && &end[15..17] == "Z-"
                && digits(&end[17..])
        };
        if name.strip_prefix(&prefix).is_some_and(is_time) {
            files.push(folder.join(name));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn rotation(max_bytes: u64, max_age: Duration) -> Rotation {
        Rotation { max_bytes, max_age, keep: 2, sync: true }
    }

    #[test]
    fn rotates_by_size_and_keeps_the_newest_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        fs::write(folder.path().join("audit.log.old"), "kept").expect("written");
        let (mut file, last) = RotatedFile::open(path.clone(), rotation(10, HOUR)).expect("opened");
        assert_eq!(last, None);
        for n in 0..5 {
            file.write_all(format!("line {n}\n").as_bytes()).expect("written");
        }
        assert_eq!(fs::read_to_string(&path).expect("read"), "line 4\n");
        let earlier = earlier_files(&path).expect("listed");
        let texts: Vec<_> =
            earlier.iter().map(|file| fs::read_to_string(file).expect("read")).collect();
        assert_eq!(texts, ["line 2\n", "line 3\n"]);
        assert!(folder.path().join("audit.log.old").exists(), "not a file of ours");
    }

    #[test]
    fn rotates_by_age() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let (mut file, _) =
            RotatedFile::open(path.clone(), rotation(1000, Duration::ZERO)).expect("opened");
        file.write_all(b"1\n").expect("written");
        file.write_all(b"2\n").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "2\n");
    }

    #[test]
    fn continues_after_the_last_line_even_if_it_is_incomplete() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        for (before, last, after) in
            [("a\nb\n", "b", "a\nb\nc\n"), ("a\nb", "b", "a\nb\nc\n"), ("a", "a", "a\nc\n")]
        {
            fs::write(&path, before).expect("written");
            let (mut file, line) =
                RotatedFile::open(path.clone(), rotation(1000, HOUR)).expect("opened");
            assert_eq!(line.as_deref(), Some(last.as_bytes()));
            file.write_all(b"c\n").expect("written");
            assert_eq!(fs::read_to_string(&path).expect("read"), after);
        }
    }
}
