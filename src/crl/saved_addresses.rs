//! Stores the addresses that certificates name, so that they survive a restart.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

use crate::crl::address_record::AddressRecord;
use crate::runtime::atomic::{self, AtomicError};
use crate::trust::configurations::AllConfigurations;
use crate::trust::revocation::addresses_seen::SeenAddresses;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

/// Forms of the file that are read: the current one, which is written, then the previous one.
const FORMS: [&str; 1] = ["sighted/1"];
/// Largest file in bytes: ten thousand entries with certificates of 4 KiB.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// Shortest interval between two writes.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest interval between two batches of new addresses.  It bounds the work if each certificate
/// names another address.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);

/// The addresses that certificates name.
pub(super) struct SavedAddresses {
    record: Arc<AddressRecord>,
    file: Option<PathBuf>,
    /// Earliest time of the next batch.
    next_batch: Instant,
    /// Time of the next write; `None` if nothing changed.
    save_at: Option<Instant>,
    /// Number of dropped addresses in the last warning.
    dropped: u64,
}

/// One entry of the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Base64 of the issuer's certificate.
    issuer: String,
    /// Base64 of the anchor's fingerprint.
    anchor: String,
    /// The trust domain of the path.
    #[serde(default)]
    domain: String,
    /// Base64 of the value of the CRL distribution points extension.
    points: String,
    /// Base64 of the value of the freshest CRL extension.
    freshest: Option<String>,
    /// Seconds since 1970.
    seen: i64,
}

impl SavedAddresses {
    /// Restores the addresses of the previous run.  Returns `None` if `record` is `None`: then
    /// addresses in certificates are ignored.
    pub(super) fn start(
        record: Option<Arc<AddressRecord>>,
        directory: Option<&Path>,
    ) -> Option<Self> {
        let record = record?;
        let file = directory.map(|directory| directory.join("sighted"));
        if let Some(file) = &file {
            match load(file) {
                Ok(entries) => record.restore(entries),
                Err(error) => {
                    warn!(%error, "CRL addresses that certificates named not restored");
                }
            }
        }
        Some(Self { record, file, next_batch: Instant::now(), save_at: None, dropped: 0 })
    }

    /// Completes when new addresses were noted; never if `this` is `None`.
    pub(super) fn changed(this: Option<&Self>) -> impl Future<Output = ()> + Send + 'static {
        let this = this.map(|this| (Arc::clone(&this.record), this.next_batch));
        async move {
            let Some((record, next_batch)) = this else { return std::future::pending().await };
            tokio::time::sleep_until(next_batch).await;
            std::future::poll_fn(|context| record.poll_changed(context)).await;
        }
    }

    /// Returns the addresses that certificates name under the anchors in force, and drops the others.
    pub(super) fn under(&mut self, configurations: &AllConfigurations) -> Vec<SeenAddresses> {
        // Before the first response of the directory, keep the addresses of the previous run.
        if configurations.is_empty() {
            return Vec::new();
        }
        let in_force: HashSet<Fingerprint> = configurations
            .authorities_by_domain()
            .map(|(_, authority)| authority.certificate.fingerprint)
            .collect();
        self.record.retain(&in_force);
        let now = Instant::now();
        self.next_batch = now + BATCH_INTERVAL;
        self.save_at.get_or_insert(now + SAVE_INTERVAL);
        let dropped = self.record.dropped();
        if dropped > self.dropped {
            warn!(
                "certificates name too many CRL addresses: the {} addresses that were not seen for the \
                 longest time are no longer fetched",
                dropped - self.dropped
            );
            self.dropped = dropped;
        }
        self.record.all()
    }

    /// Time until the next write.
    pub(super) fn save_in(&self) -> Option<Duration> {
        self.save_at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Returns the function that writes the file, if a write is due or `last` is set.
    pub(super) fn save(
        &mut self,
        last: bool,
    ) -> Option<impl FnOnce() -> io::Result<()> + Send + 'static> {
        if !last && self.save_at.is_none_or(|at| at > Instant::now()) {
            return None;
        }
        self.save_at = None;
        let (file, record) = (self.file.clone()?, Arc::clone(&self.record));
        Some(move || save(&file, &record.all()))
    }
}

fn save(file: &Path, record: &[SeenAddresses]) -> io::Result<()> {
    let entries: Vec<Entry> = record
        .iter()
        .map(|seen| Entry {
            issuer: STANDARD.encode(seen.issuer.der()),
            anchor: STANDARD.encode(seen.anchor.0),
            domain: seen.domain.to_string(),
            points: STANDARD.encode(&seen.points),
            freshest: seen.freshest.as_ref().map(|value| STANDARD.encode(value)),
            seen: seen.seen.0,
        })
        .collect();
    let json = serde_json::to_vec(&entries)?;
    atomic::write(file, FORMS[0], &json).map_err(io::Error::other)
}

fn load(file: &Path) -> Result<Vec<SeenAddresses>, String> {
    let loaded = match atomic::read(file, &FORMS, MAX_FILE) {
        Err(AtomicError::Missing(_)) => return Ok(Vec::new()),
        loaded => loaded.map_err(|error| error.to_string())?,
    };
    let entries: Vec<Entry> =
        serde_json::from_slice(&loaded.payload).map_err(|error| error.to_string())?;
    entries.iter().map(restore).collect()
}

fn restore(entry: &Entry) -> Result<SeenAddresses, String> {
    let bytes = |text: &str| STANDARD.decode(text).map_err(|error| error.to_string());
    let issuer =
        Certificate::from_der(&bytes(&entry.issuer)?).map_err(|error| error.to_string())?;
    let anchor = bytes(&entry.anchor)?
        .try_into()
        .map_err(|_| "the anchor's fingerprint does not have 32 bytes")?;
    let freshest = entry.freshest.as_deref().map(bytes).transpose()?;
    let (points, seen) = (bytes(&entry.points)?, Timestamp(entry.seen));
    SeenAddresses::new(Arc::new(issuer), Fingerprint(anchor), &points, freshest.as_deref(), seen)
        .map(|seen| seen.in_domain(&entry.domain))
        .map_err(|error| error.to_string())
}
