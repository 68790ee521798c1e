//! Notices when a key file changes.
//!
//! # Why
//! Mounted secrets are swapped by renaming links, which file notification misses or reports twice;
//! reading a few small files every so often misses nothing.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, mpsc};
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::keyring::{Config, identity, read, signing_keys, ticket_secrets};
use crate::token::keys::SigningKeys;
use crate::x509::certificate::Fingerprint;

/// A key that changed.
pub enum Change {
    /// The server's certificate.
    Identity(Arc<CertifiedKey>),
    /// The keys that sign tokens.
    SigningKeys(Arc<SigningKeys>),
    /// The secrets that seal session tickets.
    TicketSecrets(Vec<Zeroizing<Vec<u8>>>),
}

/// Looks at the key files every so often, and when `look` is notified, and sends what changed.  A file
/// that cannot be used leaves what is in force, and is said once for each state of it.
///
/// What changes from the call on is noticed, so that who calls this first and reads the keys then
/// misses nothing.
pub fn watch(
    config: Config,
    provider: Arc<CryptoProvider>,
    every: Duration,
    look: Arc<Notify>,
    changes: mpsc::Sender<Change>,
) -> impl Future<Output = ()> + Send + 'static {
    let seen = Seen::of(&config);
    follow(config, provider, every, look, changes, seen)
}

async fn follow(
    config: Config,
    provider: Arc<CryptoProvider>,
    every: Duration,
    look: Arc<Notify>,
    changes: mpsc::Sender<Change>,
    mut seen: Seen,
) {
    loop {
        // Either way: the files are looked at.
        let _ = tokio::time::timeout(every, look.notified()).await;
        let (now, was) = (Seen::of(&config), seen);
        if now.identity != was.identity {
            match identity(&config, &provider) {
                Ok(identity) => {
                    info!(file = %config.certificate.display(), "server certificate changed");
                    let _ = changes.send(Change::Identity(identity)).await;
                }
                Err(error) => error!(%error, "server certificate not used; the old one stays"),
            }
        }
        if now.signing != was.signing {
            match signing_keys(&config) {
                Ok(keys) => {
                    info!(kid = keys.current().kid(), "signing keys changed");
                    let _ = changes.send(Change::SigningKeys(Arc::new(keys))).await;
                }
                Err(error) => error!(%error, "signing keys not used; the old ones stay"),
            }
        }
        if now.tickets != was.tickets {
            match ticket_secrets(&config) {
                Ok(secrets) => {
                    info!(secrets = secrets.len(), "ticket keys changed");
                    let _ = changes.send(Change::TicketSecrets(secrets)).await;
                }
                Err(error) => error!(%error, "ticket keys not used; the old ones stay"),
            }
        }
        seen = now;
    }
}

/// The contents of the files, by hash.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    identity: Vec<Option<Fingerprint>>,
    signing: Vec<Option<Fingerprint>>,
    tickets: Vec<Option<Fingerprint>>,
}

impl Seen {
    fn of(config: &Config) -> Self {
        let hash = |path| read(path).ok().map(|bytes| Fingerprint::of(&bytes));
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
