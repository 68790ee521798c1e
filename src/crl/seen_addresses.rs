//! Keeps the addresses that certificates name over a restart, beside the lists.

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

use crate::runtime::atomic::{self, AtomicError};
use crate::trust::configurations::AnchorSet;
use crate::trust::revocation::addresses_seen::{Sighting, Sightings};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

/// What the file is, and the version of its form.
const KIND: &str = "sighted/1";
/// Octets of the file: ten thousand sightings of certificates of 4 KiB.
const MAX_FILE: u64 = 64 * 1024 * 1024;
/// Between two writes.
const SAVE: Duration = Duration::from_secs(5);
/// Between two looks at what is new: where every certificate names another address, they are taken
/// up in batches.
const HEED: Duration = Duration::from_millis(100);

/// The addresses that certificates name.
pub(super) struct Sighted {
    sightings: Arc<Sightings>,
    file: Option<PathBuf>,
    /// Not before this is anything new looked at.
    heed: Instant,
    /// When to write down what has changed.
    save: Option<Instant>,
    /// How many were dropped, as it was told last.
    dropped: u64,
}

/// One sighting in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Base64 of the issuer's certificate.
    issuer: String,
    /// Base64 of the anchor's fingerprint, and of the extensions' values.
    anchor: String,
    points: String,
    freshest: Option<String>,
    seen: i64,
}

impl Sighted {
    /// Takes up what was known before the restart.  `None`: certificates are not asked.
    pub(super) fn start(
        sightings: Option<Arc<Sightings>>,
        directory: Option<&Path>,
    ) -> Option<Self> {
        let sightings = sightings?;
        let file = directory.map(|directory| directory.join("sighted"));
        if let Some(file) = &file {
            match load(file) {
                Ok(kept) => sightings.restore(kept),
                Err(error) => warn!(%error, "the addresses that certificates named are not known"),
            }
        }
        Some(Self { sightings, file, heed: Instant::now(), save: None, dropped: 0 })
    }

    /// Comes back when something new was noted; never, when certificates are not asked.
    pub(super) fn noted(this: Option<&Self>) -> impl Future<Output = ()> + Send + 'static {
        let this = this.map(|this| (Arc::clone(&this.sightings), this.heed));
        async move {
            let Some((sightings, heed)) = this else { return std::future::pending().await };
            tokio::time::sleep_until(heed).await;
            std::future::poll_fn(|context| sightings.poll_changed(context)).await;
        }
    }

    /// What certificates name under the anchors in force.
    pub(super) fn under(&mut self, anchors: &AnchorSet) -> Vec<Sighting> {
        // Nothing in force yet is no reason to forget what was.
        if anchors.configurations.is_empty() {
            return Vec::new();
        }
        let authorities = anchors.configurations.iter().flat_map(|c| &c.authorities);
        let in_force: HashSet<Fingerprint> =
            authorities.map(|authority| authority.certificate.fingerprint).collect();
        self.sightings.retain(&in_force);
        let now = Instant::now();
        self.heed = now + HEED;
        self.save.get_or_insert(now + SAVE);
        let dropped = self.sightings.dropped();
        if dropped > self.dropped {
            warn!(
                "certificates name too many addresses of lists: {} were not seen for longest and \
                 are no longer fetched",
                dropped - self.dropped
            );
            self.dropped = dropped;
        }
        self.sightings.all()
    }

    /// How long until something is to be written down.
    pub(super) fn save_in(&self) -> Option<Duration> {
        self.save.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// What writes down all that is known, if that is due or it is the last time.
    pub(super) fn save(
        &mut self,
        last: bool,
    ) -> Option<impl FnOnce() -> io::Result<()> + Send + 'static> {
        if !last && self.save.is_none_or(|at| at > Instant::now()) {
            return None;
        }
        self.save = None;
        let (file, sightings) = (self.file.clone()?, Arc::clone(&self.sightings));
        Some(move || save(&file, &sightings.all()))
    }
}

fn save(file: &Path, sightings: &[Sighting]) -> io::Result<()> {
    let kept: Vec<Kept> = sightings
        .iter()
        .map(|sighting| Kept {
            issuer: STANDARD.encode(sighting.issuer.der()),
            anchor: STANDARD.encode(sighting.anchor.0),
            points: STANDARD.encode(&sighting.points),
            freshest: sighting.freshest.as_ref().map(|value| STANDARD.encode(value)),
            seen: sighting.seen.0,
        })
        .collect();
    let json = serde_json::to_vec(&kept)?;
    atomic::write(file, KIND, &json).map_err(io::Error::other)
}

fn load(file: &Path) -> Result<Vec<Sighting>, String> {
    let loaded = match atomic::read(file, KIND, MAX_FILE) {
        Err(AtomicError::Missing(_)) => return Ok(Vec::new()),
        loaded => loaded.map_err(|error| error.to_string())?,
    };
    let kept: Vec<Kept> =
        serde_json::from_slice(&loaded.payload).map_err(|error| error.to_string())?;
    kept.iter().map(restore).collect()
}

fn restore(kept: &Kept) -> Result<Sighting, String> {
    let bytes = |text: &str| STANDARD.decode(text).map_err(|error| error.to_string());
    let issuer = Certificate::from_der(&bytes(&kept.issuer)?).map_err(|error| error.to_string())?;
    let anchor = bytes(&kept.anchor)?.try_into().map_err(|_| "an anchor of another length")?;
    let freshest = kept.freshest.as_deref().map(bytes).transpose()?;
    let (points, seen) = (bytes(&kept.points)?, Timestamp(kept.seen));
    Sighting::new(Arc::new(issuer), Fingerprint(anchor), &points, freshest.as_deref(), seen)
        .map_err(|error| error.to_string())
}
