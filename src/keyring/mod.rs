//! Rank 3: our own keys.  The server's certificate and the keys that sign tokens are read from files,
//! made where they may be, and read again when a file changes.

mod watch;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::token::keys::{Algorithm, KeyError, SigningKey, SigningKeys};

pub use watch::{Change, watch};

/// Bytes of a file that are read.
const MAX_FILE: u64 = 1024 * 1024;
/// The fewest bytes of a secret that seals tickets: as many as the key that is made of it.
const MIN_SECRET: usize = 32;

/// Where our keys are.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server's certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The key that signs tokens, PKCS#8 PEM.
    pub signing_key: PathBuf,
    /// Its algorithm.
    pub algorithm: Algorithm,
    /// Makes the signing key if its file does not exist.
    pub make_signing_key: bool,
    /// Further keys that are published but do not sign: the next one before a rotation, the last one
    /// after it.
    pub published_keys: Vec<PathBuf>,
    /// Secrets that seal session tickets, any bytes; the first one seals, all of them open.
    pub ticket_keys: Vec<PathBuf>,
}

/// Why a key is not used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The operating system's.
    #[error("{path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// The file does not hold what it should.
    #[error("{path}: {why}")]
    Contents {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The keys are no set.
    #[error("signing keys: {0}")]
    Set(#[from] KeyError),
}

/// Reads the server's certificate and key and checks that they belong together.
///
/// # Errors
/// A file that cannot be read, holds no certificate or key, or a key that is another certificate's.
pub fn identity(
    config: &Config,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, KeyringError> {
    let contents = |path: &Path, why: String| KeyringError::Contents { path: path.to_owned(), why };
    let pem = read(&config.certificate)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| contents(&config.certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(contents(&config.certificate, "no certificate in it".into()));
    }
    let pem = Zeroizing::new(read(&config.key)?);
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| contents(&config.key, format!("no private key in it: {e}")))?;
    CertifiedKey::from_der(chain, key, provider).map(Arc::new).map_err(|e| {
        contents(&config.key, format!("not the key of {}: {e}", config.certificate.display()))
    })
}

/// Reads the signing keys; makes the first one where the configuration says so and there is none.
///
/// # Errors
/// A file that cannot be read or written, or holds no key of the algorithm.
pub fn signing_keys(config: &Config) -> Result<SigningKeys, KeyringError> {
    if config.make_signing_key && !config.signing_key.exists() {
        make_signing_key(&config.signing_key, config.algorithm)?;
    }
    let current = Arc::new(signing_key(&config.signing_key, config.algorithm)?);
    let others = config
        .published_keys
        .iter()
        .map(|path| signing_key(path, config.algorithm).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(SigningKeys::new(current, &others)?)
}

/// Reads the secrets that seal session tickets.
///
/// # Errors
/// A file that cannot be read, or is too short to be a secret.
pub fn ticket_secrets(config: &Config) -> Result<Vec<Zeroizing<Vec<u8>>>, KeyringError> {
    let secret = |path: &PathBuf| {
        let secret = Zeroizing::new(read(path)?);
        if secret.len() < MIN_SECRET {
            let why = format!("{} bytes; at least {MIN_SECRET} are needed", secret.len());
            return Err(KeyringError::Contents { path: path.clone(), why });
        }
        Ok(secret)
    };
    config.ticket_keys.iter().map(secret).collect()
}

fn signing_key(path: &Path, algorithm: Algorithm) -> Result<SigningKey, KeyringError> {
    let contents = |why: String| KeyringError::Contents { path: path.to_owned(), why };
    let pem = Zeroizing::new(read(path)?);
    let key = PrivatePkcs8KeyDer::from_pem_slice(&pem)
        .map_err(|e| contents(format!("no PKCS#8 private key in it: {e}")))?;
    SigningKey::from_pkcs8(algorithm, key.secret_pkcs8_der()).map_err(|e| contents(e.to_string()))
}

/// Makes a key and writes it where nobody else can read it; an existing file is never replaced.
fn make_signing_key(path: &Path, algorithm: Algorithm) -> Result<(), KeyringError> {
    let failed = |error| KeyringError::File { path: path.to_owned(), error };
    let refused = || KeyringError::Contents {
        path: path.to_owned(),
        why: format!("the crypto library made no {} key", algorithm.as_str()),
    };
    let random = SystemRandom::new();
    let der: Zeroizing<Vec<u8>> = match algorithm {
        Algorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map(|document| document.as_ref().to_vec()),
        Algorithm::EdDsa => {
            Ed25519KeyPair::generate_pkcs8(&random).map(|document| document.as_ref().to_vec())
        }
        Algorithm::Ps256 | Algorithm::Rs256 => RsaKeyPair::generate(KeySize::Rsa3072)
            .and_then(|pair| AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map(|d| d.as_ref().to_vec())),
    }
    .map(Zeroizing::new)
    .map_err(|_| refused())?;
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(&*der));
    let mut pem = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&b| char::from(b)));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");

    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    // Written aside and linked into place: a crash leaves no half key, and of two processes that
    // start at once the second finds the first one's key.
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&aside, path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    };
    let written = write();
    let _ = fs::remove_file(&aside);
    written.map_err(failed)
}

fn read(path: &Path) -> Result<Vec<u8>, KeyringError> {
    use std::io::Read as _;
    let failed = |error| KeyringError::File { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(failed)?;
    // One byte past the limit tells "exactly full" from "too big".
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        let why = format!("longer than {MAX_FILE} bytes");
        return Err(KeyringError::Contents { path: path.to_owned(), why });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> Config {
        Config {
            certificate: dir.join("server.pem"),
            key: dir.join("server.key"),
            signing_key: dir.join("state/signing.pem"),
            algorithm: Algorithm::Es256,
            make_signing_key: true,
            published_keys: Vec::new(),
            ticket_keys: Vec::new(),
        }
    }

    fn provider() -> CryptoProvider {
        rustls::crypto::aws_lc_rs::default_provider()
    }

    #[test]
    fn the_signing_key_is_made_once_and_kept() {
        use std::os::unix::fs::PermissionsExt as _;
        for algorithm in Algorithm::ALL {
            let dir = tempfile::tempdir().expect("a directory");
            let config = Config { algorithm, ..config(dir.path()) };
            let first = signing_keys(&config).expect("made");
            let again = signing_keys(&config).expect("read");
            assert_eq!(first.current().kid(), again.current().kid());
            let mode = fs::metadata(&config.signing_key).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_missing_signing_key_is_not_made_where_one_was_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config { make_signing_key: false, ..config(dir.path()) };
        assert!(matches!(signing_keys(&config), Err(KeyringError::File { .. })));
    }

    #[test]
    fn a_damaged_signing_key_is_an_error_and_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        fs::create_dir_all(dir.path().join("state")).expect("made");
        fs::write(&config.signing_key, "not a key").expect("written");
        assert!(matches!(signing_keys(&config), Err(KeyringError::Contents { .. })));
        assert_eq!(fs::read(&config.signing_key).expect("there"), b"not a key");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let (a, b) = (pair(), pair());
        fs::write(&config.certificate, a.cert.pem()).expect("written");
        fs::write(&config.key, a.signing_key.serialize_pem()).expect("written");
        assert!(identity(&config, &provider()).is_ok());
        fs::write(&config.key, b.signing_key.serialize_pem()).expect("written");
        let error = identity(&config, &provider()).expect_err("not its key").to_string();
        assert!(error.contains("not the key of"), "{error}");
    }

    #[test]
    fn a_ticket_secret_is_long_enough() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tickets");
        let config = Config { ticket_keys: vec![file.clone()], ..config(dir.path()) };
        let secrets = || ticket_secrets(&config).map(|secrets| secrets[0].len());
        assert!(matches!(secrets(), Err(KeyringError::File { .. })));
        fs::write(&file, [7; MIN_SECRET - 1]).expect("written");
        let error = secrets().expect_err("too short").to_string();
        assert!(error.contains("31 bytes; at least 32"), "{error}");
        fs::write(&file, [7; MIN_SECRET]).expect("written");
        assert_eq!(secrets().expect("long enough"), MIN_SECRET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_and_a_bad_file_is_not_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        let first = signing_keys(&config).expect("made").current().kid().to_owned();
        let (sender, mut changes) = tokio::sync::mpsc::channel(4);
        let every = std::time::Duration::from_secs(10);
        let look = Arc::default();
        tokio::spawn(watch(config.clone(), Arc::new(provider()), every, look, sender));
        tokio::time::sleep(every / 2).await;
        fs::write(&config.signing_key, "not a key").expect("written");
        tokio::time::sleep(every).await;
        fs::remove_file(&config.signing_key).expect("removed");
        make_signing_key(&config.signing_key, Algorithm::Es256).expect("made");
        match changes.recv().await {
            Some(Change::SigningKeys(keys)) => assert_ne!(keys.current().kid(), first),
            _ => panic!("another change"),
        }
        assert!(changes.try_recv().is_err(), "the bad file was sent on");
    }
}
