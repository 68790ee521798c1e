//! The addresses to fetch from, and the lists that are expected there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::trust::configurations::AllConfigurations;
use crate::trust::revocation::addresses_seen::{self, PointAddresses, SeenAddresses};
use crate::trust::revocation::{CrlMode, ListPolicy, ListRules};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::crl::RevocationList;
use crate::x509::name::Name;

/// Separates an address from a hash in the key of a copy.  No address contains it.
pub(super) const SEPARATOR: char = '\n';
/// Ends the name of the group of addresses that certificates of a trust domain name.  The name of a
/// directory has no slash.
const CERTIFICATES: &str = "/certificates";

/// Returns the trust domain of a group of addresses.
fn trust_domain(group: &str) -> &str {
    group.strip_suffix(CERTIFICATES).unwrap_or(group)
}

/// The lists that authorities expect at an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) complete: bool,
    pub(super) delta: bool,
    /// Other addresses of the same list, for when the first one returns none.
    pub(super) alternatives: Vec<Arc<str>>,
    /// The authorities that name the address.  A directory may name one address for every authority.
    pub(super) authorities: HashSet<Referrer>,
    /// The groups that share permits for fetches: the trust domains of these authorities, with
    /// [`CERTIFICATES`] for addresses in certificates.
    pub(super) groups: Vec<Arc<str>>,
}

/// An authority that names an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Referrer {
    pub(super) name: Name,
    pub(super) key: Fingerprint,
    pub(super) domain: Arc<str>,
    /// Rules for the lists of this authority.
    pub(super) rules: ListRules,
}

impl Expected {
    /// The names of the authorities, each once.
    pub(super) fn issuers(&self) -> Vec<Name> {
        let names: HashSet<&Name> = self.authorities.iter().map(|a| &a.name).collect();
        let mut names: Vec<Name> = names.into_iter().cloned().collect();
        names.sort_by_cached_key(ToString::to_string);
        names
    }

    /// True if an authority of this name names the address.
    pub(super) fn names(&self, issuer: &Name) -> bool {
        self.authorities.iter().any(|authority| authority.name == *issuer)
    }

    /// True if the authority of this name and key names the address.
    pub(super) fn has_authority(&self, name: &Name, key: Fingerprint) -> bool {
        self.authorities.iter().any(|authority| authority.key == key && authority.name == *name)
    }

    /// The trust domains in which the signer of `list` names the address.
    pub(super) fn domains(&self, list: &RevocationList) -> HashSet<&str> {
        let is_signer = |a: &&Referrer| Some(a.key) == list.signer_key() && a.name == list.issuer;
        self.authorities.iter().filter(is_signer).map(|authority| &*authority.domain).collect()
    }

    /// Other addresses of the list, empty if several trust domains name the address: certificates of one
    /// must not choose where the list of another one comes from.
    pub(super) fn usable_alternatives(&self) -> &[Arc<str>] {
        let mut domains = self.groups.iter().map(|group| trust_domain(group));
        let first = domains.next();
        if domains.all(|domain| Some(domain) == first) { &self.alternatives } else { &[] }
    }

    fn add(&mut self, authority: Referrer, is_delta: bool) {
        self.delta |= is_delta;
        self.complete |= !is_delta;
        self.authorities.insert(authority);
    }
}

/// The addresses to fetch from, and the certificates that may sign the lists.
#[derive(Default)]
pub(super) struct Targets {
    pub(super) addresses: BTreeMap<Arc<str>, Expected>,
    /// All certificates that may sign lists.
    pub(super) signers: Vec<Arc<Certificate>>,
    /// The signers that a directory names.
    pub(super) authorities: BTreeSet<Fingerprint>,
    /// Entries of the settings that match no authority.
    pub(super) unmatched: Vec<String>,
}

impl Targets {
    /// Collects the addresses that the configurations and the seen certificates name.
    pub(super) fn of(
        configurations: &AllConfigurations,
        policy: &ListPolicy,
        seen: &[SeenAddresses],
    ) -> Self {
        let policy = policy.resolve(configurations.authorities_by_domain());
        let mut targets = Self::default();
        let mut signers: BTreeMap<Fingerprint, Arc<Certificate>> = BTreeMap::new();
        let referrer = |certificate: &Certificate, domain: &Arc<str>, rules: &ListRules| {
            let (name, domain) = (certificate.subject.clone(), Arc::clone(domain));
            let referrer = Referrer { name, key: certificate.key, domain, rules: rules.clone() };
            (rules.mode != Some(CrlMode::Off)).then_some(referrer)
        };
        for (domain, authority) in configurations.authorities_by_domain() {
            let certificate = &authority.certificate;
            signers.entry(certificate.fingerprint).or_insert_with(|| Arc::clone(certificate));
            let rules = policy.of(domain, &certificate.subject, certificate.key);
            let Some(referrer) = referrer(certificate, domain, rules) else { continue };
            for (address, is_delta) in
                [(&authority.crl_url, false), (&authority.delta_crl_url, true)]
            {
                if let Some(address) = address {
                    targets.add(address, domain, referrer.clone(), is_delta);
                }
            }
        }
        targets.authorities = signers.keys().copied().collect();
        for addresses_seen in seen {
            let issuer = &addresses_seen.issuer;
            signers.entry(issuer.fingerprint).or_insert_with(|| Arc::clone(issuer));
            let rules = policy.in_any_domain(&issuer.subject, issuer.key);
            let Some(referrer) = referrer(issuer, &addresses_seen.domain, rules) else { continue };
            let group: Arc<str> = format!("{}{CERTIFICATES}", addresses_seen.domain).into();
            for (addresses, is_delta) in
                [(&addresses_seen.complete, false), (&addresses_seen.delta, true)]
            {
                for point in addresses {
                    targets.add_point(point, &group, referrer.clone(), is_delta);
                }
            }
        }
        Self { signers: signers.into_values().collect(), unmatched: policy.unmatched, ..targets }
    }

    /// Adds the list of a distribution point.
    pub(super) fn add_point(
        &mut self,
        point: &PointAddresses,
        group: &Arc<str>,
        referrer: Referrer,
        is_delta: bool,
    ) {
        let alternatives = &mut self.add(&point.first, group, referrer, is_delta).alternatives;
        for other in &point.others {
            if alternatives.len() < addresses_seen::MAX_ALTERNATIVES
                && !alternatives.contains(other)
            {
                alternatives.push(Arc::clone(other));
            }
        }
    }

    fn add(
        &mut self,
        address: &Arc<str>,
        group: &Arc<str>,
        referrer: Referrer,
        is_delta: bool,
    ) -> &mut Expected {
        // The parser of URLs ignores line breaks, and keys of copies are made with one.
        let address = match address.contains(SEPARATOR) {
            true => address.replace(SEPARATOR, "").into(),
            false => Arc::clone(address),
        };
        let expected = self.addresses.entry(address).or_default();
        expected.add(referrer, is_delta);
        if !expected.groups.contains(group) {
            expected.groups.push(Arc::clone(group));
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::configurations::{Authority, Configuration, Configurations, Device, Devices};
    use crate::trust::subject::SubjectField;
    use crate::x509::test_certificates::{Key, Spec, cn};
    use crate::x509::time::Timestamp;

    /// A directory may name one address for every authority that fits into its response.
    #[test]
    fn collects_an_address_of_many_authorities_in_linear_time() {
        const AUTHORITIES: usize = 100_000;
        let der = Spec::authority(cn("A"), cn("A")).sign(Key::number(1), Key::number(1));
        let certificate = Certificate::from_der(&der).expect("a certificate");
        let authority = |n: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_be_bytes());
            let mut certificate = certificate.clone();
            certificate.key = Fingerprint(key);
            Authority {
                certificate: Arc::new(certificate),
                is_root: true,
                crl_url: Some("http://ca.example/list".into()),
                delta_crl_url: None,
            }
        };
        let configuration = Configuration {
            id: "fleet".into(),
            domain: "hub".into(),
            display_name: String::new(),
            kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
            authorities: (0..AUTHORITIES).chain(0..10).map(authority).collect(),
        };
        let configurations = Arc::new(Configurations::from_iter([configuration])).into();
        let targets = Targets::of(&configurations, &ListPolicy::default(), &[]);
        let expected = &targets.addresses["http://ca.example/list"];
        assert_eq!(expected.authorities.len(), AUTHORITIES);
        assert_eq!(expected.issuers().len(), 1);
        assert_eq!(expected.groups, ["hub".into()]);
    }

    /// Devices of one trust domain name any address, also that of another domain's list.
    #[test]
    fn certificates_of_another_domain_add_no_alternatives_and_use_permits_of_their_own() {
        let der = Spec::authority(cn("A"), cn("A")).sign(Key::number(1), Key::number(1));
        let certificate = Arc::new(Certificate::from_der(&der).expect("a certificate"));
        let seen = |domain: &str| SeenAddresses {
            issuer: Arc::clone(&certificate),
            anchor: certificate.fingerprint,
            domain: domain.into(),
            points: Box::default(),
            freshest: None,
            complete: vec![PointAddresses {
                first: "http://a.example/list".into(),
                others: vec!["http://b.example/list".into()],
            }],
            delta: Vec::new(),
            seen: Timestamp(0),
        };
        let configuration = Configuration {
            id: "fleet".into(),
            domain: "a".into(),
            display_name: String::new(),
            kind: Device { subject_field: SubjectField::SubjectDn, devices: Devices::Any },
            authorities: vec![Authority {
                certificate: Arc::clone(&certificate),
                is_root: true,
                crl_url: Some("http://a.example/list".into()),
                delta_crl_url: None,
            }],
        };
        let configurations = Arc::new(Configurations::from_iter([configuration])).into();
        for (domain, alternatives) in [("a", 1), ("b", 0)] {
            let seen = [seen(domain)];
            let targets = Targets::of(&configurations, &ListPolicy::default(), &seen);
            let expected = &targets.addresses["http://a.example/list"];
            assert_eq!(expected.usable_alternatives().len(), alternatives, "{domain}");
            assert_eq!(expected.groups, ["a".into(), format!("{domain}/certificates").into()]);
        }
    }
}
