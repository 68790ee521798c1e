//! What is known of each address, for people and for metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use crate::crl::address_state::{Namer, Point, Wanted};
use crate::x509::crl::{Kind, RevocationList};
use crate::x509::time::Timestamp;

/// One address.  Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The address.
    pub address: String,
    /// The authorities that name it.
    pub authorities: Vec<String>,
    /// What is demanded of each of them.
    pub policies: Vec<PolicyStatus>,
    /// The list in force.
    pub list: Option<ListStatus>,
    /// When the address was last fetched from (not: loaded from disk).
    pub fetched: Option<String>,
    /// The list was loaded from disk and the network has not confirmed it yet.
    pub from_disk: bool,
    /// A copy of the list in force is on disk; without one a restart has to wait for the network, or
    /// begins with an older list.
    pub kept: bool,
    /// When it is looked at next; never, when it is no address to fetch from.
    pub next_fetch: Option<String>,
    /// When and why the last look failed, until one succeeds.
    pub last_error: Option<ErrorStatus>,
}

/// What is demanded of the lists of one authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The authority.
    pub authority: String,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: String,
    /// `require` or `if-available`: nobody looks at an address for an authority that is `off`.
    pub mode: &'static str,
    /// How long past nextUpdate its lists still decide.
    pub grace_seconds: u64,
    /// Its complete list decides only together with a fresh delta.
    pub require_delta: bool,
}

/// A list in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListStatus {
    /// `complete` or `delta`.
    pub kind: &'static str,
    /// Its issuer.
    pub issuer: String,
    /// cRLNumber.
    pub number: Option<String>,
    /// BaseCRLNumber.
    pub base_number: Option<String>,
    /// How many certificates it names.
    pub entries: usize,
    /// Octets of its DER.
    pub bytes: u64,
    /// Octets it occupies in memory.
    pub resident_bytes: usize,
    /// thisUpdate.
    pub this_update: String,
    /// nextUpdate.
    pub next_update: Option<String>,
}

/// A failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorStatus {
    /// When.
    pub at: String,
    /// What.
    pub error: String,
}

impl Status {
    pub(super) fn of(address: &str, point: &Point) -> Self {
        Self {
            address: address.to_owned(),
            authorities: point.wanted.issuers().iter().map(ToString::to_string).collect(),
            policies: point.wanted.authorities.iter().map(PolicyStatus::from).collect(),
            list: point.list.as_ref().map(|list| ListStatus::from(&**list)),
            fetched: point.fetched.map(|at| at.to_string()),
            from_disk: point.from_disk,
            kept: point.kept,
            next_fetch: Some(point.due.to_string()),
            last_error: point
                .last_error
                .as_ref()
                .map(|(at, error)| ErrorStatus { at: at.to_string(), error: error.clone() }),
        }
    }

    /// Of an address that is none to fetch from.
    pub(super) fn unfit(address: &str, wanted: &Wanted, now: Timestamp, why: String) -> Self {
        Self {
            address: address.to_owned(),
            authorities: wanted.issuers().iter().map(ToString::to_string).collect(),
            policies: wanted.authorities.iter().map(PolicyStatus::from).collect(),
            list: None,
            fetched: None,
            from_disk: false,
            kept: false,
            next_fetch: None,
            last_error: Some(ErrorStatus { at: now.to_string(), error: why }),
        }
    }
}

impl From<&Namer> for PolicyStatus {
    fn from(authority: &Namer) -> Self {
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
        }
    }
}

/// Where statuses are put up for others to read.
#[derive(Debug, Clone, Default)]
pub(super) struct Board(Arc<Mutex<BTreeMap<Arc<str>, Status>>>);

impl Board {
    pub(super) fn read(&self) -> Vec<Status> {
        // A panic elsewhere leaves the statuses readable.
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.values().cloned().collect()
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
    kept: Family<Address, Gauge>,
    looks: Family<Look, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Address {
    address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Look {
    address: String,
    result: Outcome,
}

/// How a look at an address ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Outcome {
    New,
    Unchanged,
    /// Nothing could be fetched.
    Unreachable,
    /// What was fetched is not used.
    Refused,
}

impl Metrics {
    /// Puts the metrics up.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("crl");
        registry.register_with_unit(
            "this_update_time",
            "When the list in force was issued, since 1970; now minus this is its age",
            Unit::Seconds,
            self.this_update.clone(),
        );
        registry.register_with_unit(
            "next_update_time",
            "When the list in force goes stale, since 1970",
            Unit::Seconds,
            self.next_update.clone(),
        );
        registry.register(
            "entries",
            "Certificates that the list in force names",
            self.entries.clone(),
        );
        registry.register_with_unit(
            "resident",
            "Octets that the list in force occupies",
            Unit::Bytes,
            self.bytes.clone(),
        );
        registry.register(
            "kept",
            "1 while a copy of the list in force is on disk, else 0",
            self.kept.clone(),
        );
        registry.register("looks", "Looks at an address, by result", self.looks.clone());
    }

    pub(super) fn looked(&self, address: &str, result: Outcome) {
        self.looks.get_or_create(&Look { address: address.to_owned(), result }).inc();
    }

    pub(super) fn in_force(&self, address: &str, point: &Point) {
        let Some(list) = &point.list else { return };
        let label = Address { address: address.to_owned() };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let time = |at: Timestamp| at.0;
        self.this_update.get_or_create(&label).set(time(list.this_update));
        self.next_update.get_or_create(&label).set(list.next_update.map_or(0, time));
        self.entries.get_or_create(&label).set(count(list.entries()));
        self.bytes.get_or_create(&label).set(count(list.resident_bytes()));
        self.kept.get_or_create(&label).set(i64::from(point.kept));
    }

    pub(super) fn gone(&self, address: &str) {
        let label = Address { address: address.to_owned() };
        self.this_update.remove(&label);
        self.next_update.remove(&label);
        self.entries.remove(&label);
        self.bytes.remove(&label);
        self.kept.remove(&label);
    }
}
