//! The limits by name, and their metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Unit that a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Network address of the peer.
    Address,
    /// Subject ID of the certificate.
    Subject,
    /// `client_id` of the token.
    Client,
    /// Configuration that accepts the certificate.
    Configuration,
}

impl Limit {
    /// All limits.
    pub(in crate::oauth) const ALL: [Self; 4] =
        [Self::Address, Self::Subject, Self::Client, Self::Configuration];

    /// Returns the limit as metrics and settings name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Subject => "subject",
            Self::Client => "client",
            Self::Configuration => "configuration",
        }
    }

    /// Returns the limit as responses name it.
    pub(in crate::oauth) const fn phrase(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Subject => "subject ID",
            Self::Client => "client",
            Self::Configuration => "configuration",
        }
    }
}

/// Requests that rate limits refuse, and buckets that were displaced.
#[derive(Debug, Clone, Default)]
pub(in crate::oauth) struct RateMetrics {
    limited: Family<LimitLabel, Counter>,
    displaced: Family<LimitLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

impl RateMetrics {
    /// Creates the metrics in `registry`, at zero for every limit.
    pub(in crate::oauth) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for limit in Limit::ALL {
            for family in [&metrics.limited, &metrics.displaced] {
                drop(family.get_or_create(&LimitLabel { limit: limit.as_str() }));
            }
        }
        registry.register(
            "rate_limited_requests",
            "Token requests that a rate limit refused",
            metrics.limited.clone(),
        );
        registry.register(
            "rate_limit_displaced",
            "Buckets that lost their state because the table of a rate limit was full",
            metrics.displaced.clone(),
        );
        metrics
    }

    /// Counts a refused request.
    pub(in crate::oauth) fn limited(&self, limit: Limit) {
        self.limited.get_or_create(&LimitLabel { limit: limit.as_str() }).inc();
    }

    /// Counts a displaced bucket.
    pub(in crate::oauth) fn displaced(&self, limit: Limit) {
        self.displaced.get_or_create(&LimitLabel { limit: limit.as_str() }).inc();
    }
}
