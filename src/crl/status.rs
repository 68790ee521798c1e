//! Status of each address and list.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::crl::address_state::{AddressState, HeldList};
use crate::crl::targets::{Expected, Referrer};
use crate::x509::crl::{Kind, RevocationList};
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

/// Status of one address, or of one of its lists if it has several.  Times are RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// URL of the list, as the authorities name it.
    pub address: String,
    /// The authorities that name the address: the issuer of the list, or those without one.
    pub authorities: Vec<String>,
    /// Rules for the lists of each of them.
    pub policies: Vec<PolicyStatus>,
    /// The list in force.  If authorities without a list name the address, it may be an indirect one of
    /// another issuer.
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
    /// Status of each list of an address, and of the authorities that have no list there.
    pub(super) fn of(address: &str, state: &AddressState) -> Vec<Self> {
        let expected = &state.expected;
        let mut statuses = Vec::new();
        let mut others = None;
        for held in &state.lists {
            let issuer = &held.list.issuer;
            if expected.names(issuer) {
                statuses.push(Self::of_list(address, state, Some(held), |name| name == issuer));
            } else {
                others = Some(held);
            }
        }
        let is_without = |name: &Name| !state.has_list_of(name);
        if statuses.is_empty() || expected.authorities.iter().any(|a| is_without(&a.name)) {
            statuses.push(Self::of_list(address, state, others, is_without));
        }
        statuses
    }

    fn of_list(
        address: &str,
        state: &AddressState,
        held: Option<&HeldList>,
        is_shown: impl Fn(&Name) -> bool,
    ) -> Self {
        let mut authorities = state.expected.issuers();
        authorities.retain(&is_shown);
        let policies = policies(&state.expected, is_shown);
        Self {
            address: address.to_owned(),
            authorities: authorities.iter().map(ToString::to_string).collect(),
            policies,
            list: held.map(|held| ListStatus::from(&*held.list)),
            unused: held.and_then(|held| held.unused.clone()),
            fetched: state.fetched.map(|at| at.to_string()),
            from_disk: state.from_disk,
            kept: held.is_some_and(|held| held.copy.is_some()),
            next_fetch: Some(state.next_fetch.to_string()),
            last_error: state
                .last_error
                .as_ref()
                .map(|(at, error)| ErrorStatus { at: at.to_string(), error: error.clone() }),
        }
    }

    /// Status of an address that cannot be fetched from.
    pub(super) fn unusable(
        address: &str,
        expected: &Expected,
        now: Timestamp,
        why: String,
    ) -> Self {
        Self {
            address: address.to_owned(),
            authorities: expected.issuers().iter().map(ToString::to_string).collect(),
            policies: policies(expected, |_| true),
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

/// The rules of authorities that name an address, sorted by name.  Several trust domains may have the same
/// rules for an authority.
fn policies(expected: &Expected, is_shown: impl Fn(&Name) -> bool) -> Vec<PolicyStatus> {
    let shown = expected.authorities.iter().filter(|authority| is_shown(&authority.name));
    let mut policies: Vec<_> = shown.map(PolicyStatus::from).collect();
    policies.sort_by(|a, b| (&a.authority, &a.key).cmp(&(&b.authority, &b.key)));
    policies.dedup();
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
pub(super) struct Statuses(Arc<Mutex<BTreeMap<Arc<str>, Vec<Status>>>>);

impl Statuses {
    pub(super) fn read(&self) -> Vec<Status> {
        // Each statement leaves the map consistent, so a poisoned lock is usable.
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.values().flatten().cloned().collect()
    }

    /// Calls `visit` with the statuses of each address, without copying them.
    pub(super) fn visit(&self, visit: impl FnMut(&[Status])) {
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.values().map(Vec::as_slice).for_each(visit);
    }

    pub(super) fn count_expired(&self, now: Timestamp) -> usize {
        // Times of this form have the order of their texts.
        let now = now.to_string();
        let is_expired = |status: &&Status| {
            let next_update = status.list.as_ref().and_then(|list| list.next_update.as_ref());
            next_update.is_some_and(|at| *at < now)
        };
        let statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.values().flatten().filter(is_expired).count()
    }

    pub(super) fn put(&self, address: &Arc<str>, of_address: Vec<Status>) {
        let mut statuses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.insert(Arc::clone(address), of_address);
    }

    pub(super) fn remove(&self, address: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }
}
