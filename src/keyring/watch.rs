//! Detects changes of the key files.
//!
//! # Design notes
//! Mounted secrets are replaced by renaming links.  File notification misses such a change or
//! reports it twice.  Reading a few small files at an interval is reliable.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, mpsc};
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::keyring::{Config, MAX_FILE, identity, signing_keys, ticket_secrets};
use crate::runtime::files::read_bounded;
use crate::token::keys::SigningKeys;
use crate::x509::certificate::Fingerprint;

/// A key that changed.
pub enum Change {
    /// The server's certificate and key.
    Identity(Arc<CertifiedKey>),
    /// The signing keys.
    SigningKeys(Arc<SigningKeys>),
    /// The secrets for session tickets.
    TicketSecrets(Vec<Zeroizing<Vec<u8>>>),
}

/// Checks the key files at the interval `every`, and when `check_now` is notified, and sends
/// changes.  If a changed file cannot be used, the earlier key stays in use, and the error is
/// logged once.
///
/// Changes after this call are seen.  Call it before reading the keys so that no change is missed.
pub fn watch(
    config: Config,
    provider: Arc<CryptoProvider>,
    every: Duration,
    check_now: Arc<Notify>,
    changes: mpsc::Sender<Change>,
) -> impl Future<Output = ()> + Send + 'static {
    let hashes = FileHashes::read(&config);
    poll(config, provider, every, check_now, changes, hashes)
}

async fn poll(
    config: Config,
    provider: Arc<CryptoProvider>,
    every: Duration,
    check_now: Arc<Notify>,
    changes: mpsc::Sender<Change>,
    mut hashes: FileHashes,
) {
    loop {
        // The files are checked after the interval and after a notification alike.
        let _ = tokio::time::timeout(every, check_now.notified()).await;
        let (now, before) = (FileHashes::read(&config), hashes);
        if now.identity != before.identity {
            match identity(&config, &provider) {
                Ok(identity) => {
                    info!(file = %config.certificate.display(), "server certificate changed");
                    let _ = changes.send(Change::Identity(identity)).await;
                }
                Err(error) => {
                    error!(%error, "server certificate rejected; the earlier one stays in use")
                }
            }
        }
        if now.signing != before.signing {
            match signing_keys(&config) {
                Ok(keys) => {
                    info!(kid = keys.current().kid(), "signing keys changed");
                    let _ = changes.send(Change::SigningKeys(Arc::new(keys))).await;
                }
                Err(error) => error!(%error, "signing keys rejected; the earlier ones stay in use"),
            }
        }
        if now.tickets != before.tickets {
            match ticket_secrets(&config) {
                Ok(secrets) => {
                    info!(secrets = secrets.len(), "ticket keys changed");
                    let _ = changes.send(Change::TicketSecrets(secrets)).await;
                }
                Err(error) => error!(%error, "ticket keys rejected; the earlier ones stay in use"),
            }
        }
        hashes = now;
    }
}

/// SHA-256 of each file, or `None` if it cannot be read.
#[derive(Clone, PartialEq, Eq)]
struct FileHashes {
    identity: Vec<Option<Fingerprint>>,
    signing: Vec<Option<Fingerprint>>,
    tickets: Vec<Option<Fingerprint>>,
}

impl FileHashes {
    fn read(config: &Config) -> Self {
        let hash =
            |path: &Path| read_bounded(path, MAX_FILE).ok().map(|bytes| Fingerprint::of(&bytes));
        Self {
            identity: vec![hash(&config.certificate), hash(&config.key)],
            signing: std::iter::once(&config.signing_key)
                .chain(&config.published_keys)
                .map(|path| hash(path))
                .collect(),
            tickets: config.ticket_keys.iter().map(|path| hash(path)).collect(),
        }
    }
}
