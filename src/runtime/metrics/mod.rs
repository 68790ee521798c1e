//! Instruments for handshakes and requests, and the metrics of the process.
//!
//! # Design notes
//! Handshakes and requests are counted without a lock and without an allocation: a [`table::Table`] finds
//! a series with atomic loads, and a `latency::Latency` spreads its counts over shards, so that threads
//! do not write to the same cache lines.
//!
//! Histograms have fixed buckets.  Native histograms exist in the protobuf format only, which is not
//! served; Prometheus converts fixed buckets to native histograms with
//! `convert_classic_histograms_to_nhcb`.

pub mod latency;
pub mod process;
pub mod table;
pub mod trust;

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::registry::{Registry, Unit};

use crate::runtime::metrics::latency::Latency;
use crate::runtime::metrics::table::Table;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Occasion {
    occasion: &'static str,
}

/// Durations of the judge's decisions, in handshakes and on requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct JudgeTimes(Table<Occasion, Latency>);

impl JudgeTimes {
    /// Creates the metric in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let times = Self::default();
        registry.register_with_unit(
            "judge_duration",
            "Time that the judge takes for a decision, by occasion (handshake, request)",
            Unit::Seconds,
            times.0.clone(),
        );
        times
    }

    /// Adds a decision in a handshake.
    pub fn handshake(&self, took: Duration) {
        self.0.get(Occasion { occasion: "handshake" }).observe(took);
    }

    /// Adds a decision on a request.
    pub fn request(&self, took: Duration) {
        self.0.get(Occasion { occasion: "request" }).observe(took);
    }
}
