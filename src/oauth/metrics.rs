//! Metrics of the token endpoint.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use crate::oauth::issued_tokens::{Collected, IssuedTokens};
use crate::oauth::rates::metrics::RateMetrics;
use crate::runtime::metrics::JudgeTimes;
use crate::runtime::metrics::latency::Latency;
use crate::runtime::metrics::table::Table;

/// Requests by result, their duration, and what rate limits refuse.
#[derive(Debug, Clone)]
pub struct Metrics {
    tokens: Table<Labels, Counter>,
    seconds: Latency,
    signing: Table<Signature, Latency>,
    pub(super) issued: Arc<IssuedTokens>,
    judging: JudgeTimes,
    rates: RateMetrics,
}

/// Result of a request.  Both labels have a fixed set of values, so clients cannot add time series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    /// `issued`, or the `error` of the response.
    result: &'static str,
    /// Refusal code, or empty.
    refusal: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Signature {
    algorithm: &'static str,
}

impl Metrics {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            tokens: Table::default(),
            seconds: Latency::default(),
            signing: Table::default(),
            issued: Arc::default(),
            judging: JudgeTimes::default(),
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
        registry.register_with_unit(
            "sign_duration",
            "Time to sign a token, by algorithm",
            Unit::Seconds,
            metrics.signing.clone(),
        );
        registry.register_collector(Box::new(Collected(Arc::clone(&metrics.issued))));
        metrics
    }

    /// Adds the durations of the judge's decisions on requests to `judging`.
    #[must_use]
    pub(crate) fn with_judge_times(self, judging: JudgeTimes) -> Self {
        Self { judging, ..self }
    }

    /// Returns the durations of the judge's decisions.
    pub(super) fn judging(&self) -> JudgeTimes {
        self.judging.clone()
    }

    /// Counts a signature.
    pub(super) fn signed(&self, algorithm: &'static str, took: Duration) {
        self.signing.get(Signature { algorithm }).observe(took);
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
        self.tokens.get(Labels { result, refusal }).inc();
        self.seconds.observe(took);
    }
}
