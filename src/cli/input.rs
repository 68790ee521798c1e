//! Files that a command line names.

use std::io::stdin;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::runtime::files::{ReadFileError, read_bounded, read_bounded_from};
use crate::runtime::log::Secret;

/// Limit in bytes on a file with a token, a secret or CA certificates.
const MAX_SMALL: u64 = 1 << 20;

/// Reads a file of up to `limit` bytes; `-` is standard input.
pub(super) fn read_input(path: &Path, limit: u64) -> Result<Vec<u8>, ReadFileError> {
    if path.as_os_str() == "-" {
        return read_bounded_from(stdin().lock(), "standard input", limit);
    }
    read_bounded(path, limit)
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
