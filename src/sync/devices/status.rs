//! How the sync of devices stands, for people and for monitoring.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;

use crate::trust::devices::Difference;
use crate::x509::time::Timestamp;

/// How the sync of one directory's devices stands.  Times are RFC 3339.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    /// Where they are asked for.
    pub url: String,
    /// There is a registry; without one no device is registered.
    pub loaded: bool,
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
    /// Devices in force.
    pub known: usize,
    /// Those of them that are let in.
    pub enabled: usize,
    /// Those of them that are not.
    pub disabled: usize,
    /// Those of them whose `externalDeviceId` another object has too.
    pub duplicates: usize,
    /// Objects of the last answer that are no registered devices.
    pub skipped: usize,
    /// Pages read so far of an answer that is not whole yet.
    pub pages: usize,
    /// An answer that waits for approval.
    pub held_back: Option<HeldBack>,
    /// The last change, and when it came.
    pub last_change: Option<(String, Difference)>,
}

/// An answer that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldBack {
    /// Since when the directory has answered so.
    pub since: String,
    /// What it would change.
    pub changes: Difference,
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    source: String,
    state: &'static str,
}

type Number = Family<Source, Gauge<i64, AtomicI64>>;

/// What the syncs of all devices count, by source.
#[derive(Clone, Default)]
pub struct Metrics {
    polls: Family<Outcome, Counter>,
    devices: Family<State, Gauge<i64, AtomicI64>>,
    duplicates: Number,
    last_success: Number,
    held_back: Number,
    too_old: Number,
}

impl Metrics {
    pub(in crate::sync) fn register(&self, registry: &mut Registry) {
        registry.register(
            "graph_device_polls",
            "Polls of a directory's devices by result: changed, unchanged, held_back, failed, restarted",
            self.polls.clone(),
        );
        registry.register("graph_devices", "Devices in force", self.devices.clone());
        let mut number = |name: &str, help: &str, gauge: &Number| {
            registry.register(name, help, gauge.clone());
        };
        number(
            "graph_device_duplicates",
            "Devices in force whose externalDeviceId another object has too",
            &self.duplicates,
        );
        number(
            "graph_devices_last_success_timestamp_seconds",
            "When a directory last confirmed or changed the devices in force",
            &self.last_success,
        );
        number(
            "graph_devices_held_back",
            "1 while an answer about devices waits for approval",
            &self.held_back,
        );
        number(
            "graph_devices_too_old",
            "1 while the devices in force are older than the policy allows",
            &self.too_old,
        );
    }

    pub(super) fn polled(&self, source: &str, result: &'static str) {
        self.polls.get_or_create(&Outcome { source: source.into(), result }).inc();
    }

    /// Brings the gauges to what `status` says.
    pub(super) fn show(&self, source: &str, status: &Status, last_success: Option<Timestamp>) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for (state, n) in [("enabled", status.enabled), ("disabled", status.disabled)] {
            self.devices.get_or_create(&State { source: source.into(), state }).set(count(n));
        }
        let set = |gauge: &Number, value: i64| {
            gauge.get_or_create(&Source { source: source.into() }).set(value);
        };
        set(&self.duplicates, count(status.duplicates));
        set(&self.last_success, last_success.map_or(0, |at| at.0));
        set(&self.held_back, i64::from(status.held_back.is_some()));
        set(&self.too_old, i64::from(status.too_old));
    }
}
