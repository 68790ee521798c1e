//! Files that a configuration names and that are read together with it: secrets and certificates.

use std::path::PathBuf;

use crate::x509::certificate::Fingerprint;

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedFile {
    /// Key that names it, with the numbers of array items: `graph[0].credential.token_file`.
    pub(super) key: String,
    /// Path, as it was read.
    pub(super) path: PathBuf,
    /// Hash of the bytes that were read.
    pub(super) content: Fingerprint,
}

/// Hash of a configuration file's bytes and of the named files; `None` is an unreadable file.
pub(super) fn hash(
    text: &[u8],
    named: impl IntoIterator<Item = Option<Fingerprint>>,
) -> Fingerprint {
    let mut all = Fingerprint::of(text).0.to_vec();
    for content in named {
        all.push(u8::from(content.is_some()));
        all.extend(content.map_or([0; 32], |content| content.0));
    }
    Fingerprint::of(&all)
}
