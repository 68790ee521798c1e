//! The gateway's own keys: the server certificate, signing keys and ticket secrets.
//!
//! They are read from files, and read again when a file changes.  A signing key can be generated.

mod check;
mod generate;
mod key_directory;
mod other_algorithm;
mod rotation;
mod unusable;
mod validity;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::keyring::generate::generate_signing_key;
use crate::keyring::other_algorithm::previous_keys;
use crate::runtime::clock;
use crate::runtime::files::{ReadFileError, read_bounded, read_bounded_from};
use crate::runtime::secret_files::{FileModes, ModeFault};
use crate::runtime::state_files;
use crate::token::keys::{Algorithm, KeyError, SigningKey, SigningKeys};
use crate::x509::pem;

pub use check::check;
pub use other_algorithm::{other_algorithm, replace_key_of_other_algorithm};
pub use rotation::{
    Handle, KeyStatus, RotationConfig, RotationError, Rotator, SPREAD, check_directory,
};
pub(crate) use validity::{NameReport, invalidity};
pub use validity::{problems, validity};
pub use watch::{Change, watch};

/// Limit of a key file in bytes.
const MAX_FILE: u64 = 1024 * 1024;
/// Shortest ticket secret in bytes, the length of the key that is derived from it.
const MIN_SECRET: usize = 32;

/// Locations of the key files.
#[derive(Debug, Clone)]
pub struct Config {
    /// Certificate chain of the server, PEM, leaf first.
    pub certificate: PathBuf,
    /// Private key of the server, PEM.
    pub key: PathBuf,
    /// Key that signs tokens, PKCS#8 PEM.
    pub signing_key: PathBuf,
    /// Tokens are signed.  Otherwise no signing key is read, generated or published.
    pub signs: bool,
    /// Algorithm of the signing keys, except those of clients with an algorithm of their own.
    pub algorithm: Algorithm,
    /// Rotate the signing keys, in a directory.  `signing_key` is then the first of them.
    pub rotation: Option<RotationConfig>,
    /// Generate the signing key if its file does not exist.
    pub generate_signing_key: bool,
    /// Further keys that are published but do not sign: the next one before a rotation, and the
    /// previous one after it.
    pub published_keys: Vec<PathBuf>,
    /// Secrets for session tickets, any bytes.  The first one seals; all of them open.
    pub ticket_keys: Vec<PathBuf>,
    /// Key files that are refused because of their modes.
    pub file_modes: FileModes,
}

/// Error of reading or generating a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadFileError),
    /// A file cannot be written.
    #[error("{path}: {error}")]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },
    /// Other users can read or replace the key.
    #[error(transparent)]
    Mode(#[from] ModeFault),
    /// The file does not contain a usable key, or a key cannot be generated.
    #[error("{path}: {why}")]
    Contents {
        /// Path of the file.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// The file of a setting cannot be read or used.
    #[error("{key}: {error}")]
    Setting {
        /// The configuration key.
        key: &'static str,
        /// The error of the file.
        error: Box<KeyringError>,
    },
    /// The signing keys do not form a valid key set.
    #[error("signing keys: {0}")]
    Set(#[from] KeyError),
}

/// Reads the server's certificate and key and checks that they belong together.
///
/// # Errors
/// A file cannot be read, contains no certificate or key, or the key does not belong to the
/// certificate.
pub fn identity(
    config: &Config,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, KeyringError> {
    let (chain, key) = (server_chain(config)?, private_key(config)?);
    CertifiedKey::from_der(chain.clone(), key, provider)
        .map(Arc::new)
        .map_err(|error| unusable::mismatch(config, &chain, &error))
}

fn contents(path: &Path, why: String) -> KeyringError {
    KeyringError::Contents { path: path.to_owned(), why }
}

fn server_chain(config: &Config) -> Result<Vec<CertificateDer<'static>>, KeyringError> {
    let path = &config.certificate;
    let file = read_bounded(path, MAX_FILE).map_err(KeyringError::from);
    let chain = file
        .and_then(|file| pem::certificates(&file).map_err(|e| contents(path, e.to_string())))
        .map_err(|error| error.of_setting("tls.certificate"))?;
    Ok(chain.into_iter().map(CertificateDer::from).collect())
}

fn private_key(config: &Config) -> Result<PrivateKeyDer<'static>, KeyringError> {
    let pem =
        read_secret(&config.key, config.file_modes).map_err(|error| error.of_setting("tls.key"))?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        unusable::no_private_key(&config.key, &pem, &error.to_string()).of_setting("tls.key")
    })
}

/// Reads the signing keys, with those of earlier algorithms.  Generates the signing key if its file does
/// not exist and the configuration allows it.  If nothing is signed, the key is never written or
/// published.
///
/// # Errors
/// A file cannot be read or written, or contains no key of the algorithm.
pub(crate) fn signing_keys(config: &Config) -> Result<SigningKeys, KeyringError> {
    if !config.signs {
        let path = &config.signing_key;
        let pem = generate::new_key_pem(path, config.algorithm)?;
        let key = parse_signing_key(config.algorithm, path, pem.as_bytes())?;
        return Ok(SigningKeys::unpublished(Arc::new(key)));
    }
    if config.generate_signing_key && !config.signing_key.exists() {
        generate_signing_key(&config.signing_key, config.algorithm)?;
    }
    let (current, mut others) = read_signing_keys(config)?;
    for previous in previous_keys(config, clock::now()) {
        // An operator can have made an old key the current one again.
        let is_same = |key: &Arc<SigningKey>| key.kid() == previous.key.kid();
        if !is_same(&current) && !others.iter().any(is_same) {
            others.push(previous.key);
        }
    }
    Ok(SigningKeys::new(current, &others)?)
}

/// Removes files that a process left behind when it ended while it wrote a signing key.  The caller
/// holds the lock of the data directory, so no other process writes one now.
pub(crate) fn remove_temporary_files(config: &Config) {
    let (Some(folder), Some(stem)) = (config.signing_key.parent(), config.signing_key.file_stem())
    else {
        return;
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let middle = name.to_str().and_then(|name| {
            name.strip_prefix(stem.to_str()?)?.strip_prefix('.')?.strip_suffix(".new")
        });
        if middle.is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The signing key, and the other published keys.
type KeyFiles = (Arc<SigningKey>, Vec<Arc<SigningKey>>);

fn read_signing_keys(config: &Config) -> Result<KeyFiles, KeyringError> {
    let read = |path: &PathBuf| signing_key(config, path).map(Arc::new);
    let others = config.published_keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Ok((read(&config.signing_key)?, others))
}

/// Reads the secrets for session tickets.
///
/// # Errors
/// A file cannot be read or is too short.
pub(crate) fn ticket_secrets(config: &Config) -> Result<Vec<Zeroizing<Vec<u8>>>, KeyringError> {
    config.ticket_keys.iter().map(|path| ticket_secret(config, path)).collect()
}

fn ticket_secret(config: &Config, path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let secret = read_secret(path, config.file_modes)?;
    let bytes = secret.len();
    if bytes < MIN_SECRET {
        let why =
            format!("the ticket secret has {bytes} bytes; at least {MIN_SECRET} are required");
        return Err(contents(path, why));
    }
    Ok(secret)
}

/// Reads a file with a secret.
fn read_secret(path: &Path, modes: FileModes) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let secret = Zeroizing::new(read_bounded(path, MAX_FILE)?);
    modes.check(path)?;
    Ok(secret)
}

/// Reads a file with a secret that this program writes.
fn read_own_secret(path: &Path, modes: FileModes) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let failed =
        |error: std::io::Error| ReadFileError { path: path.to_owned(), cause: error.into() };
    let file = state_files::open(path).map_err(failed)?;
    let secret = Zeroizing::new(read_bounded_from(file, path, MAX_FILE)?);
    modes.check(path)?;
    Ok(secret)
}

/// Returns the files with secrets that the configuration names.
pub(crate) fn secret_files(config: &Config) -> Vec<&Path> {
    let signing = [&config.signing_key].into_iter().chain(&config.published_keys);
    let signing = signing.filter(|_| config.signs);
    let files = [&config.key].into_iter().chain(signing).chain(&config.ticket_keys);
    files.map(PathBuf::as_path).collect()
}

fn signing_key(config: &Config, path: &Path) -> Result<SigningKey, KeyringError> {
    let algorithm = config.algorithm;
    let is_own = config.generate_signing_key && path == config.signing_key;
    let read = if is_own { read_own_secret } else { read_secret };
    let pem = read(path, config.file_modes)?;
    parse_signing_key(algorithm, path, &pem)
}

/// Parses the PEM of a signing key, which was read from `path`.
fn parse_signing_key(
    algorithm: Algorithm,
    path: &Path,
    pem: &[u8],
) -> Result<SigningKey, KeyringError> {
    let contents = |why: String| contents(path, why);
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem)
        .map_err(|e| contents(format!("the file contains no PKCS#8 private key: {e}")))?;
    SigningKey::from_pkcs8(algorithm, key.secret_pkcs8_der()).map_err(|e| contents(e.to_string()))
}

#[cfg(test)]
mod tests;
