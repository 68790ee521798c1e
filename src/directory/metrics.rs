//! Metrics of the directory.

use hyper::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Requests by result, and those that wait for a change.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    waiting: Gauge,
}

/// Both labels have a fixed set of values, so callers cannot add time series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    status: u32,
}

/// A request that may wait for a change.
pub(super) struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "directory_requests",
            "Requests to the directory by method and status",
            metrics.requests.clone(),
        );
        registry.register(
            "directory_waiting_requests",
            "Requests to the directory that wait for a change",
            metrics.waiting.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, method: &Method, status: StatusCode) {
        let method = match *method {
            Method::GET => "get",
            Method::POST => "post",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        self.requests.get_or_create(&Labels { method, status: status.as_u16().into() }).inc();
    }

    /// Counts a waiting request until the value is dropped.
    pub(super) fn wait(&self) -> Waiting {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }
}
