//! Metrics of each address.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::crl::address_state::AddressState;
use crate::crl::status::Statuses;
use crate::runtime::metrics::trust::TrustTimes;
use crate::runtime::text::distinct;
use crate::runtime::tolerated::Tolerated;
use crate::x509::crl::{RevocationList, TOLERATED};
use crate::x509::time::Timestamp;

/// Metrics of this part.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    this_update: Family<Address, Gauge>,
    next_update: Family<Address, Gauge>,
    entries: Family<Address, Gauge>,
    bytes: Family<Address, Gauge>,
    has_copy: Family<Address, Gauge>,
    size: Family<Address, Gauge>,
    last_success: Family<Address, Gauge>,
    fetches: Family<FetchLabels, Counter>,
    /// Tolerated encodings of lists that come into force.
    pub(super) tolerated: Tolerated,
    restarts: Counter,
    statuses: Statuses,
    times: TrustTimes,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Address {
    address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    address: String,
    result: &'static str,
}

/// Result of a fetch, as the value of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    New,
    Unchanged,
    /// The transfer failed.
    Unreachable,
    /// The response is not a usable list, or may not replace the list in force.
    Refused,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::New, Self::Unchanged, Self::Unreachable, Self::Refused];

    const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Unchanged => "unchanged",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

/// Characters of an address in a label.
const MAX_LABEL: usize = 256;

/// Authorities of one address.  A directory may name an address for each authority that fits into its
/// response.
const MAX_AUTHORITIES: usize = 100;

/// The label of an address or an authority, which a directory or a certificate chose.  A long one, or one with hidden
/// characters, ends with a part of its SHA-256, so that two addresses never have one label.
fn label(text: &str) -> String {
    distinct(text, MAX_LABEL).into_owned()
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("crl");
        registry.register(
            "this_update_timestamp_seconds",
            "thisUpdate of the list in force that ends first, seconds since 1970",
            self.this_update.clone(),
        );
        registry.register(
            "next_update_timestamp_seconds",
            "nextUpdate of the list in force that ends first, seconds since 1970; 0 if it has none",
            self.next_update.clone(),
        );
        registry.register(
            "entries",
            "Revoked certificates in the lists in force",
            self.entries.clone(),
        );
        registry.register_with_unit(
            "resident",
            "Memory used by the lists in force",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "saved",
            "1 if a copy of each list in force is on disk, else 0",
            self.has_copy.clone(),
        );
        registry.register_with_unit(
            "size",
            "Length of the lists in force, encoded",
            Unit::Bytes,
            self.size.clone(),
        );
        registry.register(
            "last_success_timestamp_seconds",
            "Time of the last successful fetch, seconds since 1970",
            self.last_success.clone(),
        );
        registry.register("fetches", "Fetches, by result", self.fetches.clone());
        let help = "Lists that came into force with an encoding that is tolerated, by encoding";
        self.tolerated.register(registry, ("tolerated_lists", help), &TOLERATED);
        registry.register(
            "source_restarts",
            "Restarts of the source of CRLs after a panic",
            self.restarts.clone(),
        );
        registry.register_collector(Box::new(Authorities(self.statuses.clone())));
    }

    /// Adds the arrivals of lists to `times`.
    #[must_use]
    pub(crate) fn with_trust_times(self, times: TrustTimes) -> Self {
        Self { times, ..self }
    }

    /// The statuses that the source writes and the metrics read.
    pub(super) fn statuses(&self) -> Statuses {
        self.statuses.clone()
    }

    pub(super) fn restarted(&self) {
        self.restarts.inc();
    }

    /// Notes the arrival of the update that is sent next.
    pub(super) fn arrived(&self, at: Instant) {
        self.times.arrived(at);
    }

    pub(super) fn fetched(&self, address: &str, result: Outcome) {
        self.fetches
            .get_or_create(&FetchLabels { address: label(address), result: result.as_str() })
            .inc();
    }

    /// Sets the values of an address: the sum of its lists, and the times of the one that ends first.
    pub(super) fn in_force(&self, address: &str, state: &AddressState) {
        let label = Address { address: label(address) };
        let Some(first) = state.in_force().min_by_key(|list| {
            (list.next_update.map_or(Timestamp(i64::MAX), |at| at), list.this_update)
        }) else {
            return self.remove_lists(&label);
        };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let time = |at: Timestamp| at.0;
        let sum =
            |of: &dyn Fn(&RevocationList) -> usize| count(state.in_force().map(|l| of(l)).sum());
        self.this_update.get_or_create(&label).set(time(first.this_update));
        self.next_update.get_or_create(&label).set(first.next_update.map_or(0, time));
        self.entries.get_or_create(&label).set(sum(&RevocationList::entries));
        self.bytes.get_or_create(&label).set(sum(&RevocationList::resident_bytes));
        let has_copy = state.lists.iter().all(|held| held.copy.is_some());
        self.has_copy.get_or_create(&label).set(i64::from(has_copy));
        let size = state.in_force().map(|list| list.bytes).sum::<u64>();
        self.size.get_or_create(&label).set(i64::try_from(size).unwrap_or(i64::MAX));
        if let Some(at) = state.fetched {
            self.last_success.get_or_create(&label).set(time(at));
        }
    }

    pub(super) fn remove(&self, address: &str) {
        let label = Address { address: label(address) };
        for result in Outcome::ALL {
            self.fetches
                .remove(&FetchLabels { address: label.address.clone(), result: result.as_str() });
        }
        self.remove_lists(&label);
    }

    fn remove_lists(&self, label: &Address) {
        let lists = [
            &self.this_update,
            &self.next_update,
            &self.entries,
            &self.bytes,
            &self.has_copy,
            &self.size,
            &self.last_success,
        ];
        for family in lists {
            family.remove(label);
        }
    }
}

/// Names the authorities of each address.
#[derive(Debug)]
struct Authorities(Statuses);

impl Collector for Authorities {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut pairs = BTreeSet::new();
        self.0.visit(|statuses| {
            let named = statuses.iter().flat_map(|s| s.authorities.iter().map(|a| (&s.address, a)));
            let named = named.take(MAX_AUTHORITIES);
            pairs.extend(named.map(|(address, authority)| (label(address), label(authority))));
        });
        if pairs.is_empty() {
            return Ok(());
        }
        let help = "1 for each authority whose list has the address, 100 of an address at most.";
        let mut family =
            encoder.encode_descriptor("authority_info", help, None, MetricType::Gauge)?;
        for (address, authority) in pairs {
            let labels = [("address", address), ("authority", authority)];
            ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crl::status::Status;
    use crate::crl::targets::Expected;
    use prometheus_client::encoding::text::encode;
    use std::sync::Arc;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).expect("written");
        // Tolerated encodings have no address.
        text.lines()
            .filter(|line| !line.contains("tolerated"))
            .map(|line| format!("{line}\n"))
            .collect()
    }

    #[test]
    fn labels_are_bounded_and_forge_nothing() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let long = |end| format!("http://a/{}{end}", "x".repeat(2_000));
        let forged = "http://a/\"} 1\nup{x=\"\u{1b}[2J\u{202e}".to_owned();
        for address in [long("1"), long("2"), forged] {
            metrics.fetched(&address, Outcome::New);
        }
        let text = text(&registry);
        let lines: Vec<_> = text.lines().filter(|line| line.contains('{')).collect();
        assert_eq!(lines.len(), 3, "{text}");
        for line in lines {
            assert!(line.starts_with("crl_fetches_total{address=\"http://a/"), "{line}");
            assert!(line.chars().count() < MAX_LABEL + 80, "{line}");
            assert!(!line.chars().any(crate::runtime::text::is_hidden), "{line}");
        }
    }

    #[test]
    fn an_address_of_many_authorities_has_few_series() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let (address, expected): (Arc<str>, _) = ("http://a/".into(), Expected::default());
        let mut status = Status::unusable(&address, &expected, Timestamp(0), String::new());
        status.authorities = (0..100_000).map(|n| format!("CN={n}")).collect();
        metrics.statuses().put(&address, vec![status]);
        let text = text(&registry);
        let pairs = text.lines().filter(|line| line.starts_with("crl_authority_info{"));
        assert_eq!(pairs.count(), MAX_AUTHORITIES);
    }

    #[test]
    fn an_address_that_is_gone_leaves_no_series() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        for n in 0..1_000 {
            let address = format!("http://a/{n}{}", "\u{7f}".repeat(n % 2));
            for result in Outcome::ALL {
                metrics.fetched(&address, result);
            }
            metrics.entries.get_or_create(&Address { address: label(&address) }).set(1);
            metrics.remove(&address);
        }
        let text = text(&registry);
        assert!(text.lines().all(|line| line.starts_with('#') || !line.contains('{')), "{text}");
    }
}
