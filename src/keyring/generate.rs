//! Generation of signing keys, and files that are written once.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use zeroize::Zeroizing;

use crate::keyring::KeyringError;
use crate::token::keys::Algorithm;

/// Start of the line with the algorithm, in files of generated keys.
pub(super) const ALGORITHM: &str = "Algorithm: ";

/// Generates a key and writes it, after a line with its algorithm, to a file that only the owner can read.
/// Never replaces a file.
pub(super) fn generate_signing_key(path: &Path, algorithm: Algorithm) -> Result<(), KeyringError> {
    let pem = new_key_pem(path, algorithm)?;
    let file = Zeroizing::new(format!("{ALGORITHM}{}\n{}", algorithm.as_str(), *pem));
    let failed = |error| KeyringError::Write { path: path.to_owned(), error };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    write_once(path, file.as_bytes()).map(|_| ()).map_err(failed)
}

/// Generates a key for the file at `path`, PKCS#8 PEM.
pub(super) fn new_key_pem(
    path: &Path,
    algorithm: Algorithm,
) -> Result<Zeroizing<String>, KeyringError> {
    let refused = || KeyringError::Contents {
        path: path.to_owned(),
        why: format!("cannot generate a signing key for {}", algorithm.as_str()),
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
    Ok(pem)
}

/// Writes a file that only the owner can read.  Returns false, and changes nothing, if the file
/// exists.
///
/// The contents are written to a temporary file and linked into place.  A crash leaves no partial
/// file, and of two processes that write at once, the second one finds the file of the first.
pub(super) fn write_once(path: &Path, contents: &[u8]) -> io::Result<bool> {
    // Replicas in containers have the same process id, so the name is random.
    let mut suffix = [0; 8];
    SystemRandom::new().fill(&mut suffix).map_err(|_| io::Error::other("no random bits"))?;
    let temporary = path.with_extension(format!("{}.new", u64::from_le_bytes(suffix)));
    let write = |path: &Path| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(contents).and_then(|()| file.sync_all())
    };
    let linked = write(&temporary).and_then(|()| fs::hard_link(&temporary, path));
    let _ = fs::remove_file(&temporary);
    let written = match linked {
        // Some network file systems have no links.
        Err(error) if is_without_links(&error) => write(path),
        linked => linked,
    };
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_without_links(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied)
}
