//! Journal of removals: a file beside the saved versions of a follower's data.
//!
//! A follower keeps two saved versions.  If the newest is damaged or missing at a start, the previous one
//! is read, and may contain what the newest had removed: anchors, addresses of lists, devices.  The
//! journal names what the newest removed and is applied to it.  Each save writes the journal before the
//! data.  A journal that is damaged, missing or older than the version that is read is not usable; then
//! [`Config::start_without`](crate::sync::Config::start_without) decides.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::sync::files::{self, Saved};
use crate::x509::time::Timestamp;

/// Suffix of the file's name.
const SUFFIX: &str = ".journal";

/// Path of the journal beside `state`.
fn path(state: &Path) -> PathBuf {
    let mut name: OsString = state.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// Writes what `encode` returns to the journal beside `state`.
pub(super) async fn write(
    state: &Path,
    kind: &'static str,
    encode: impl FnOnce() -> Result<Vec<u8>, String> + Send + 'static,
) -> Result<(), String> {
    files::write(path(state), kind, encode).await
}

/// Reads the journal beside `state` and applies it to `saved`, unless `saved` is at least as new.
///
/// If `saved` is a previous version and the journal is not usable, [`Saved::may_readmit`] has the reason.
pub(super) async fn apply<T, J: Send + 'static>(
    saved: &mut Saved<T>,
    state: &Path,
    forms: &'static [&'static str],
    limit: u64,
    decode: impl FnOnce(&[u8]) -> Result<(J, Timestamp), String> + Send + 'static,
    restrict: impl FnOnce(&mut T, J),
) {
    let decode = |payload: &[u8]| decode(payload).map(Some);
    let journal = match files::read(path(state), forms, limit, decode).await {
        Ok(Some(Saved { fell_back: None, data, at, .. })) => Ok((data, at)),
        Ok(Some(Saved { fell_back: Some(why), .. })) | Err(why) => Err(why),
        Ok(None) => Err(format!("{}: the file does not exist", path(state).display())),
    };
    let is_previous = saved.fell_back.is_some();
    match journal {
        // The newest version lacks everything that its own journal names.
        Ok((journal, at)) if saved.at < at || (is_previous && saved.at == at) => {
            restrict(&mut saved.data, journal);
        }
        _ if !is_previous => {}
        Ok((_, at)) => {
            let (journal, previous) = (path(state), saved.at);
            let why = format!("{}: it is of {at}, before {previous}", journal.display());
            saved.may_readmit = Some(why);
        }
        Err(why) => saved.may_readmit = Some(why),
    }
}
