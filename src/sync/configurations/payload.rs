//! The configurations of one directory: fetched as complete lists that replace each other.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use url::Url;

use crate::graph::client::{Client, FetchError, FetchOptions, Fetched};
use crate::graph::wire::{self, Entry, JsonKind};
use crate::runtime::text::Cleaned;
use crate::sync::config::{Config, RegisteredOnly};
use crate::sync::configurations::ambiguity;
use crate::sync::configurations::changes::Changes;
use crate::sync::configurations::content::{Content, Metrics};
use crate::sync::configurations::merge::merge;
use crate::sync::configurations::state;
use crate::sync::files::Saved;
use crate::sync::metrics::FollowerMetrics;
use crate::sync::payload::{self, Accepted, Progress, is_full_due};
use crate::trust::assembly::Update;
use crate::trust::configurations::{
    AllConfigurations, Application, Configuration, ConfigurationId, Configurations, Device, Skipped,
};
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Number of changes that are written to the audit log one by one.
const MAX_LINES: usize = 100;
/// Versions of the list that the guard compares with.  The oldest ones are kept.
const MAX_HISTORY: usize = 64;

/// A kind of configuration that is followed.
pub(crate) trait FollowedKind: JsonKind {
    /// Sets what only the settings determine: neither the directory nor the saved list contains it.
    #[must_use]
    fn with_settings(
        self,
        registered_only: &RegisteredOnly,
        source: &Arc<str>,
        id: &ConfigurationId,
    ) -> Self;

    /// Returns the list of this kind.
    fn of(all: &AllConfigurations) -> &Arc<Configurations<Self>>;

    /// Wraps the list of this kind; the other one is empty.
    fn only(list: Arc<Configurations<Self>>) -> AllConfigurations;

    /// Returns the update that publishes the list of `source`.
    fn update(source: Arc<str>, set: Configurations<Self>) -> Update;
}

impl FollowedKind for Device {
    fn with_settings(
        self,
        registered_only: &RegisteredOnly,
        source: &Arc<str>,
        id: &ConfigurationId,
    ) -> Self {
        Self { devices: registered_only.devices(source, id), ..self }
    }

    fn of(all: &AllConfigurations) -> &Arc<Configurations<Self>> {
        &all.devices
    }

    fn only(list: Arc<Configurations<Self>>) -> AllConfigurations {
        list.into()
    }

    fn update(source: Arc<str>, set: Configurations<Self>) -> Update {
        Update::Configurations { source, set }
    }
}

impl FollowedKind for Application {
    fn with_settings(self, _: &RegisteredOnly, _: &Arc<str>, _: &ConfigurationId) -> Self {
        self
    }

    fn of(all: &AllConfigurations) -> &Arc<Configurations<Self>> {
        &all.applications
    }

    fn only(list: Arc<Configurations<Self>>) -> AllConfigurations {
        list.into()
    }

    fn update(source: Arc<str>, set: Configurations<Self>) -> Update {
        Update::Applications { source, set }
    }
}

/// The configurations of one directory.
pub(crate) struct Payload<K> {
    /// Name of the follower.
    source: Arc<str>,
    client: Arc<Client>,
    /// Prefix of ids.
    prefix: Option<Arc<str>>,
    registered_only: RegisteredOnly,
    file: Option<PathBuf>,
    metrics: Metrics,

    in_force: Arc<Configurations<K>>,
    candidate: Option<Candidate<K>>,
    /// Versions that were in force within the window of the guard, with the end of their time, oldest
    /// first.
    history: VecDeque<(Arc<Configurations<K>>, Instant)>,
    guard_window: Duration,
    guard_ambiguity: bool,
    /// Configurations in force that share an authority with another one.
    ambiguous: usize,
    /// The candidate was approved.
    is_approved: bool,
    /// ETag of the list in force.
    etag: Option<String>,
    /// Time of the last request for the complete list.
    full_at: Option<Timestamp>,
    supports_wait: bool,
}

/// The last list that the directory returned.
struct Candidate<K> {
    set: Configurations<K>,
    etag: Option<String>,
    supports_wait: bool,
}

impl<K: FollowedKind> Payload<K> {
    pub(crate) fn new(
        source: Arc<str>,
        client: Arc<Client>,
        config: &Config,
        metrics: Metrics,
    ) -> Self {
        Self {
            source,
            client,
            prefix: config.prefix(),
            registered_only: config.devices.clone(),
            file: config.state_file.clone(),
            metrics,
            in_force: Arc::default(),
            candidate: None,
            history: VecDeque::new(),
            guard_window: config.guard_window,
            guard_ambiguity: config.guard_ambiguity,
            ambiguous: 0,
            is_approved: false,
            etag: None,
            full_at: None,
            supports_wait: false,
        }
    }

    /// Sets the trust domain, and what the settings determine.  Configurations that have both already
    /// stay shared.
    fn with_settings(&self, mut set: Configurations<K>) -> Configurations<K> {
        for shared in &mut set.configurations {
            let kind = shared.kind.clone();
            let kind = kind.with_settings(&self.registered_only, &self.source, &shared.id);
            if shared.domain != self.source || shared.kind != kind {
                let configuration = Arc::make_mut(shared);
                configuration.domain = Arc::clone(&self.source);
                configuration.kind = kind;
            }
        }
        set
    }
}

impl<K: FollowedKind> payload::Payload for Payload<K> {
    type Response = Fetched<K>;
    type Changes = Changes;
    type Content = Content;

    const NOUN: &'static str = "configurations";
    const ACCUMULATES: bool = false;

    fn object_type(&self) -> &'static str {
        K::COLLECTION.object_type()
    }

    fn metrics(&self) -> &FollowerMetrics {
        &self.metrics.follower
    }

    fn url(&self) -> &Url {
        self.client.url()
    }

    async fn load(&mut self) -> Result<Option<Saved<usize>>, String> {
        let Some(path) = self.file.clone() else { return Ok(None) };
        let saved = state::load(path).await?;
        Ok(saved.map(|saved| {
            self.in_force = Arc::new(self.with_settings(saved.data));
            self.ambiguous = ambiguity::count(&self.in_force);
            Saved {
                data: self.in_force.configurations.len(),
                at: saved.at,
                fell_back: saved.fell_back,
                may_readmit: saved.may_readmit,
            }
        }))
    }

    fn restart(&mut self) {
        (self.candidate, self.etag) = (None, None);
    }

    async fn save(&mut self, at: Timestamp) -> Result<(), String> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        state::save(path, Arc::clone(&self.in_force), at).await
    }

    async fn fetch(&self, wait: Option<Duration>, refresh: bool) -> Result<Fetched<K>, FetchError> {
        // An operator gets the comparison with the complete list.
        let etag = self.etag.clone().filter(|_| !refresh);
        self.client.fetch(&FetchOptions { etag, wait }).await
    }

    fn renew(&mut self, full_every: Duration, now: Timestamp) {
        if self.full_at.is_some_and(|at| is_full_due(at, full_every, now)) {
            self.etag = None;
        }
        // Without an ETag, every request is for the complete list.
        if self.etag.is_none() {
            self.full_at = Some(now);
        }
    }

    async fn read(&mut self, fetched: Fetched<K>) -> Result<Progress<Changes>, FetchError> {
        let Fetched::List { entries, etag, supports_wait } = fetched else {
            return Ok(Progress::Unchanged);
        };
        // The ETag of a shortened list is not used, or the rest would never be fetched.
        let is_whole = entries.iter().all(|entry| !matches!(entry, Entry::Shortened { .. }));
        let etag = etag.filter(|_| is_whole);
        let set = self.with_settings(merge(&self.in_force, entries, self.prefix.as_deref()));
        let changes = Changes::between(&self.in_force, &set);
        self.etag = None;
        self.candidate = Some(Candidate { set, etag, supports_wait });
        Ok(Progress::Complete(changes))
    }

    fn supports_wait(&self) -> bool {
        self.supports_wait && self.etag.is_some()
    }

    fn digest(&self) -> String {
        let Some(Candidate { set, .. }) = &self.candidate else { return String::new() };
        let print = Fingerprint::of(wire::write_configurations(set).to_string().as_bytes());
        print.to_string().chars().take(32).collect()
    }

    fn approved(&mut self) {
        // The approved version is the new baseline.
        self.history.clear();
        self.is_approved = true;
    }

    /// Removals are added up over the window of the guard, so that a list that shrinks step by step is
    /// suspicious too.
    fn is_suspicious(&self, changes: &Changes, max_removal: f64) -> bool {
        let Some(Candidate { set, .. }) = &self.candidate else { return false };
        // A first list has no devices that were served before.
        let has_devices = !self.in_force.configurations.is_empty();
        if self.guard_ambiguity && has_devices && changes.newly_ambiguous > 0 {
            return true;
        }
        let is_recent = |(_, end): &&(_, Instant)| end.elapsed() < self.guard_window;
        let earlier = self.history.iter().filter(is_recent).map(|(earlier, _)| &**earlier);
        !changes.is_empty() && changes.is_suspicious_since(earlier, set, max_removal)
    }

    fn accept(&mut self, changes: &Changes, first: bool) -> Accepted {
        let Some(Candidate { set, etag, supports_wait }) = self.candidate.take() else {
            return Accepted { changed: false, publish: false };
        };
        let changed = first || !changes.is_empty() || set.skipped != self.in_force.skipped;
        if changed {
            let source = &self.source;
            info!(%source, "configurations changed: {changes}");
            if changes.newly_ambiguous > 0 {
                warn!(
                    %source,
                    configurations = changes.newly_ambiguous,
                    "configurations share an authority: their devices are refused unless their client_id \
                     selects one"
                );
            }
            for Skipped { configuration, why } in set.skipped.iter().take(MAX_LINES) {
                let configuration = Cleaned(configuration.as_str());
                warn!(%source, %configuration, "not in force: {}", Cleaned(&**why));
            }
            let more = set.skipped.len().saturating_sub(MAX_LINES);
            if more > 0 {
                warn!(%source, "not in force: {more} more");
            }
        }
        self.ambiguous = ambiguity::count(&set);
        let old = std::mem::replace(&mut self.in_force, Arc::new(set));
        self.history.retain(|(_, end)| end.elapsed() < self.guard_window);
        let is_approved = std::mem::take(&mut self.is_approved);
        if changed && !first && !is_approved && self.history.len() < MAX_HISTORY {
            self.history.push_back((old, Instant::now()));
        }
        (self.etag, self.supports_wait) = (etag, supports_wait);
        Accepted { changed, publish: changed }
    }

    fn describe(changes: &Changes) -> Vec<String> {
        let mut lines: Vec<_> = changes.lines.iter().take(MAX_LINES).cloned().collect();
        let more = changes.lines.len().saturating_sub(MAX_LINES);
        if more > 0 {
            lines.push(format!("and {more} more changes"));
        }
        lines
    }

    fn update(&self) -> Update {
        K::update(Arc::clone(&self.source), Configurations::clone(&self.in_force))
    }

    fn withdrawal(&self, age: Duration) -> Update {
        let why = format!("the directory `{}` was not reached for {age:?}", self.source);
        let skip =
            |c: &Arc<Configuration<K>>| Skipped { configuration: c.id.clone(), why: why.clone() };
        let skipped = self.in_force.configurations.iter().map(skip).collect();
        let set = Configurations { configurations: vec![], skipped };
        K::update(Arc::clone(&self.source), set)
    }

    fn report(&self) -> Content {
        let set = &self.in_force;
        let anchors = set.authorities().filter(|authority| authority.is_root).count();
        let content = Content {
            source: self.source.to_string(),
            configurations: set.configurations.len(),
            anchors,
            intermediates: set.authorities().count() - anchors,
            skipped: set.skipped.iter().map(Into::into).collect(),
            devices: None,
            revocation_at_risk: self
                .candidate
                .as_ref()
                .map_or(0, |candidate| Changes::between(set, &candidate.set).revocation_lost),
            ambiguous_configurations: self.ambiguous,
            in_force: K::only(Arc::clone(set)),
        };
        self.metrics.set(&self.source, &content);
        content
    }
}
