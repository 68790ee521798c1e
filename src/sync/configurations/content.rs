//! Description and metrics of the configurations in force.

use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::sync::devices;
use crate::sync::metrics::{FollowerMetrics, SourceGauge};
use crate::trust::configurations::{AllConfigurations, Skipped};

/// Description of the configurations of one directory.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Content {
    /// Name of the follower.
    pub source: String,
    /// Configurations in force.
    pub configurations: usize,
    /// Root authorities in force.
    pub anchors: usize,
    /// Intermediate authorities in force.
    pub intermediates: usize,
    /// Parts of the last response that are not in force.
    pub skipped: Vec<SkippedStatus>,
    /// Status of its devices, if a configuration admits registered devices only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<devices::Status>,
    /// Authorities that would lose revocation checking by the change that waits for approval.
    pub revocation_at_risk: usize,
    /// Device configurations in force that share an authority with another one.
    pub ambiguous_configurations: usize,
    #[serde(skip)]
    pub(super) in_force: AllConfigurations,
}

/// A part of a response that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedStatus {
    /// Id of the configuration.
    pub configuration: String,
    /// Reason.
    pub why: String,
}

impl From<&Skipped> for SkippedStatus {
    fn from(skipped: &Skipped) -> Self {
        Self { configuration: skipped.configuration.to_string(), why: skipped.why.clone() }
    }
}

/// Metrics of the configurations of all directories.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) follower: FollowerMetrics,
    configurations: SourceGauge,
    anchors: SourceGauge,
    skipped: SourceGauge,
    revocation_at_risk: SourceGauge,
    ambiguous: SourceGauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let descriptions = [
            (
                "graph_polls",
                "Polls of a directory by result: changed, unchanged, held_back, failed",
            ),
            (
                "graph_last_success_timestamp_seconds",
                "Time at which a directory last confirmed or changed the configurations in force",
            ),
            ("graph_held_back", "1 while a change waits for approval"),
            (
                "graph_too_old",
                "1 while the configurations in force are older than the policy allows",
            ),
        ];
        let follower = FollowerMetrics::register(registry, descriptions);
        let mut gauge = |name, help| SourceGauge::register(registry, name, help);
        Self {
            follower,
            configurations: gauge("graph_configurations", "Configurations in force"),
            anchors: gauge("graph_anchors", "Root authorities in force"),
            skipped: gauge("graph_skipped", "Parts of the last response that are not in force"),
            revocation_at_risk: gauge(
                "graph_revocation_at_risk",
                "Authorities that would lose revocation checking by the change that waits for approval",
            ),
            ambiguous: gauge(
                "graph_ambiguous_configurations",
                "Device configurations in force that share an authority with another one",
            ),
        }
    }

    pub(crate) fn remove(&self, source: &str) {
        self.follower.remove(source);
        let gauges = [&self.configurations, &self.anchors, &self.skipped, &self.revocation_at_risk];
        for gauge in gauges.into_iter().chain([&self.ambiguous]) {
            gauge.remove(source);
        }
    }

    pub(super) fn set(&self, source: &str, content: &Content) {
        self.configurations.set_count(source, content.configurations);
        self.anchors.set_count(source, content.anchors);
        self.skipped.set_count(source, content.skipped.len());
        self.revocation_at_risk.set_count(source, content.revocation_at_risk);
        self.ambiguous.set_count(source, content.ambiguous_configurations);
    }
}
