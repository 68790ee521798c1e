//! Description and metrics of the devices in force.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::sync::metrics::{FollowerMetrics, SourceGauge};

/// Description of the devices of one directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Devices in force.
    pub known: usize,
    /// Devices in force that are admitted.
    pub enabled: usize,
    /// Devices in force that are not admitted.
    pub disabled: usize,
    /// Devices in force whose `externalDeviceId` another object has too.
    pub duplicates: usize,
    /// Objects of the last complete response that are not registered devices.
    pub skipped: usize,
    /// Pages of the incomplete response so far.
    pub pages: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    source: String,
    state: &'static str,
}

/// Metrics of the devices of all directories.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) follower: FollowerMetrics,
    devices: Family<State, Gauge<i64, AtomicI64>>,
    duplicates: SourceGauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let descriptions = [
            (
                "graph_device_polls",
                "Polls of a directory's devices by result: changed, unchanged, held_back, failed, \
                 restarted",
            ),
            (
                "graph_devices_last_success_timestamp_seconds",
                "Time at which a directory last confirmed or changed the devices in force",
            ),
            ("graph_devices_held_back", "1 while a change of devices waits for approval"),
            (
                "graph_devices_too_old",
                "1 while the devices in force are older than the policy allows",
            ),
        ];
        let follower = FollowerMetrics::register(registry, descriptions);
        let devices = Family::default();
        registry.register("graph_devices", "Devices in force", devices.clone());
        let duplicates = SourceGauge::register(
            registry,
            "graph_device_duplicates",
            "Devices in force whose externalDeviceId another object has too",
        );
        Self { follower, devices, duplicates }
    }

    pub(crate) fn remove(&self, source: &str) {
        self.follower.remove(source);
        for state in ["enabled", "disabled"] {
            self.devices.remove(&State { source: source.into(), state });
        }
        self.duplicates.remove(source);
    }

    pub(super) fn set(&self, source: &str, content: &Content) {
        for (state, count) in [("enabled", content.enabled), ("disabled", content.disabled)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.devices.get_or_create(&State { source: source.into(), state }).set(count);
        }
        self.duplicates.set_count(source, content.duplicates);
    }
}
