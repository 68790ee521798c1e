//! Files that a command line names.

use std::fs::File;
use std::io::{self, Read, stdin};
use std::path::Path;

use anyhow::{Context, ensure};

use crate::runtime::files::{ReadFileCause, ReadFileError, read_bounded, read_bounded_from};
use crate::runtime::log::Secret;

/// Limit in bytes on a file with a token, a secret or CA certificates.
const MAX_SMALL: u64 = 1 << 20;
/// Bytes of one piece of a file.
const PIECE: usize = 256 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a file of up to `limit` bytes; `-` is standard input.
pub(super) fn read_input(path: &Path, limit: u64) -> Result<Vec<u8>, ReadFileError> {
    if path.as_os_str() == "-" {
        return read_bounded_from(stdin().lock(), "standard input", limit);
    }
    read_bounded(path, limit)
}

/// Passes a file of any size to `take` piece by piece, until it returns an error; `-` is standard input.
///
/// # Errors
/// The file cannot be opened or read.
pub(super) fn read_in_pieces<E>(
    path: &Path,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Result<(), E>, ReadFileError> {
    let is_stdin = path.as_os_str() == "-";
    let name = if is_stdin { Path::new("standard input") } else { path };
    let failed =
        |error: io::Error| ReadFileError { path: name.to_owned(), cause: ReadFileCause::Io(error) };
    let mut source: Box<dyn Read> = match is_stdin {
        true => Box::new(stdin().lock()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(Ok(())),
            Ok(read) => {
                if let Err(error) = take(&piece[..read]) {
                    return Ok(Err(error));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A list response.  A bare array, as `directory list --json` prints it, becomes the `value` of one.
pub(super) fn list_response(json: &[u8]) -> Vec<u8> {
    let text = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json).trim_ascii_start();
    match text.first() {
        Some(b'[') => [b"{\"value\":", text, b"}"].concat(),
        _ => text.to_vec(),
    }
}

/// Reads a PEM file of certification authorities.
pub(super) fn read_ca_bundle(path: &Path) -> Result<Vec<u8>, ReadFileError> {
    read_bounded(path, MAX_SMALL)
}

/// Reads a file that contains one token or secret, without white space around it.
pub(super) fn read_secret(path: &Path) -> anyhow::Result<Secret> {
    let bytes = zeroize::Zeroizing::new(read_bounded(path, MAX_SMALL)?);
    let name = path.display();
    let text = std::str::from_utf8(&bytes).with_context(|| format!("{name}: not UTF-8"))?.trim();
    ensure!(!text.is_empty(), "{name}: the file is empty");
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_array_becomes_a_list_response() {
        for (json, expected) in [
            (&b"[1]"[..], "{\"value\":[1]}"),
            (b"\xef\xbb\xbf \n[]", "{\"value\":[]}"),
            (b"{\"value\":[]}", "{\"value\":[]}"),
            (b"\xef\xbb\xbf{}", "{}"),
            (b"", ""),
        ] {
            assert_eq!(list_response(json), expected.as_bytes());
        }
    }

    #[test]
    fn a_file_without_an_end_is_read_until_it_is_refused() {
        let mut taken = 0_usize;
        let result = read_in_pieces(Path::new("/dev/zero"), |piece| {
            taken += piece.len();
            if taken > 4 * PIECE { Err(taken) } else { Ok(()) }
        });
        assert!(matches!(result, Ok(Err(taken)) if taken > 4 * PIECE));
        let error = read_in_pieces(Path::new("/nonexistent/ca.crl"), |_| Ok::<_, ()>(()));
        assert!(error.expect_err("missing").to_string().starts_with("/nonexistent/ca.crl: "));
    }
}
