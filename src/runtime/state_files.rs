//! Opening of files that the gateway itself writes, in its data directory.
//!
//! A symbolic link in the place of such a file is refused.  The gateway never creates one, and following it
//! would write to, or trust, a file of someone else.  Directories on the way may be links.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens `path` for reading.
///
/// # Errors
/// The file cannot be opened, or is a symbolic link.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// Creates `path` for writing, or empties it.
///
/// # Errors
/// As [`open()`].
pub(crate) fn create(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().write(true).create(true).truncate(true), path)
}

/// Opens `path` with these options.
///
/// # Errors
/// As [`open()`].
pub(crate) fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let opened = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::LOOP.raw_os_error() => refused(),
        _ => error,
    })
}

/// Checks that `path` is not a symbolic link, for a library that opens it.
///
/// # Errors
/// It is one.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(metadata) if metadata.is_symlink() => Err(refused()),
        _ => Ok(()),
    }
}

fn refused() -> io::Error {
    let why =
        "a symbolic link is not followed here; replace it by the file, or link the whole directory";
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_is_neither_read_nor_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "kept").expect("written");
        symlink(&target, &link).expect("linked");
        for opened in [open(&link), create(&link)] {
            let error = opened.expect_err("a link").to_string();
            assert!(error.contains("a symbolic link is not followed"), "{error}");
        }
        assert!(check(&link).is_err() && check(&target).is_ok());
        assert_eq!(fs::read(&target).expect("read"), b"kept");
        // A link to a file that does not exist creates none.
        let dangling = folder.path().join("dangling");
        symlink(folder.path().join("absent"), &dangling).expect("linked");
        assert!(create(&dangling).is_err() && check(&dangling).is_err());
        assert!(!folder.path().join("absent").exists());
        assert!(open(&target).is_ok() && create(&target).is_ok());
        // The directory may be a link.
        let directory = folder.path().join("directory");
        symlink(folder.path(), &directory).expect("linked");
        assert!(open(&directory.join("target")).is_ok());
    }
}
