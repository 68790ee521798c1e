//! How the sync with a directory stands, for people and for monitoring.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::sync::configurations::changes::Changes;
use crate::sync::devices;
use crate::trust::configurations::Skipped;
use crate::x509::time::Timestamp;

/// How the sync with one directory stands.  Times are RFC 3339.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// The directory's name here.
    pub source: String,
    /// Where the list is asked for.
    pub url: String,
    /// When the directory last confirmed or changed what is in force.
    pub last_success: Option<String>,
    /// When it was last asked.
    pub last_poll: Option<String>,
    /// When it will be asked next.
    pub next_poll: Option<String>,
    /// Why the last poll failed; absent after one that did not.
    pub last_error: Option<String>,
    /// Polls that failed since the last success.
    pub failures: u32,
    /// What is in force came from disk, and the directory has not been reached since the start.
    pub from_disk: bool,
    /// Older than the policy allows.
    pub too_old: bool,
    /// Configurations in force.
    pub configurations: usize,
    /// Root authorities in force.
    pub anchors: usize,
    /// Intermediate authorities known.
    pub intermediates: usize,
    /// What of the last answer is not in force, and why.
    pub skipped: Vec<SkippedStatus>,
    /// An answer that waits for approval.
    pub held_back: Option<HeldBack>,
    /// The last change, and when it came.
    pub last_change: Option<(String, Changes)>,
    /// Its devices, where a configuration admits registered ones only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<devices::Status>,
}

/// Something of an answer that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedStatus {
    /// Its configuration.
    pub configuration: String,
    /// The rule.
    pub why: String,
}

impl From<&Skipped> for SkippedStatus {
    fn from(skipped: &Skipped) -> Self {
        Self { configuration: skipped.configuration.to_string(), why: skipped.why.clone() }
    }
}

/// An answer that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldBack {
    /// Since when the directory has answered so.
    pub since: String,
    /// What it would change.
    pub changes: Changes,
}

impl Status {
    pub(in crate::sync) fn new(source: &str, url: &str) -> Self {
        Self { source: source.into(), url: url.into(), ..Self::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    source: String,
    result: &'static str,
}

type Number = Family<Source, Gauge<i64, AtomicI64>>;

/// What the syncs with all directories count, by source.
#[derive(Clone, Default)]
pub struct Metrics {
    polls: Family<Outcome, Counter>,
    last_success: Number,
    configurations: Number,
    anchors: Number,
    skipped: Number,
    held_back: Number,
    too_old: Number,
    pub(in crate::sync) devices: devices::Metrics,
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register(
            "graph_polls",
            "Polls of a directory by result: changed, unchanged, held_back, failed",
            m.polls.clone(),
        );
        let mut number = |name: &str, help: &str, gauge: &Number| {
            registry.register(name, help, gauge.clone());
        };
        number(
            "graph_last_success_timestamp_seconds",
            "When a directory last confirmed or changed what is in force",
            &m.last_success,
        );
        number("graph_configurations", "Configurations in force", &m.configurations);
        number("graph_anchors", "Root authorities in force", &m.anchors);
        number("graph_skipped", "Parts of the last answer that are not in force", &m.skipped);
        number("graph_held_back", "1 while an answer waits for approval", &m.held_back);
        number("graph_too_old", "1 while trust is older than the policy allows", &m.too_old);
        m.devices.register(registry);
        m
    }

    pub(super) fn polled(&self, source: &str, result: &'static str) {
        self.polls.get_or_create(&Outcome { source: source.into(), result }).inc();
    }

    /// Brings the gauges to what `status` says.
    pub(super) fn show(&self, status: &Status, last_success: Option<Timestamp>) {
        let set = |gauge: &Number, value: i64| {
            gauge.get_or_create(&Source { source: status.source.clone() }).set(value);
        };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        set(&self.last_success, last_success.map_or(0, |at| at.0));
        set(&self.configurations, count(status.configurations));
        set(&self.anchors, count(status.anchors));
        set(&self.skipped, count(status.skipped.len()));
        set(&self.held_back, i64::from(status.held_back.is_some()));
        set(&self.too_old, i64::from(status.too_old));
    }
}
