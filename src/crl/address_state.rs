//! The state of one address: the lists expected there, the list in force, and the rules for replacing
//! it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::crl::list_key;
use crate::crl::schedule::{self, FetchSummary, Times, Timing};
use crate::crl::transport::{Location, Validators};
use crate::trust::configurations::AllConfigurations;
use crate::trust::revocation::addresses_seen::{self, PointAddresses, SeenAddresses as Seen};
use crate::trust::revocation::{CrlMode, ListPolicy, ListRules};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::crl::{CrlNumber, RevocationList};
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

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

    /// Other addresses of the list, empty if several trust domains name the address: certificates of one
    /// must not choose where the list of another one comes from.
    fn usable_alternatives(&self) -> &[Arc<str>] {
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
    /// By the key of the address ([`list_key`]).
    pub(super) addresses: BTreeMap<Arc<str>, Expected>,
    /// Addresses that directories name, with the keys of their authorities.
    named: HashSet<(Arc<str>, Fingerprint)>,
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
        seen: &[Seen],
    ) -> Self {
        let policy = policy.resolve(configurations.authorities_by_domain());
        let mut targets = Self::default();
        let mut signers: BTreeMap<Fingerprint, Arc<Certificate>> = BTreeMap::new();
        let referrer = |certificate: &Certificate, rules: &ListRules| {
            let name = certificate.subject.clone();
            let referrer = Referrer { name, key: certificate.key, rules: rules.clone() };
            (rules.mode != Some(CrlMode::Off)).then_some(referrer)
        };
        for (domain, authority) in configurations.authorities_by_domain() {
            let certificate = &authority.certificate;
            signers.entry(certificate.fingerprint).or_insert_with(|| Arc::clone(certificate));
            let rules = policy.of(domain, &certificate.subject, certificate.key);
            let Some(referrer) = referrer(certificate, rules) else { continue };
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
            let Some(referrer) = referrer(issuer, rules) else { continue };
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
        let mut key = list_key::of_directory(address);
        if !group.ends_with(CERTIFICATES) {
            self.named.insert((Arc::clone(&key), referrer.key));
        } else if !self.named.contains(&(Arc::clone(&key), referrer.key)) {
            key = list_key::of_issuer(address, &referrer.name, referrer.key);
        }
        let expected = self.addresses.entry(key).or_default();
        expected.add(referrer, is_delta);
        if !expected.groups.contains(group) {
            expected.groups.push(Arc::clone(group));
        }
        expected
    }
}

/// Reasons to reject a list that is readable and correctly signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// A delta at an address of complete lists.
    #[error("the list is a delta, and a complete list is expected at this address")]
    Delta,
    /// The issuer is not one of the authorities that name the address.
    #[error("the issuer `{found}` is not an authority that names this address")]
    Issuer {
        /// Issuer of the list.
        found: String,
    },
    /// The signing key is neither the one of the list in force nor one of these authorities.
    #[error("the list is signed by another key than the list in force")]
    Key,
    /// cRLNumber decreases (RFC 5280 section 5.2.3), as in a replayed list.
    #[error("cRLNumber {found} is below {in_force}, the number of the list in force")]
    NumberWentDown {
        /// Number of the list in force.
        in_force: String,
        /// Number of the new list.
        found: String,
    },
    /// thisUpdate decreases.
    #[error("thisUpdate {found} is before {in_force}, the time of the list in force")]
    Older {
        /// Time of the list in force.
        in_force: Timestamp,
        /// Time of the new list.
        found: Timestamp,
    },
}

/// Decides whether `new` may replace `old` at `now`.  Returns false if both are the same list.
pub(super) fn accept(
    expected: &Expected,
    old: Option<&RevocationList>,
    new: &RevocationList,
    now: Timestamp,
) -> Result<bool, Rejected> {
    if new.is_delta() && !expected.delta {
        return Err(Rejected::Delta);
    }
    // An indirect list carries its own issuer's name.  Each use checks whether that issuer is trusted.
    let indirect = new.scope.as_ref().is_some_and(|scope| scope.indirect);
    if !indirect && !expected.authorities.iter().any(|authority| authority.name == new.issuer) {
        return Err(Rejected::Issuer { found: new.issuer.to_string() });
    }
    let Some(old) = old else { return Ok(true) };
    let has_expected_key = |list: &RevocationList| {
        let key = list.signer_key();
        expected.authorities.iter().any(|authority| Some(authority.key) == key)
    };
    if has_expected_key(old) && !has_expected_key(new) {
        return Err(Rejected::Key);
    }
    let same_series = old.is_same_series(new) && old.is_delta() == new.is_delta();
    if same_series && new.number < old.number {
        let text = |number: Option<CrlNumber>| match number {
            Some(number) => number.to_string(),
            None => "(none)".to_owned(),
        };
        let (in_force, found) = (text(old.number), text(new.number));
        return Err(Rejected::NumberWentDown { in_force, found });
    }
    // This also applies to a list of another scope or key.  Otherwise an attacker on the network path
    // could use such a list as a step to restore any old one.  A list of the future was accepted while the
    // clock ran ahead.  It is set aside; its number still counts.
    if new.this_update < old.this_update && old.this_update <= now {
        return Err(Rejected::Older { in_force: old.this_update, found: new.this_update });
    }
    Ok(!new.is_copy_of(old))
}

/// Returns the list that decides on while `new`, which replaces `old`, is expired already when it
/// arrives: a fresh one of `old` and of `earlier`.  A list that expires later, while it is in force, ends
/// the time of its series: the issuer said until when its newest data is good.
pub(super) fn still_fresh(
    new: &RevocationList,
    old: Option<&Arc<RevocationList>>,
    earlier: Option<&Arc<RevocationList>>,
    now: Timestamp,
) -> Option<Arc<RevocationList>> {
    let is_fresh = |list: &RevocationList| {
        list.this_update <= now && list.next_update.is_some_and(|next| now <= next)
    };
    if new.is_delta() || new.next_update.is_none_or(|next| now <= next) {
        return None;
    }
    let candidates = [old, earlier].into_iter().flatten();
    let mut usable = candidates.filter(|list| {
        let is_earlier = !list.is_delta() && list.this_update <= new.this_update;
        is_earlier && list.is_same_series(new) && is_fresh(list)
    });
    usable.next().cloned()
}

/// An address and its state.
pub(super) struct AddressState {
    /// The address that returned a list last; before that, the address itself.
    pub(super) location: Location,
    pub(super) expected: Expected,
    /// Distinguishes this state from an earlier one of the same address.
    pub(super) id: u64,
    pub(super) list: Option<Arc<RevocationList>>,
    /// Reason why the delta in force amends no complete list.
    pub(super) unused: Option<String>,
    /// List that decides while `list`, which had expired when it arrived, does not.
    pub(super) earlier: Option<Arc<RevocationList>>,
    pub(super) validators: Validators,
    pub(super) fetched: Option<Timestamp>,
    pub(super) from_disk: bool,
    /// A copy of the list in force is on disk.
    pub(super) has_copy: bool,
    /// Time of the last attempt to write a copy.
    copy_attempted: Timestamp,
    pub(super) last_error: Option<(Timestamp, String)>,
    /// The disk was read.
    pub(super) loaded: bool,
    /// A fetch (or load) is running.  There is at most one at a time.
    pub(super) is_fetching: bool,
    /// A refresh was requested while a fetch was running.  The result of that fetch may be too old, so
    /// another one follows it.
    pub(super) fetch_again: bool,
    /// The next fetch bypasses caches, because an operator requested it.
    pub(super) bypass_caches: bool,
    /// The next fetch replaces the list in force even if the new list is older.
    pub(super) accept_rollback: bool,
    pub(super) next_fetch: Timestamp,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// Time at which `next_fetch` was computed.
    scheduled: Timestamp,
    fruitless: u32,
    fetches: u64,
    seed: u64,
}

impl AddressState {
    pub(super) fn new(
        address: &str,
        location: Location,
        expected: Expected,
        seed: u64,
        id: u64,
        now: Timestamp,
    ) -> Self {
        let Fingerprint(digest) = Fingerprint::of(address.as_bytes());
        let own_seed = digest.iter().take(8).fold(0u64, |n, &b| (n << 8) | u64::from(b));
        Self {
            location,
            expected,
            id,
            list: None,
            unused: None,
            earlier: None,
            validators: Validators::default(),
            fetched: None,
            from_disk: false,
            has_copy: false,
            copy_attempted: now,
            last_error: None,
            loaded: false,
            is_fetching: false,
            fetch_again: false,
            bypass_caches: false,
            accept_rollback: false,
            next_fetch: now,
            waiting: Vec::new(),
            scheduled: now,
            fruitless: 0,
            fetches: 0,
            seed: seed ^ own_seed,
        }
    }

    /// Locations to fetch from, in this order: the one that returned a list last, then the others.
    pub(super) fn locations(&self, address: &str, files: bool) -> Vec<Location> {
        let others = self.expected.usable_alternatives().iter().map(|a| &**a);
        let named = std::iter::once(address).chain(others);
        let mut locations: Vec<Location> = Vec::new();
        for location in named.filter_map(|address| Location::parse(address, files).ok()) {
            if !locations.contains(&location) {
                locations.push(location);
            }
        }
        // The address that returned a list last comes first for as long as it is named.
        match locations.iter().position(|location| *location == self.location) {
            Some(place) => locations[..=place].rotate_right(1),
            None if locations.is_empty() => locations.push(self.location.clone()),
            None => {}
        }
        locations
    }

    /// True if the next fetch is due.  After the clock was set back, waiting for `next_fetch` would take
    /// too long, so a time before `scheduled` counts as due.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.next_fetch <= now || now < self.scheduled
    }

    /// True once a fetch from the network has ended.
    pub(super) fn was_fetched(&self) -> bool {
        self.fetches > 0
    }

    /// True once there is a list or an error to report.
    pub(super) fn was_attempted(&self) -> bool {
        self.list.is_some() || self.last_error.is_some()
    }

    /// The version of the list in force, for a conditional request.  `None` if the complete list must be
    /// sent.
    pub(super) fn known_version(&self, force_full: bool) -> Option<Validators> {
        (self.list.is_some() && !force_full).then(|| self.validators.clone())
    }

    /// True if the next fetch must return the list in force again, to write a copy to disk.  A list can
    /// be large and a disk full for a long time, so this is limited to one attempt per
    /// `timing.max_unconditional`.
    pub(super) fn needs_copy(&mut self, now: Timestamp, timing: &Timing) -> bool {
        let is_time =
            self.bypass_caches || now.since(self.copy_attempted) >= timing.max_unconditional;
        let needs_copy = self.list.is_some() && !self.has_copy && is_time;
        if needs_copy {
            self.copy_attempted = now;
        }
        needs_copy
    }

    pub(super) fn succeeded(&mut self, now: Timestamp, max_age: Option<Duration>, timing: &Timing) {
        self.last_error = None;
        self.fetched = Some(now);
        self.from_disk = false;
        let times = self.list.as_deref().map(Times::from);
        let overdue = times.is_some_and(|times| schedule::is_overdue(&times, now));
        self.fruitless = if overdue { self.fruitless.saturating_add(1) } else { 0 };
        self.schedule(now, max_age, None, timing);
    }

    /// Records a failure.  `retry_after` is the pause that the server asked for.
    pub(super) fn failed(
        &mut self,
        now: Timestamp,
        why: String,
        retry_after: Option<Duration>,
        timing: &Timing,
    ) {
        self.last_error = Some((now, why));
        self.fruitless = self.fruitless.saturating_add(1);
        self.schedule(now, None, retry_after, timing);
    }

    fn schedule(
        &mut self,
        now: Timestamp,
        max_age: Option<Duration>,
        retry_after: Option<Duration>,
        timing: &Timing,
    ) {
        self.fetches += 1;
        self.scheduled = now;
        let summary = FetchSummary {
            now,
            times: self.list.as_deref().map(Times::from),
            max_age,
            fruitless: self.fruitless,
            retry_after,
            is_file: matches!(self.location, Location::File(_)),
            is_conditional: !self.validators.is_empty(),
            seed: self.seed.wrapping_add(self.fetches),
        };
        self.next_fetch = schedule::next_fetch(timing, &summary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::configurations::{Authority, Configuration, Configurations, Device, Devices};
    use crate::trust::subject::SubjectField;
    use crate::x509::test_certificates::{Key, Spec, cn};

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
        let seen = |domain: &str| Seen {
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
