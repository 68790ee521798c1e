//! Detects changes of the key files.
//!
//! # Design notes
//! Mounted secrets are replaced by renaming links.  File notification misses such a change or
//! reports it twice.  Reading a few small files at an interval is reliable.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::keyring::other_algorithm::{previous_keys, remove_expired};
use crate::keyring::validity::invalidity;
use crate::keyring::{Config, KeyFiles, MAX_FILE, identity, read_signing_keys, ticket_secrets};
use crate::runtime::clock;
use crate::runtime::files::read_bounded;
use crate::runtime::health::Ready;
use crate::runtime::restarts::Restarts;
use crate::token::keys::{SigningKey, SigningKeys};
use crate::token::terms::MAX_LIFETIME;
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
/// changes.  Rotating signing keys are not checked here ([`Rotator`](crate::keyring::Rotator)).  If a
/// changed file cannot be used, the earlier key stays in use; the error is logged once
/// and shown as a warning in `ready`.
///
/// Changes after this call are seen.  Call it before reading the keys so that no change is missed.
pub fn watch(
    config: Config,
    provider: Arc<CryptoProvider>,
    every: Duration,
    check_now: Arc<Notify>,
    ready: Ready,
    changes: mpsc::Sender<Change>,
) -> impl Future<Output = ()> + Send + 'static {
    let watcher = Watcher {
        hashes: FileHashes::read(&config),
        identity: identity(&config, &provider).ok(),
        signing_key: read_bounded(&config.signing_key, MAX_FILE).ok().map(Zeroizing::new),
        published: read_signing_keys(&config).ok(),
        retired: previous_keys(&config, clock::now())
            .into_iter()
            .map(|previous| (previous.key, Instant::now() + previous.until.since(clock::now())))
            .collect(),
        config,
        provider,
        ready,
        changes,
    };
    watcher.run(every, check_now)
}

/// State of the watch.
struct Watcher {
    config: Config,
    provider: Arc<CryptoProvider>,
    ready: Ready,
    changes: mpsc::Sender<Change>,
    hashes: FileHashes,
    /// The certificate in use.
    identity: Option<Arc<CertifiedKey>>,
    /// The file of the signing key in use, to write it back if it is lost.
    signing_key: Option<Zeroizing<Vec<u8>>>,
    /// The signing key in use, and the others of the configuration.
    published: Option<KeyFiles>,
    /// Earlier signing keys, until the last of their tokens has expired.
    retired: Vec<(Arc<SigningKey>, Instant)>,
}

impl Watcher {
    async fn run(mut self, every: Duration, check_now: Arc<Notify>) {
        let mut restarts = Restarts::new("key_files", &self.ready);
        while !restarts.ended(self.follow(every, &check_now)).await {
            // Every file is checked again: the change that was being checked may not be in use.
            self.hashes = FileHashes::default();
        }
    }

    async fn follow(&mut self, every: Duration, check_now: &Notify) {
        loop {
            // The files are checked after the interval and after a notification alike.
            let _ = tokio::time::timeout(every, check_now.notified()).await;
            let is_static = self.config.signs && self.config.rotation.is_none();
            if is_static && self.config.generate_signing_key {
                self.restore_signing_key();
            }
            let now = FileHashes::read(&self.config);
            let before = std::mem::replace(&mut self.hashes, now.clone());
            if now.identity != before.identity {
                self.check_identity().await;
            }
            let expired = self.retired.iter().any(|(_, end)| *end <= Instant::now());
            if is_static && (now.signing != before.signing || expired) {
                self.check_signing_keys().await;
            }
            if now.tickets != before.tickets {
                self.check_tickets().await;
            }
        }
    }

    async fn check_identity(&mut self) {
        let now = clock::now();
        let checked = identity(&self.config, &self.provider)
            .map_err(|error| error.to_string())
            .and_then(|new| match (invalidity(&new, now), &self.identity) {
                // An invalid certificate replaces only another invalid one.
                (Some(why), Some(old)) if invalidity(old, now).is_none() => {
                    Err(format!("{}: {why}", self.config.certificate.display()))
                }
                _ => Ok(new),
            });
        match checked {
            Ok(identity) => {
                info!(file = %self.config.certificate.display(), "server certificate changed");
                self.identity = Some(Arc::clone(&identity));
                self.ready.warn("server_certificate", None);
                let _ = self.changes.send(Change::Identity(identity)).await;
            }
            Err(error) => self.rejected("server_certificate", "server certificate", &error),
        }
    }

    async fn check_signing_keys(&mut self) {
        remove_expired(&self.config, clock::now());
        let retired = self.retired.len();
        self.retired.retain(|(_, end)| *end > Instant::now());
        let has_expired = self.retired.len() < retired;
        // A generated key that is lost is never replaced: its tokens would lose their key.
        let is_lost = self.config.generate_signing_key && !self.config.signing_key.exists();
        let files = match read_signing_keys(&self.config) {
            _ if is_lost => None,
            Ok(files) => Some(files),
            Err(error) => {
                self.rejected("signing_key", "signing keys", &error.to_string());
                None
            }
        };
        let is_read = files.is_some();
        // Also without the files, an expired key is published no more.
        let earlier = || self.published.clone().filter(|_| has_expired);
        let Some((current, others)) = files.or_else(earlier) else { return };
        if let Some((old, _)) = self.published.replace((Arc::clone(&current), others.clone()))
            && old.kid() != current.kid()
        {
            self.retired.push((old, Instant::now() + MAX_LIFETIME));
        }
        self.retired.retain(|(key, _)| key.kid() != current.kid());
        let mut all = others;
        for (key, _) in &self.retired {
            if all.iter().all(|other| other.kid() != key.kid()) {
                all.push(Arc::clone(key));
            }
        }
        match SigningKeys::new(current, &all) {
            Ok(keys) => {
                info!(kid = keys.current().kid(), "signing keys changed");
                if is_read {
                    self.signing_key =
                        read_bounded(&self.config.signing_key, MAX_FILE).ok().map(Zeroizing::new);
                    self.ready.warn("signing_key", None);
                }
                let _ = self.changes.send(Change::SigningKeys(Arc::new(keys))).await;
            }
            Err(error) => self.rejected("signing_key", "signing keys", &error.to_string()),
        }
    }

    async fn check_tickets(&mut self) {
        match ticket_secrets(&self.config) {
            Ok(secrets) => {
                info!(secrets = secrets.len(), "ticket keys changed");
                self.ready.warn("ticket_keys", None);
                let _ = self.changes.send(Change::TicketSecrets(secrets)).await;
            }
            Err(error) => self.rejected("ticket_keys", "ticket keys", &error.to_string()),
        }
    }

    /// Writes a lost signing key back.  A deleted directory is not created again: another process could
    /// have its place.
    fn restore_signing_key(&self) {
        let path = &self.config.signing_key;
        let Some(pem) = self.signing_key.as_ref().filter(|_| !path.exists()) else { return };
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match written.and_then(|mut file| file.write_all(pem).and_then(|()| file.sync_all())) {
            Ok(()) => {
                error!(file = %path.display(), "signing key file was lost; it is written back");
                self.ready.warn("signing_key", None);
            }
            Err(error) => {
                let why = format!("{}: the file was lost: {error}", path.display());
                if !self.ready.warnings().contains_key("signing_key") {
                    self.rejected("signing_key", "signing key", &why);
                }
            }
        }
    }

    fn rejected(&self, part: &'static str, what: &str, error: &str) {
        error!(%error, "{what} rejected; the earlier one stays in use");
        self.ready.warn(part, Some(format!("{error}; the earlier one stays in use")));
    }
}

/// SHA-256 of each file, or `None` if it cannot be read.
#[derive(Clone, Default, PartialEq, Eq)]
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
