//! A generated signing key after `oauth.signing_algorithm` has changed.
//!
//! A key is used with one algorithm only (RFC 8725 section 3.1), so a new key is generated.  The old one
//! is kept beside it, and published until the last of its tokens has expired:
//!
//! | file | contents |
//! |---|---|
//! | `signing-key.pem` | a line with the algorithm, and the key that signs, PKCS#8 PEM |
//! | `signing-key.<key ID>.previous` | a line with the end of the publication, then the old file |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::keyring::generate::{ALGORITHM, generate_signing_key, write_once};
use crate::keyring::{Config, KeyringError, parse_signing_key, read_own_secret};
use crate::token::keys::{Algorithm, SigningKey};
use crate::token::terms::MAX_LIFETIME;
use crate::x509::time::Timestamp;

/// Start of the first line of the file of an old key.
const PUBLISHED_UNTIL: &str = "Published-Until: ";
const EXTENSION: &str = "previous";

/// A key of an earlier algorithm whose tokens may still be valid.
pub(super) struct PreviousKey {
    pub(super) key: Arc<SigningKey>,
    pub(super) until: Timestamp,
}

/// Returns the algorithm of the generated signing key if it is another one than the configured one.
///
/// # Errors
/// The file exists and cannot be read.
pub fn other_algorithm(config: &Config) -> Result<Option<Algorithm>, KeyringError> {
    let is_generated = config.signs && config.generate_signing_key && config.rotation.is_none();
    if !is_generated || !config.signing_key.exists() {
        return Ok(None);
    }
    let file = read_own_secret(&config.signing_key, config.file_modes)?;
    // A file without a usable key is an error of those who read it.
    Ok(algorithm_of(&config.signing_key, &file, config.algorithm)
        .filter(|algorithm| *algorithm != config.algorithm))
}

/// Returns the algorithm of a key: that of the line in its file, else `likely` if the key can be used
/// with it, else the first one that it can be used with.
pub(super) fn algorithm_of(path: &Path, file: &[u8], likely: Algorithm) -> Option<Algorithm> {
    let fits = |algorithm: &Algorithm| parse_signing_key(*algorithm, path, file).is_ok();
    let stated = line(file, ALGORITHM).and_then(|name| Algorithm::parse(&name));
    let candidates = std::iter::once(likely).chain(Algorithm::ALL);
    stated.into_iter().chain(candidates).find(fits)
}

/// Replaces a generated signing key of another algorithm by a new one, and keeps the old one for
/// publication.  Deletes old keys whose last token has expired.  The caller holds the lock of the data
/// directory.
///
/// # Errors
/// A file cannot be read or written.
pub fn replace_key_of_other_algorithm(config: &Config, now: Timestamp) -> Result<(), KeyringError> {
    remove_expired(config, now);
    let Some(old) = other_algorithm(config)? else { return Ok(()) };
    let path = &config.signing_key;
    let file = read_own_secret(path, config.file_modes)?;
    let kid = parse_signing_key(old, path, &file)?.kid().to_owned();
    let until = now.after(MAX_LIFETIME);
    let mut contents = Zeroizing::new(format!("{PUBLISHED_UNTIL}{until}\n").into_bytes());
    if line(&file, ALGORITHM).is_none() {
        contents.extend_from_slice(format!("{ALGORITHM}{}\n", old.as_str()).as_bytes());
    }
    contents.extend_from_slice(&file);
    let previous = path.with_extension(format!("{kid}.{EXTENSION}"));
    write_once(&previous, &contents)
        .map_err(|error| KeyringError::Write { path: previous, error })?;
    // If the process ends here, the next start generates the new key.
    fs::remove_file(path).map_err(|error| KeyringError::Write { path: path.clone(), error })?;
    generate_signing_key(path, config.algorithm)?;
    let (old, new) = (old.as_str(), config.algorithm.as_str());
    info!(old, new, %until, "signing key of another algorithm generated; the old key stays published");
    Ok(())
}

/// Returns the keys of earlier algorithms that are published at `now`.
pub(super) fn previous_keys(config: &Config, now: Timestamp) -> Vec<PreviousKey> {
    let mut keys = Vec::new();
    for path in previous_files(config) {
        match read_previous(config, &path) {
            Ok(previous) if now < previous.until => keys.push(previous),
            Ok(_) => {}
            Err(error) => warn!(%error, "old signing key not published"),
        }
    }
    keys
}

/// Deletes the files of old keys whose last token has expired.
pub(super) fn remove_expired(config: &Config, now: Timestamp) {
    for path in previous_files(config) {
        let expired = read_previous(config, &path).is_ok_and(|previous| previous.until <= now);
        if let Some(Err(error)) = expired.then(|| fs::remove_file(&path)) {
            warn!(file = %path.display(), %error, "old signing key not deleted");
        }
    }
}

fn previous_files(config: &Config) -> Vec<PathBuf> {
    let (Some(folder), Some(stem)) = (config.signing_key.parent(), config.signing_key.file_stem())
    else {
        return Vec::new();
    };
    let prefix = format!("{}.", stem.display());
    let is_previous = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && name.ends_with(&format!(".{EXTENSION}"))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(is_previous).collect();
    files.sort();
    files
}

fn read_previous(config: &Config, path: &Path) -> Result<PreviousKey, KeyringError> {
    let file = read_own_secret(path, config.file_modes)?;
    let contents =
        |why: &str| KeyringError::Contents { path: path.to_owned(), why: why.to_owned() };
    let until = line(&file, PUBLISHED_UNTIL)
        .and_then(|time| Timestamp::parse_rfc3339(&time))
        .ok_or_else(|| contents("the first line is not `Published-Until: ` and a time"))?;
    let algorithm = algorithm_of(path, &file, config.algorithm)
        .ok_or_else(|| contents("the file contains no signing key"))?;
    Ok(PreviousKey { key: Arc::new(parse_signing_key(algorithm, path, &file)?), until })
}

/// Returns the rest of the line before the PEM that starts with `name`.
fn line(file: &[u8], name: &str) -> Option<String> {
    let lines =
        file.split(|&b| b == b'\n').map(|line| std::str::from_utf8(line).unwrap_or_default());
    let mut header = lines.take_while(|line| !line.starts_with("-----"));
    header.find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::signing_keys;
    use crate::keyring::tests::config;
    use crate::token::keys::SigningKeys;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    /// Starts with `algorithm` at `now`.
    fn start(dir: &Path, algorithm: Algorithm, now: Timestamp) -> SigningKeys {
        let config = Config { algorithm, ..config(dir) };
        replace_key_of_other_algorithm(&config, now).expect("replaced");
        let current = signing_keys(&config).expect("keys");
        let previous: Vec<_> = previous_keys(&config, now).into_iter().map(|p| p.key).collect();
        let current = parse_signing_key(
            algorithm,
            &config.signing_key,
            &fs::read(&config.signing_key).expect("there"),
        )
        .inspect(|key| assert_eq!(key.kid(), current.current().kid()))
        .expect("a key");
        SigningKeys::new(Arc::new(current), &previous).expect("a set")
    }

    fn kid(keys: &SigningKeys) -> String {
        keys.current().kid().to_owned()
    }

    #[test]
    fn a_key_of_each_algorithm_is_generated_and_the_old_ones_stay_published_for_a_token_life() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut kids: Vec<String> = Vec::new();
        // PS256 and RS256 can use one RSA key, which must not happen.
        for algorithm in [Algorithm::Es256, Algorithm::Ps256, Algorithm::Rs256, Algorithm::Es256] {
            let keys = start(dir.path(), algorithm, NOW);
            assert_eq!(keys.current().algorithm(), algorithm.as_str());
            assert!(!kids.contains(&kid(&keys)), "a new key");
            for old in &kids {
                assert!(keys.jwks().contains(old), "{algorithm:?}");
            }
            assert_eq!(kid(&start(dir.path(), algorithm, NOW)), kid(&keys), "generated once");
            kids.push(kid(&keys));
        }
        let keys = start(dir.path(), Algorithm::Es256, NOW.after(MAX_LIFETIME));
        assert_eq!(keys.list().count(), 1, "the last tokens have expired");
        assert_eq!(fs::read_dir(dir.path().join("state")).expect("a folder").count(), 1);
    }

    /// An RSA key of an earlier version states no algorithm.
    #[test]
    fn a_file_without_an_algorithm_is_used_with_the_configured_one_if_it_fits() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = start(dir.path(), Algorithm::Ps256, NOW);
        let path = config(dir.path()).signing_key;
        let text = fs::read_to_string(&path).expect("there");
        let (header, pem) = text.split_once('\n').expect("a line");
        assert_eq!(header, "Algorithm: PS256");
        fs::write(&path, pem).expect("written");
        assert_eq!(kid(&start(dir.path(), Algorithm::Ps256, NOW)), kid(&first));
        let other = start(dir.path(), Algorithm::EdDsa, NOW);
        assert_ne!(kid(&other), kid(&first));
        assert!(other.jwks().contains(&kid(&first)));
    }

    /// An operator returns to the old algorithm, with the old key.
    #[test]
    fn an_old_key_can_become_the_current_one_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = start(dir.path(), Algorithm::Es256, NOW);
        let path = config(dir.path()).signing_key;
        let file = fs::read(&path).expect("there");
        let other = start(dir.path(), Algorithm::EdDsa, NOW);
        fs::write(&path, file).expect("written");
        replace_key_of_other_algorithm(&config(dir.path()), NOW).expect("nothing to do");
        let keys = signing_keys(&config(dir.path())).expect("usable");
        assert_eq!(kid(&keys), kid(&first));
        assert_ne!(kid(&keys), kid(&other));
    }

    #[test]
    fn a_configured_or_damaged_file_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        start(dir.path(), Algorithm::Es256, NOW);
        let generated = Config { algorithm: Algorithm::EdDsa, ..config(dir.path()) };
        let configured = Config { generate_signing_key: false, ..generated.clone() };
        let before = fs::read(&configured.signing_key).expect("there");
        replace_key_of_other_algorithm(&configured, NOW).expect("nothing to do");
        assert!(signing_keys(&configured).is_err());
        assert_eq!(fs::read(&configured.signing_key).expect("there"), before);
        fs::write(&generated.signing_key, "not a key").expect("written");
        replace_key_of_other_algorithm(&generated, NOW).expect("nothing to do");
        assert_eq!(fs::read(&generated.signing_key).expect("there"), b"not a key");
    }
}
