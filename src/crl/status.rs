//! Status and metrics of each address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use crate::crl::address_state::{AddressState, Expected, Referrer};
use crate::crl::list_key;
use crate::runtime::text::distinct;
use crate::runtime::tolerated::Tolerated;
use crate::x509::crl::{Kind, RevocationList, TOLERATED};
use crate::x509::time::Timestamp;

/// Status of one address.  Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// URL of the list, as the authorities name it.
    pub address: String,
    /// The authorities that name the address.
    pub authorities: Vec<String>,
    /// Rules for the lists of each of them.
    pub policies: Vec<PolicyStatus>,
    /// The list in force.
    pub list: Option<ListStatus>,
    /// Reason why the delta in force amends no complete list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused: Option<String>,
    /// Time of the last successful fetch.  A load from disk does not count.
    pub fetched: Option<String>,
    /// The list was loaded from disk, and no fetch has confirmed it yet.
    pub from_disk: bool,
    /// A copy of the list in force is on disk.  Without one, a restart waits for the network.
    pub kept: bool,
    /// Time of the next fetch; `None` if the address is not usable.
    pub next_fetch: Option<String>,
    /// The last failure, until a fetch succeeds.
    pub last_error: Option<ErrorStatus>,
}

/// Rules for the lists of one authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Name of the authority.
    pub authority: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// `require` or `if-available`.  Lists of authorities with mode `off` are not fetched.
    pub mode: &'static str,
    /// Time after nextUpdate during which a list is still used.
    pub grace_seconds: u64,
    /// A complete list is used only together with a fresh delta.
    pub require_delta: bool,
}

/// Status of a list in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListStatus {
    /// `complete` or `delta`.
    pub kind: &'static str,
    /// Name of the issuer.
    pub issuer: String,
    /// cRLNumber.
    pub number: Option<String>,
    /// BaseCRLNumber.
    pub base_number: Option<String>,
    /// Number of revoked certificates.
    pub entries: usize,
    /// Length of the DER encoding in bytes.
    pub bytes: u64,
    /// Memory use in bytes.
    pub resident_bytes: usize,
    /// thisUpdate.
    pub this_update: String,
    /// nextUpdate.
    pub next_update: Option<String>,
    /// Names of the tolerated encodings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerated: Vec<&'static str>,
}

/// A failed fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorStatus {
    /// Time of the failure.
    pub at: String,
    /// Reason.
    pub error: String,
}

impl Status {
    pub(super) fn of(key: &str, state: &AddressState) -> Self {
        Self {
            address: list_key::address(key).to_owned(),
            authorities: state.expected.issuers().iter().map(ToString::to_string).collect(),
            policies: policies(&state.expected),
            list: state.list.as_ref().map(|list| ListStatus::from(&**list)),
            unused: state.unused.clone(),
            fetched: state.fetched.map(|at| at.to_string()),
            from_disk: state.from_disk,
            kept: state.has_copy,
            next_fetch: Some(state.next_fetch.to_string()),
            last_error: state
                .last_error
                .as_ref()
                .map(|(at, error)| ErrorStatus { at: at.to_string(), error: error.clone() }),
        }
    }

    /// Status of an address that cannot be fetched from.
    pub(super) fn unusable(key: &str, expected: &Expected, now: Timestamp, why: String) -> Self {
        Self {
            address: list_key::address(key).to_owned(),
            authorities: expected.issuers().iter().map(ToString::to_string).collect(),
            policies: policies(expected),
            list: None,
            unused: None,
            fetched: None,
            from_disk: false,
            kept: false,
            next_fetch: None,
            last_error: Some(ErrorStatus { at: now.to_string(), error: why }),
        }
    }
}

/// The rules of the authorities that name an address, sorted by name.
fn policies(expected: &Expected) -> Vec<PolicyStatus> {
    let mut policies: Vec<_> = expected.authorities.iter().map(PolicyStatus::from).collect();
    policies.sort_by(|a, b| a.authority.cmp(&b.authority));
    policies
}

impl From<&Referrer> for PolicyStatus {
    fn from(authority: &Referrer) -> Self {
        Self {
            authority: authority.name.to_string(),
            key: authority.key.to_string(),
            mode: authority.rules.mode.unwrap_or_default().as_str(),
            grace_seconds: authority.rules.grace.as_secs(),
            require_delta: authority.rules.require_delta,
        }
    }
}

impl From<&RevocationList> for ListStatus {
    fn from(list: &RevocationList) -> Self {
        let base_number = match list.kind {
            Kind::Complete => None,
            Kind::Delta { base } => Some(base.to_string()),
        };
        Self {
            kind: if list.is_delta() { "delta" } else { "complete" },
            issuer: list.issuer.to_string(),
            number: list.number.map(|number| number.to_string()),
            base_number,
            entries: list.entries(),
            bytes: list.bytes,
            resident_bytes: list.resident_bytes(),
            this_update: list.this_update.to_string(),
            next_update: list.next_update.map(|at| at.to_string()),
            tolerated: list.tolerated.clone(),
        }
    }
}

/// The statuses of all addresses, shared with the handles.
#[derive(Debug, Clone, Default)]
pub(super) struct Statuses(Arc<Mutex<BTreeMap<Arc<str>, Status>>>);

impl Statuses {
    pub(super) fn read(&self) -> Vec<Status> {
        // Each statement leaves the map consistent, so a poisoned lock is usable.
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.values().cloned().collect()
    }

    pub(super) fn count_expired(&self, now: Timestamp) -> usize {
        // Times of this form have the order of their texts.
        let now = now.to_string();
        let is_expired = |status: &&Status| {
            let next_update = status.list.as_ref().and_then(|list| list.next_update.as_ref());
            next_update.is_some_and(|at| *at < now)
        };
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.values().filter(is_expired).count()
    }

    pub(super) fn put(&self, address: &Arc<str>, status: Status) {
        let mut statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.insert(Arc::clone(address), status);
    }

    pub(super) fn remove(&self, address: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }
}

/// Metrics of this part.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    this_update: Family<Address, Gauge>,
    next_update: Family<Address, Gauge>,
    entries: Family<Address, Gauge>,
    bytes: Family<Address, Gauge>,
    has_copy: Family<Address, Gauge>,
    fetches: Family<FetchLabels, Counter>,
    /// Tolerated encodings of lists that come into force.
    pub(super) tolerated: Tolerated,
    restarts: Counter,
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

/// The label of an address, which a directory or a certificate chose.  A long one, or one with hidden
/// characters, ends with a part of its SHA-256, so that two addresses never have one label.
fn label(key: &str) -> String {
    distinct(list_key::address(key), MAX_LABEL).into_owned()
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("crl");
        registry.register(
            "this_update_timestamp_seconds",
            "thisUpdate of the list in force, seconds since 1970",
            self.this_update.clone(),
        );
        registry.register(
            "next_update_timestamp_seconds",
            "nextUpdate of the list in force, seconds since 1970; 0 if it has none",
            self.next_update.clone(),
        );
        registry.register(
            "entries",
            "Revoked certificates in the list in force",
            self.entries.clone(),
        );
        registry.register_with_unit(
            "resident",
            "Memory used by the list in force",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "saved",
            "1 if a copy of the list in force is on disk, else 0",
            self.has_copy.clone(),
        );
        registry.register("fetches", "Fetches, by result", self.fetches.clone());
        let help = "Lists that came into force with an encoding that is tolerated, by encoding";
        self.tolerated.register(registry, ("tolerated_lists", help), &TOLERATED);
        registry.register(
            "source_restarts",
            "Restarts of the source of CRLs after a panic",
            self.restarts.clone(),
        );
    }

    pub(super) fn restarted(&self) {
        self.restarts.inc();
    }

    pub(super) fn fetched(&self, address: &str, result: Outcome) {
        self.fetches
            .get_or_create(&FetchLabels { address: label(address), result: result.as_str() })
            .inc();
    }

    pub(super) fn in_force(&self, address: &str, state: &AddressState) {
        let Some(list) = &state.list else { return };
        let label = Address { address: label(address) };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let time = |at: Timestamp| at.0;
        self.this_update.get_or_create(&label).set(time(list.this_update));
        self.next_update.get_or_create(&label).set(list.next_update.map_or(0, time));
        self.entries.get_or_create(&label).set(count(list.entries()));
        self.bytes.get_or_create(&label).set(count(list.resident_bytes()));
        self.has_copy.get_or_create(&label).set(i64::from(state.has_copy));
    }

    pub(super) fn remove(&self, address: &str) {
        let label = Address { address: label(address) };
        for result in Outcome::ALL {
            self.fetches
                .remove(&FetchLabels { address: label.address.clone(), result: result.as_str() });
        }
        self.this_update.remove(&label);
        self.next_update.remove(&label);
        self.entries.remove(&label);
        self.bytes.remove(&label);
        self.has_copy.remove(&label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

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
