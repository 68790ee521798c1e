//! Metrics that all followers have.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::runtime::metrics::trust::TrustTimes;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PollResult {
    source: String,
    result: &'static str,
}

/// Results of polls.
const RESULTS: [&str; 6] = ["changed", "unchanged", "held_back", "failed", "restarted", "panicked"];

/// A gauge with one value for each source.
#[derive(Clone)]
pub(super) struct SourceGauge(Family<Source, Gauge<i64, AtomicI64>>);

impl SourceGauge {
    pub(super) fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self(family)
    }

    pub(super) fn set(&self, source: &str, value: i64) {
        self.0.get_or_create(&Source { source: source.into() }).set(value);
    }

    pub(super) fn remove(&self, source: &str) {
        self.0.remove(&Source { source: source.into() });
    }

    pub(super) fn set_count(&self, source: &str, count: usize) {
        self.set(source, i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Name and help text of a metric.
pub(super) type Description = (&'static str, &'static str);

/// Metrics of all followers of one kind.
#[derive(Clone)]
pub(crate) struct FollowerMetrics {
    polls: Family<PollResult, Counter>,
    /// Durations of changes.
    pub(super) times: TrustTimes,
    pub(super) last_success: SourceGauge,
    pub(super) held_back: SourceGauge,
    pub(super) too_old: SourceGauge,
}

impl FollowerMetrics {
    /// Registers the metrics in the order of the fields.
    pub(super) fn register(
        registry: &mut Registry,
        [(name, help), last_success, held_back, too_old]: [Description; 4],
    ) -> Self {
        let polls = Family::default();
        registry.register(name, help, polls.clone());
        let mut gauge = |(name, help)| SourceGauge::register(registry, name, help);
        Self {
            polls,
            times: TrustTimes::default(),
            last_success: gauge(last_success),
            held_back: gauge(held_back),
            too_old: gauge(too_old),
        }
    }

    /// Removes the series of a source that is no longer followed.
    pub(super) fn remove(&self, source: &str) {
        for result in RESULTS {
            self.polls.remove(&PollResult { source: source.into(), result });
        }
        for gauge in [&self.last_success, &self.held_back, &self.too_old] {
            gauge.remove(source);
        }
    }

    /// Counts a poll with this result, one of [`RESULTS`].
    pub(super) fn count_poll(&self, source: &str, result: &'static str) {
        debug_assert!(RESULTS.contains(&result), "{result} is not removed with its source");
        self.polls.get_or_create(&PollResult { source: source.into(), result }).inc();
    }
}
