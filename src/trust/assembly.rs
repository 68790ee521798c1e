//! The newest state of every source, from which the one writer builds snapshots.
//!
//! An update is validated before it arrives here, so building a snapshot cannot fail.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::trust::configurations::{
    Application, Authority, Configuration, Configurations, Device, Kind, Skipped,
};
use crate::trust::devices::{Registries, Registry};
use crate::trust::revocation::{ListPolicy, Revocations, Unusable};
use crate::trust::snapshot::Snapshot;
use crate::x509::crl::RevocationList;
use crate::x509::name::Name;

/// New state of one source.
#[derive(Debug, Clone)]
pub enum Update {
    /// All device configurations of a directory.
    Configurations {
        /// The directory.
        source: Arc<str>,
        /// Its current state.
        set: Configurations<Device>,
    },
    /// All application configurations of a directory.
    Applications {
        /// The directory.
        source: Arc<str>,
        /// Its current state.
        set: Configurations<Application>,
    },
    /// The devices of a directory.
    Devices {
        /// The directory.
        source: Arc<str>,
        /// Its current state.
        registry: Registry,
    },
    /// The lists at one address.
    Lists {
        /// The address, as the authorities name it.
        address: Arc<str>,
        /// The current state of each of its lists; empty if it has none, or no authority names it.
        lists: Vec<ListState>,
    },
}

/// State of one list.
#[derive(Debug, Clone)]
pub enum ListState {
    /// The list that decides until another replaces it.
    InForce(Arc<RevocationList>),
    /// The newest list had expired when it arrived.  Its entries count, and an earlier list decides
    /// until its own nextUpdate.
    Expired {
        /// The list that was fetched last.
        newest: Arc<RevocationList>,
        /// The list that is fresh.
        earlier: Arc<RevocationList>,
    },
    /// A list was fetched, and no list of the address was ever usable.
    Unusable {
        /// Names of the authorities that use the address.
        issuers: Vec<Name>,
        /// Reason, with the address and the rule.
        why: String,
    },
}

impl ListState {
    /// The list that was fetched last, if it is usable.
    pub(crate) fn newest(&self) -> Option<&Arc<RevocationList>> {
        match self {
            Self::InForce(list) | Self::Expired { newest: list, .. } => Some(list),
            Self::Unusable { .. } => None,
        }
    }
}

/// The newest state of every source.
#[derive(Debug, Default)]
pub struct Assembly {
    policy: ListPolicy,
    /// Trust domains in the operator's order.  Others follow, ordered by name.
    domains: Vec<Arc<str>>,
    device_configurations: BTreeMap<Arc<str>, Configurations<Device>>,
    applications: BTreeMap<Arc<str>, Configurations<Application>>,
    devices: Arc<Registries>,
    lists: BTreeMap<Arc<str>, Vec<ListState>>,
    /// Device configurations changed since the last snapshot.
    configurations_changed: bool,
    /// Application configurations changed since the last snapshot.
    applications_changed: bool,
}

impl Assembly {
    /// Makes an assembly without any state.
    pub fn new(policy: ListPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Sets the order of the trust domains: if two of them accept a device, the first one decides.
    #[must_use]
    pub fn with_domain_order(self, domains: Vec<Arc<str>>) -> Self {
        Self { domains, ..self }
    }

    /// Follows other rules, and drops the state of directories that are not in `domains`, and of
    /// application configurations that are not in `application_domains`.
    pub fn follow(
        &mut self,
        policy: ListPolicy,
        domains: &[Arc<str>],
        application_domains: &[Arc<str>],
    ) {
        self.policy = policy;
        self.configurations_changed |= self.domains != domains;
        self.applications_changed |= self.domains != domains;
        self.domains = domains.to_vec();
        let before = (self.device_configurations.len(), self.applications.len());
        self.device_configurations.retain(|source, _| domains.contains(source));
        self.applications.retain(|source, _| application_domains.contains(source));
        self.configurations_changed |= self.device_configurations.len() != before.0;
        self.applications_changed |= self.applications.len() != before.1;
        Arc::make_mut(&mut self.devices).retain(|source| domains.contains(source));
    }

    /// Stores an update.  Returns false if it changes nothing.
    pub fn apply(&mut self, update: Update) -> bool {
        match update {
            Update::Configurations { source, set } => {
                let changed = replace(&mut self.device_configurations, source, set);
                self.configurations_changed |= changed;
                changed
            }
            Update::Applications { source, set } => {
                let changed = replace(&mut self.applications, source, set);
                self.applications_changed |= changed;
                changed
            }
            Update::Devices { source, registry } => {
                Arc::make_mut(&mut self.devices).set(source, registry)
            }
            Update::Lists { address, lists } if lists.is_empty() => {
                self.lists.remove(&address).is_some()
            }
            Update::Lists { address, lists } => {
                let changed = self.lists.get(&address).is_none_or(|old| {
                    old.len() != lists.len()
                        || !old.iter().zip(&lists).all(|(a, b)| same_state(a, b))
                });
                self.lists.insert(address, lists);
                changed
            }
        }
    }

    /// True once a directory has returned its configurations of devices, possibly an empty list.
    pub(crate) fn has_device_configurations(&self) -> bool {
        !self.device_configurations.is_empty()
    }

    /// Builds the snapshot that follows `previous`, the one in force.  The caller publishes it.
    pub fn build(&mut self, previous: &Snapshot) -> Snapshot {
        let devices = std::mem::take(&mut self.configurations_changed)
            .then(|| merged(&self.domains, &self.device_configurations));
        let applications = std::mem::take(&mut self.applications_changed)
            .then(|| merged(&self.domains, &self.applications));
        let of_devices = devices.as_ref().unwrap_or(&previous.device_configurations);
        let of_applications = applications.as_ref().unwrap_or(&previous.applications);
        let authorities =
            of_devices.authorities_by_domain().chain(of_applications.authorities_by_domain());
        let states = || self.lists.values().flatten();
        let lists = states().filter_map(ListState::newest).cloned();
        let earlier = states().filter_map(|state| match state {
            ListState::Expired { newest, earlier } => {
                Some((Arc::clone(newest), Arc::clone(earlier)))
            }
            _ => None,
        });
        let unusable = states().filter_map(|state| match state {
            ListState::Unusable { issuers, why } => {
                Some(Unusable { issuers: issuers.clone(), why: why.clone() })
            }
            _ => None,
        });
        let revocations = Revocations::new(lists)
            .with_earlier(earlier)
            .with_unusable(unusable.collect())
            .with_policy(self.policy.resolve(authorities));
        let next = previous.next(devices, Arc::new(revocations));
        let next = next.with_devices(Arc::clone(&self.devices));
        match applications {
            Some(applications) => next.with_applications(applications),
            None => next,
        }
    }
}

/// Stores the newest set from `source`.  Returns false if it equals the current one.
fn replace<K: Kind>(
    sets: &mut BTreeMap<Arc<str>, Configurations<K>>,
    source: Arc<str>,
    set: Configurations<K>,
) -> bool {
    let changed = sets.get(&source).is_none_or(|old| !same_lists(old, &set));
    // Stored even if equal: the reasons for skipped parts may differ.
    sets.insert(source, set);
    changed
}

/// Merges the configurations of all sources in the order of `domains`.  If two sources use one id, the
/// first source keeps it, so that an id never means two configurations.
fn merged<K: Kind>(
    domains: &[Arc<str>],
    sets: &BTreeMap<Arc<str>, Configurations<K>>,
) -> Configurations<K> {
    let mut sets: Vec<_> = sets.iter().collect();
    // Stable: sources without a place keep the order of their names.
    sets.sort_by_key(|(source, _)| {
        domains.iter().position(|domain| domain == *source).unwrap_or(domains.len())
    });
    let mut out = Configurations::default();
    let mut seen = HashMap::new();
    for (source, set) in sets {
        out.skipped.extend(set.skipped.iter().cloned());
        for configuration in &set.configurations {
            let first = seen.entry(&configuration.id).or_insert(source);
            if *first == source {
                out.configurations.push(in_domain(configuration, source));
            } else {
                out.skipped.push(Skipped {
                    configuration: configuration.id.clone(),
                    why: format!(
                        "`{source}` and `{first}` both send it; `{first}` takes precedence"
                    ),
                });
            }
        }
    }
    out
}

/// Returns `configuration` with the trust domain `domain`: the same pointer if it has it already.
fn in_domain<K: Kind>(
    configuration: &Arc<Configuration<K>>,
    domain: &Arc<str>,
) -> Arc<Configuration<K>> {
    if configuration.domain == *domain {
        return Arc::clone(configuration);
    }
    let domain = Arc::clone(domain);
    Arc::new(Configuration { domain, ..Configuration::clone(configuration) })
}

fn same_state(a: &ListState, b: &ListState) -> bool {
    match (a, b) {
        (ListState::InForce(a), ListState::InForce(b)) => Arc::ptr_eq(a, b),
        (
            ListState::Expired { newest: a, earlier: x },
            ListState::Expired { newest: b, earlier: y },
        ) => Arc::ptr_eq(a, b) && Arc::ptr_eq(x, y),
        (
            ListState::Unusable { issuers: a, why: x },
            ListState::Unusable { issuers: b, why: y },
        ) => a == b && x == y,
        _ => false,
    }
}

/// Returns true if nothing differs that decisions depend on or operators see.
fn same_lists<K: Kind>(a: &Configurations<K>, b: &Configurations<K>) -> bool {
    a.configurations.len() == b.configurations.len()
        && a.configurations.iter().zip(&b.configurations).all(|(a, b)| same_configuration(a, b))
}

fn same_configuration<K: Kind>(a: &Configuration<K>, b: &Configuration<K>) -> bool {
    a.id == b.id
        && a.display_name == b.display_name
        && a.kind == b.kind
        && a.authorities.len() == b.authorities.len()
        && a.authorities.iter().zip(&b.authorities).all(|(a, b)| same_authority(a, b))
}

fn same_authority(a: &Authority, b: &Authority) -> bool {
    a.certificate.fingerprint == b.certificate.fingerprint
        && a.is_root == b.is_root
        && a.crl_url == b.crl_url
        && a.delta_crl_url == b.delta_crl_url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::configurations::{ConfigurationId, Devices};
    use crate::trust::revocation::{AuthorityPolicy, CrlMode, Selector};
    use crate::trust::subject::SubjectField;
    use crate::x509::certificate::Certificate;
    use crate::x509::test_certificates::{Key, Spec, cn};

    fn of_kind<K: Kind>(kind: &K, ids: &[&str]) -> Configurations<K> {
        let configuration = |id: &&str| Configuration {
            id: ConfigurationId::from(*id),
            domain: Arc::default(),
            display_name: "name".to_owned(),
            kind: kind.clone(),
            authorities: Vec::new(),
        };
        ids.iter().map(configuration).collect()
    }

    fn configurations(ids: &[&str]) -> Configurations<Device> {
        of_kind(&Device { subject_field: SubjectField::SanDns, devices: Devices::Any }, ids)
    }

    fn from(source: &str, ids: &[&str]) -> Update {
        Update::Configurations { source: source.into(), set: configurations(ids) }
    }

    fn unusable(why: &str) -> Update {
        let state = ListState::Unusable { issuers: Vec::new(), why: why.to_owned() };
        Update::Lists { address: "http://ca.example/1.crl".into(), lists: vec![state] }
    }

    #[test]
    fn an_equal_update_is_not_a_change() {
        let mut assembly = Assembly::default();
        assert!(!assembly.has_device_configurations());
        assert!(assembly.apply(from("a", &[])), "an empty list counts as loaded");
        assert!(assembly.has_device_configurations());
        assert!(assembly.apply(from("a", &["1"])));
        assert!(!assembly.apply(from("a", &["1"])), "the same again");
        assert!(assembly.apply(unusable("truncated")));
        assert!(!assembly.apply(unusable("truncated")));
        assert!(assembly.apply(unusable("forged")));
    }

    #[test]
    fn reuses_unchanged_configurations() {
        let mut assembly = Assembly::default();
        assembly.apply(from("a", &["1"]));
        let first = assembly.build(&Snapshot::default());
        assembly.apply(unusable("truncated"));
        let second = assembly.build(&first);
        assert!(Arc::ptr_eq(&first.device_configurations, &second.device_configurations));
        assembly.apply(from("a", &[]));
        assert!(assembly.build(&second).device_configurations.configurations.is_empty());
    }

    #[test]
    fn shares_a_configuration_that_has_its_domain() {
        let mut set = configurations(&["1", "2"]);
        Arc::make_mut(&mut set.configurations[0]).domain = "a".into();
        Arc::make_mut(&mut set.configurations[1]).domain = "b".into();
        let mut assembly = Assembly::default();
        assembly.apply(Update::Configurations { source: "a".into(), set: set.clone() });
        let in_force = assembly.build(&Snapshot::default()).device_configurations;
        let (sent, built) = (&set.configurations, &in_force.configurations);
        assert!(Arc::ptr_eq(&sent[0], &built[0]));
        assert!(!Arc::ptr_eq(&sent[1], &built[1]));
        assert!(built.iter().all(|c| &*c.domain == "a"), "a source cannot name another domain");
    }

    #[test]
    fn removes_an_address_completely() {
        let mut assembly = Assembly::default();
        let gone =
            || Update::Lists { address: "http://ca.example/1.crl".into(), lists: Vec::new() };
        assert!(!assembly.apply(gone()));
        assert!(assembly.apply(unusable("truncated")));
        assert!(assembly.apply(gone()));
        assert!(assembly.lists.is_empty());
    }

    /// One id in both collections means two configurations, and neither list affects the other.
    #[test]
    fn applications_are_kept_apart_from_devices() {
        let mut assembly = Assembly::default();
        let set = of_kind(&Application, &["1"]);
        let applications = || Update::Applications { source: "a".into(), set: set.clone() };
        assert!(assembly.apply(from("a", &["1"])));
        assert!(assembly.apply(applications()));
        assert!(!assembly.apply(applications()), "the same again");
        let both = assembly.build(&Snapshot::default());
        let counts = |s: &Snapshot| {
            (s.device_configurations.configurations.len(), s.applications.configurations.len())
        };
        assert_eq!(counts(&both), (1, 1));
        assert!(
            both.applications.skipped.is_empty() && both.device_configurations.skipped.is_empty()
        );
        assembly.apply(from("a", &[]));
        let one = assembly.build(&both);
        assert!(Arc::ptr_eq(&one.applications, &both.applications));
        assert!(one.device_configurations.configurations.is_empty());
    }

    /// A setting that names an authority of applications applies as soon as their configurations
    /// arrive.
    #[test]
    fn applies_settings_to_an_authority_of_applications() {
        let der = Spec::authority(cn("A"), cn("A")).sign(Key::number(1), Key::number(1));
        let certificate = Arc::new(Certificate::from_der(&der).expect("a certificate"));
        let authority = Authority {
            certificate: Arc::clone(&certificate),
            is_root: true,
            crl_url: None,
            delta_crl_url: None,
        };
        let subject = Some(certificate.subject.clone());
        let entry = AuthorityPolicy {
            selector: Selector { subject, ..Selector::default() },
            mode: Some(CrlMode::Require),
            ..AuthorityPolicy::default()
        };
        let policy = ListPolicy { authorities: vec![entry], ..ListPolicy::default() };
        let mut assembly = Assembly::new(policy);
        assembly.apply(from("a", &["1"]));
        let before = assembly.build(&Snapshot::default());
        assert_eq!(before.revocations.policy().unmatched.len(), 1);
        let mut set = of_kind(&Application, &["1"]);
        Arc::make_mut(&mut set.configurations[0]).authorities.push(authority);
        assembly.apply(Update::Applications { source: "a".into(), set });
        let after = assembly.build(&before);
        assert_eq!(after.revocations.policy().unmatched, [] as [String; 0]);
        let mode = |domain| after.crl_mode(domain, &certificate.subject, certificate.key, false);
        assert_eq!(mode("a"), CrlMode::Require);
        assert_eq!(mode("b"), CrlMode::IfAvailable, "another domain");
        // The CRL source sees it too.
        let all = after.every_configuration();
        assert!(all.authorities_by_domain().any(|(_, a)| a.certificate.key == certificate.key));
    }

    #[test]
    fn merges_sources_and_keeps_ids_unique() {
        let mut assembly = Assembly::default();
        assembly.apply(from("b", &["2", "1"]));
        assembly.apply(from("a", &["1"]));
        let snapshot = assembly.build(&Snapshot::default());
        assert_eq!(snapshot.generation, 1);
        let ids: Vec<_> =
            snapshot.device_configurations.configurations.iter().map(|c| c.id.as_str()).collect();
        assert_eq!(ids, ["1", "2"]);
        assert_eq!(snapshot.device_configurations.skipped.len(), 1);
        assert!(snapshot.device_configurations.skipped[0].why.contains("`b`"));
    }
}
