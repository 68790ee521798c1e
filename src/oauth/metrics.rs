//! What the token endpoint counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Counters of the token endpoint.
#[derive(Debug, Clone)]
pub struct Metrics {
    tokens: Family<Labels, Counter>,
    seconds: Histogram,
}

/// How a request ended.  Both are closed sets, so that no client can add a time series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    /// `issued`, or the `error` of the answer.
    result: &'static str,
    /// The refusal code, or nothing.
    refusal: &'static str,
}

/// Upper bounds in seconds: a signature takes tens of microseconds with ECDSA and a millisecond with
/// RSA; a path that is judged for the first time, some hundreds of microseconds more.
const BUCKETS: [f64; 11] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0];

impl Metrics {
    /// Metrics that are shown by `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { tokens: Family::default(), seconds: Histogram::new(BUCKETS) };
        registry.register(
            "token_requests",
            "Decisions of the token endpoint by result and refusal code",
            metrics.tokens.clone(),
        );
        registry.register_with_unit(
            "token_request_duration",
            "Time from a request's last byte to its answer",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        metrics
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
