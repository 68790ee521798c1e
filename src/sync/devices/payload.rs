//! The devices of one directory: fetched by deltas, compared as registries.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;
use url::Url;

use crate::graph::client::{Client, FetchError, below};
use crate::sync::config::Config;
use crate::sync::devices::content::{Content, Metrics};
use crate::sync::devices::round::{PageRules, Round};
use crate::sync::devices::state::{self, SavedVersions, State};
use crate::sync::files::Saved;
use crate::sync::metrics::FollowerMetrics;
use crate::sync::payload::{Accepted, Payload, Progress, Recovery, is_full_due};
use crate::trust::assembly::Update;
use crate::trust::devices::{DeviceRegistry, Difference, Registry};
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Path of the collection, below the root of the directory.
const COLLECTION: &str = "beta/devices/delta";
/// Selects the properties that decide whether a device is admitted.
const QUERY: &str = "$select=accountEnabled,physicalIds";
/// Number of devices that a response may remove, whatever part of all devices they are.
const REMOVED_FREELY: usize = 100;
/// Time between two saved versions, for each [`DEVICES_PER_PAUSE`] devices or part of them: all devices
/// are written each time.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
/// See [`SAVE_PAUSE`].
const DEVICES_PER_PAUSE: usize = 20_000;
/// Longest time between two saved versions.  A start without the directory may use devices of this age.
const LONGEST_SAVE_PAUSE: Duration = Duration::from_secs(60);

/// The devices of one directory.
pub struct Devices {
    source: Arc<str>,
    client: Arc<Client>,
    /// URL at which an enumeration starts.
    start: Url,
    rules: PageRules,
    file: Option<PathBuf>,
    metrics: Metrics,

    saved: SavedVersions,
    in_force: DeviceRegistry,
    /// The devices after the last complete response, and its delta link.
    candidate: DeviceRegistry,
    cursor: Option<Url>,
    /// Time at which the last enumeration began.
    enumerated_at: Option<Timestamp>,
    /// An enumeration ended since the last version came into force: devices may be missing only because
    /// it did not contain them.
    enumerated: bool,
    round: Round,
    /// Objects of the last complete response that are not registered devices.
    others: usize,
    supports_wait: bool,
}

impl Devices {
    pub(crate) fn new(config: &Config, client: Arc<Client>, metrics: Metrics) -> Self {
        let mut start = below(&config.base, COLLECTION);
        start.set_query(Some(QUERY));
        Self {
            source: Arc::clone(&config.source),
            client,
            rules: PageRules { prefix: config.prefix(), max_devices: config.max_devices },
            file: config.devices_file.clone(),
            metrics,
            saved: SavedVersions::default(),
            in_force: DeviceRegistry::default(),
            candidate: DeviceRegistry::default(),
            cursor: None,
            enumerated_at: None,
            enumerated: false,
            round: Round::enumeration(start.clone()),
            others: 0,
            supports_wait: false,
            start,
        }
    }

    /// Starts a round where the last complete one ended.
    fn begin_round(&mut self) {
        self.round = match &self.cursor {
            Some(cursor) => Round::delta(cursor.clone(), self.candidate.clone()),
            None => Round::enumeration(self.start.clone()),
        };
    }
}

impl Payload for Devices {
    type Response = (Vec<u8>, bool);
    type Changes = Difference;
    type Content = Content;

    const NOUN: &'static str = "devices";
    const ACCUMULATES: bool = true;

    fn object_type(&self) -> &'static str {
        "device"
    }

    fn metrics(&self) -> &FollowerMetrics {
        &self.metrics.follower
    }

    fn url(&self) -> &Url {
        &self.start
    }

    async fn load(&mut self) -> Result<Option<Saved<usize>>, String> {
        let Some(path) = self.file.clone() else { return Ok(None) };
        let saved = state::load(path, &self.start, self.rules.max_devices).await?;
        Ok(saved.map(|Saved { data, at, fell_back, may_readmit }| {
            let State { registry, cursor, enumerated_at } = data;
            let devices = registry.counts().devices;
            self.enumerated_at = enumerated_at;
            self.saved.loaded(registry.clone());
            self.in_force = registry.clone();
            self.candidate = registry;
            self.cursor = self.client.same_origin(&cursor).ok();
            self.begin_round();
            Saved { data: devices, at, fell_back, may_readmit }
        }))
    }

    fn restart(&mut self) {
        self.candidate = self.in_force.clone();
        self.cursor = None;
        self.begin_round();
    }

    async fn save(&mut self, at: Timestamp) -> Result<(), String> {
        let (Some(path), Some(cursor)) = (self.file.clone(), &self.cursor) else { return Ok(()) };
        let registry = self.in_force.clone();
        let latest = self.saved.latest(registry.clone()).await?;
        state::save_journal(&path, self.saved.all(latest.clone()), at).await?;
        let state = State {
            registry: registry.clone(),
            cursor: cursor.to_string(),
            enumerated_at: self.enumerated_at,
        };
        state::save(path, &self.start, state, at).await?;
        self.saved.saved(registry, latest);
        Ok(())
    }

    fn save_pause(&self) -> Duration {
        let times = self.in_force.counts().devices / DEVICES_PER_PAUSE;
        let times = u32::try_from(times).unwrap_or(u32::MAX).saturating_add(1);
        SAVE_PAUSE.saturating_mul(times).min(LONGEST_SAVE_PAUSE)
    }

    async fn fetch(
        &self,
        wait: Option<Duration>,
        _refresh: bool,
    ) -> Result<Self::Response, FetchError> {
        // Only the first page of a delta can be delayed: an enumeration has no change to wait for.
        let can_wait = !self.round.is_enumeration && self.round.pages == 0;
        self.client.page(&self.round.url, wait.filter(|_| can_wait)).await
    }

    fn renew(&mut self, full_every: Duration, now: Timestamp) {
        if self.is_midway() {
            return;
        }
        let is_due = |at| is_full_due(at, full_every, now);
        if self.cursor.is_none() {
            // An enumeration begins now.
            self.enumerated_at = Some(now);
        } else if self.enumerated_at.is_none_or(is_due) {
            self.enumerated_at = Some(now);
            self.cursor = None;
            self.begin_round();
        }
    }

    async fn read(
        &mut self,
        (body, supports_wait): Self::Response,
    ) -> Result<Progress<Difference>, FetchError> {
        if self.round.pages == 0 {
            // For an enumeration it is unknown until the delta link is requested.
            self.supports_wait = supports_wait || self.round.is_enumeration;
        }
        let (rules, in_force) = (self.rules.clone(), self.in_force.clone());
        let end = self.round.read(&self.client, body, rules, in_force).await?;
        let Some((cursor, difference)) = end else { return Ok(Progress::Partial) };
        self.others = self.round.others;
        self.enumerated |= self.round.is_enumeration;
        self.candidate = self.round.registry.clone();
        self.cursor = Some(cursor);
        self.begin_round();
        Ok(Progress::Complete(difference))
    }

    fn recover(&mut self, error: &FetchError) -> Recovery {
        self.round.failures += 1;
        let recovery = if self.round.is_forgotten(error, &self.start) {
            self.cursor = None;
            Recovery::Restart
        } else if self.round.is_hopeless(error) {
            Recovery::Discard
        } else {
            return Recovery::Repeat;
        };
        self.begin_round();
        recovery
    }

    fn is_midway(&self) -> bool {
        self.round.pages > 0
    }

    fn supports_wait(&self) -> bool {
        self.supports_wait
    }

    fn digest(&self) -> String {
        let mut bytes = Vec::new();
        self.candidate.write(&mut bytes);
        Fingerprint::of(&bytes).to_string().chars().take(32).collect()
    }

    /// Few removals are allowed.  Many are suspicious beyond the configured part, and the removal of all
    /// devices is if an enumeration merely did not contain them.
    fn is_suspicious(&self, changes: &Difference, max_removal: f64) -> bool {
        let Difference { before, removed, .. } = *changes;
        if removed > REMOVED_FREELY {
            // Counts of devices are far below 2^52.
            removed as f64 > max_removal * before as f64 || removed == before
        } else {
            removed > 0 && removed == before && self.enumerated
        }
    }

    fn accept(&mut self, changes: &Difference, first: bool) -> Accepted {
        let duplicates = self.candidate.counts().duplicates;
        if duplicates > self.in_force.counts().duplicates {
            warn!(
                source = %self.source,
                "{duplicates} devices have an externalDeviceId that another object has too: if one of them \
                 is disabled, the device is not admitted"
            );
        }
        // Further objects of a device make no difference to the judge; they are kept for the status.
        let publish = first || !self.in_force.is_same(&self.candidate);
        self.enumerated = false;
        self.in_force = self.candidate.clone();
        Accepted { changed: first || !changes.is_empty(), publish }
    }

    fn describe(changes: &Difference) -> Vec<String> {
        if changes.is_empty() { Vec::new() } else { vec![changes.to_string()] }
    }

    fn update(&self) -> Update {
        let (source, registry) = (Arc::clone(&self.source), self.in_force.clone());
        Update::Devices { source, registry: Registry::InForce(registry) }
    }

    fn withdrawal(&self, age: Duration) -> Update {
        let why = format!("the directory did not confirm it for {age:?}");
        let source = Arc::clone(&self.source);
        Update::Devices { source, registry: Registry::Withdrawn(why.into()) }
    }

    fn report(&self) -> Content {
        let counts = self.in_force.counts();
        let content = Content {
            known: counts.devices,
            enabled: counts.devices - counts.disabled,
            disabled: counts.disabled,
            duplicates: counts.duplicates,
            skipped: self.others,
            pages: self.round.pages,
        };
        self.metrics.set(&self.source, &content);
        content
    }
}
