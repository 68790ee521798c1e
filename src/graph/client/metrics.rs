//! Requests to directories by result.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use reqwest::StatusCode;

/// Classes of results.
const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "error"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    source: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Source {
    source: String,
}

/// Requests to all directories.
#[derive(Debug, Clone, Default)]
pub struct RequestMetrics {
    requests: Family<Class, Counter>,
    throttled: Family<Source, Counter>,
}

impl RequestMetrics {
    /// Creates the metrics in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "graph_requests",
            "Requests to a directory by class of the status: 2xx, 3xx, 4xx, 5xx, or error without a response",
            metrics.requests.clone(),
        );
        registry.register(
            "graph_throttled_requests",
            "Requests to a directory that it throttled (429, 503, 504)",
            metrics.throttled.clone(),
        );
        metrics
    }

    /// Returns the counters of one directory, at zero.
    pub fn of(&self, source: &str) -> RequestCounters {
        let class = |class| {
            let labels = Class { source: source.into(), class };
            self.requests.get_or_create_owned(&labels)
        };
        let throttled = self.throttled.get_or_create_owned(&Source { source: source.into() });
        RequestCounters { classes: CLASSES.map(class), throttled }
    }

    /// Removes the series of a directory that is no longer followed.
    pub fn remove(&self, source: &str) {
        for class in CLASSES {
            self.requests.remove(&Class { source: source.into(), class });
        }
        self.throttled.remove(&Source { source: source.into() });
    }
}

/// Requests to one directory.
#[derive(Debug, Clone, Default)]
pub struct RequestCounters {
    classes: [Counter; CLASSES.len()],
    throttled: Counter,
}

impl RequestCounters {
    /// Counts a request with this status, or without a response.
    pub(super) fn count(&self, status: Option<StatusCode>) {
        let [success, unchanged, refused, failed, error] = &self.classes;
        let class = match status.map(|status| status.as_u16()) {
            None => error,
            Some(..300) => success,
            Some(300..400) => unchanged,
            Some(400..500) => refused,
            Some(500..) => failed,
        };
        class.inc();
        if matches!(status.map(|status| status.as_u16()), Some(429 | 503 | 504)) {
            self.throttled.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn counts_by_class_until_the_directory_is_removed() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::register(&mut registry);
        let counters = metrics.of("a");
        for status in [200, 304, 429, 404, 503, 500] {
            counters.count(StatusCode::from_u16(status).ok());
        }
        counters.count(None);
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).expect("encoded");
            text
        };
        let counted = text();
        for (class, count) in CLASSES.into_iter().zip([1, 1, 2, 2, 1]) {
            let line = format!("graph_requests_total{{source=\"a\",class=\"{class}\"}} {count}\n");
            assert!(counted.contains(&line), "{line} is not in {counted}");
        }
        assert!(counted.contains("graph_throttled_requests_total{source=\"a\"} 2\n"), "{counted}");
        metrics.remove("a");
        assert!(text().lines().all(|line| line.starts_with('#')), "{}", text());
    }
}
