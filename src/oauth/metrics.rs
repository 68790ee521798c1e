//! Metrics of the token endpoint.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::oauth::rates::metrics::RateMetrics;

/// Requests by result, their duration, and what rate limits refuse.
#[derive(Debug, Clone)]
pub struct Metrics {
    tokens: Family<Labels, Counter>,
    seconds: Histogram,
    rates: RateMetrics,
}

/// Result of a request.  Both labels have a fixed set of values, so clients cannot add time series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    /// `issued`, or the `error` of the response.
    result: &'static str,
    /// Refusal code, or empty.
    refusal: &'static str,
}

/// Upper bounds in seconds.  A signature takes tens of microseconds with ECDSA and a millisecond
/// with RSA.  Judging a path for the first time adds some hundreds of microseconds.
const BUCKETS: [f64; 11] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0];

impl Metrics {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            tokens: Family::default(),
            seconds: Histogram::new(BUCKETS),
            rates: RateMetrics::register(registry),
        };
        registry.register(
            "token_requests",
            "Decisions of the token endpoint by result and refusal code",
            metrics.tokens.clone(),
        );
        registry.register_with_unit(
            "token_request_duration",
            "Time from the last byte of a request to its response",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        metrics
    }

    /// Returns the counters of the rate limits.
    pub(super) fn rates(&self) -> RateMetrics {
        self.rates.clone()
    }

    pub(super) fn count(
        &self,
        result: &'static str,
        refusal: Option<&'static str>,
        took: Duration,
    ) {
        let refusal = refusal.unwrap_or_default();
        self.tokens.get_or_create(&Labels { result, refusal }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}
