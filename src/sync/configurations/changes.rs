//! Differences between two lists of configurations, and the rule for changes that need approval.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::sync::configurations::ambiguity::NewlyAmbiguous;
use crate::trust::configurations::{
    Authority, Configuration, ConfigurationId, Configurations, Kind,
};
use crate::x509::certificate::Fingerprint;
use crate::x509::name::Name;

/// The differences between two lists, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// One line for each authority that makes configurations ambiguous, then one for each difference, in
    /// the order of the configurations' ids.
    pub lines: Vec<String>,
    /// Anchors that only the new list has.
    pub anchors_added: usize,
    /// Anchors that only the old list has.
    pub anchors_removed: usize,
    /// Anchors of the old list.
    pub anchors_before: usize,
    /// Authorities whose CRL or delta CRL address only the old list has, although certificates of theirs
    /// could still be accepted: revocation checking would be lost for them.
    pub revocation_lost: usize,
    /// Device configurations that share an authority only in the new list.
    pub newly_ambiguous: usize,
}

impl Changes {
    /// Compares `old` with `new`.
    pub fn between<K: Kind>(old: &Configurations<K>, new: &Configurations<K>) -> Self {
        let (before, after) = (anchors(old), anchors(new));
        let NewlyAmbiguous { configurations: newly_ambiguous, lines: mut all_lines } =
            NewlyAmbiguous::between(old, new);
        all_lines.extend(lines(old, new));
        Self {
            lines: all_lines,
            newly_ambiguous,
            anchors_added: after.difference(&before).count(),
            anchors_removed: before.difference(&after).count(),
            anchors_before: before.len(),
            revocation_lost: revocation_lost(old, new),
        }
    }

    /// True if the judge does not distinguish the two lists.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// True if every anchor is removed, or a larger part of them than `max_removal`, or if an authority
    /// loses the address of its list.  Such a response is far likelier a fault of the directory, or of an
    /// administrator, than intended.
    pub fn is_suspicious(&self, max_removal: f64) -> bool {
        let (removed, before) = (self.anchors_removed, self.anchors_before);
        // Counts of anchors are far below 2^52.
        let too_many =
            removed > 0 && (removed == before || removed as f64 > max_removal * before as f64);
        too_many || self.revocation_lost > 0
    }

    /// True if these changes, which lead to `new`, are suspicious alone or together with earlier ones.
    /// `earlier` are lists that were in force before.
    ///
    /// Each part is one of the larger list: the list in force, if it has grown since the earlier one.
    pub(crate) fn is_suspicious_since<'a, K: Kind>(
        &self,
        earlier: impl IntoIterator<Item = &'a Configurations<K>>,
        new: &Configurations<K>,
        max_removal: f64,
    ) -> bool {
        self.is_suspicious(max_removal)
            || earlier.into_iter().any(|earlier| {
                let total = Self::between(earlier, new);
                let anchors_before = total.anchors_before.max(self.anchors_before);
                Self { anchors_before, ..total }.is_suspicious(max_removal)
            })
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anchors_added: added, anchors_removed: removed, anchors_before: before, .. } =
            self;
        write!(f, "{added} anchors added, {removed} of {before} removed")?;
        match self.revocation_lost {
            0 => {}
            lost => write!(f, "; revocation checking would be lost for {lost} authorities")?,
        }
        match self.newly_ambiguous {
            0 => Ok(()),
            n => write!(f, "; devices of {n} configurations would be ambiguous"),
        }
    }
}

/// Counts the authorities that have an address of a list in `old` and none in `new`, in the same
/// configuration or in any, although certificates that they issued could still be accepted.
///
/// An authority is its name and key, as for the judge: another certificate of both is the same one.
/// Devices can present the certificate of an intermediate themselves, so that a removed one stays in use
/// for as long as its configuration has its issuer; a root that is removed ends no path any more.
fn revocation_lost<K>(old: &Configurations<K>, new: &Configurations<K>) -> usize {
    type Key<'a> = (Option<&'a ConfigurationId>, &'a Name, Fingerprint, bool);
    /// Authorities with an address (`true`) or without, in their configuration and in any.
    fn keys<K>(set: &Configurations<K>) -> HashMap<Key<'_>, bool> {
        let mut all = HashMap::new();
        for configuration in &set.configurations {
            for authority in &configuration.authorities {
                let (name, key) = (&authority.certificate.subject, authority.certificate.key);
                let urls = [(&authority.crl_url, false), (&authority.delta_crl_url, true)];
                for (url, is_delta) in urls {
                    for place in [Some(&configuration.id), None] {
                        *all.entry((place, name, key, is_delta)).or_default() |= url.is_some();
                    }
                }
            }
        }
        all
    }
    let is_in = |id: &ConfigurationId, issuer: &Name| {
        let mut same = new.configurations.iter().filter(|c| c.id == *id);
        same.any(|c| c.authorities.iter().any(|a| a.certificate.subject == *issuer))
    };
    let mut removed_but_usable = HashSet::new();
    for configuration in &old.configurations {
        for authority in configuration.authorities.iter().filter(|a| !a.is_root) {
            let certificate = &authority.certificate;
            if is_in(&configuration.id, &certificate.issuer) {
                removed_but_usable.insert((
                    &configuration.id,
                    &certificate.subject,
                    certificate.key,
                ));
            }
        }
    }
    let (before, after) = (keys(old), keys(new));
    let lost = before.iter().filter(|(key, has_address)| {
        let (place, name, public_key, is_delta) = **key;
        **has_address
            && match (after.get(*key), place) {
                (Some(has_address), _) => !has_address,
                (None, Some(id)) => {
                    // A list that another configuration names counts here as well.
                    let elsewhere = after.get(&(None, name, public_key, is_delta)).copied();
                    elsewhere != Some(true) && removed_but_usable.contains(&(id, name, public_key))
                }
                // Counted where the authority was.
                (None, None) => false,
            }
    });
    lost.map(|((_, name, key, _), _)| (name, key)).collect::<HashSet<_>>().len()
}

/// The anchors: each root with its configuration.
fn anchors<K>(set: &Configurations<K>) -> BTreeSet<(&ConfigurationId, Fingerprint)> {
    let roots = |c: &Arc<Configuration<K>>| -> Vec<Fingerprint> {
        c.authorities.iter().filter(|a| a.is_root).map(|a| a.certificate.fingerprint).collect()
    };
    set.configurations
        .iter()
        .flat_map(|c| roots(c).into_iter().map(move |fingerprint| (&c.id, fingerprint)))
        .collect()
}

fn lines<K: Kind>(old: &Configurations<K>, new: &Configurations<K>) -> Vec<String> {
    fn by_id<K>(set: &Configurations<K>) -> BTreeMap<&ConfigurationId, &Configuration<K>> {
        set.configurations.iter().map(|c| (&c.id, &**c)).collect()
    }
    let (old, new) = (by_id(old), by_id(new));
    let ids: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    let mut out = Vec::new();
    for id in ids {
        match (old.get(id), new.get(id)) {
            (None, Some(c)) => {
                let (name, field) = (&c.display_name, c.kind.as_str());
                out.push(format!("configuration {id} `{name}` added, {field}"));
                out.extend(c.authorities.iter().map(|a| line(id, a, "added")));
            }
            (Some(c), None) => {
                out.push(format!("configuration {id} `{}` removed", c.display_name));
                out.extend(c.authorities.iter().map(|a| line(id, a, "removed")));
            }
            (Some(old), Some(new)) => compare(old, new, &mut out),
            (None, None) => {}
        }
    }
    out
}

fn compare<K: Kind>(old: &Configuration<K>, new: &Configuration<K>, out: &mut Vec<String>) {
    let id = &new.id;
    if old.display_name != new.display_name {
        let (from, to) = (&old.display_name, &new.display_name);
        out.push(format!("configuration {id} renamed from `{from}` to `{to}`"));
    }
    // Which devices are admitted is a setting of this process, not a change of the directory.
    let (from, to) = (old.kind.as_str(), new.kind.as_str());
    if from != to {
        out.push(format!("configuration {id} changed from {from} to {to}"));
    }
    for authority in &old.authorities {
        match find(&new.authorities, authority) {
            Some(new) => compare_authority(id, authority, new, out),
            None => out.push(line(id, authority, "removed")),
        }
    }
    let added = new.authorities.iter().filter(|a| find(&old.authorities, a).is_none());
    out.extend(added.map(|a| line(id, a, "added")));
}

/// Returns the authority of `list` with the same certificate.
fn find<'a>(list: &'a [Authority], one: &Authority) -> Option<&'a Authority> {
    list.iter().find(|a| a.certificate.fingerprint == one.certificate.fingerprint)
}

fn compare_authority(
    id: &ConfigurationId,
    old: &Authority,
    new: &Authority,
    out: &mut Vec<String>,
) {
    if old.is_root != new.is_root {
        let to = if new.is_root { "changed to a root" } else { "changed to an intermediate" };
        out.push(line(id, old, to));
    }
    if old.crl_url != new.crl_url {
        out.push(line(id, old, &address(new.crl_url.as_deref(), "CRL")));
    }
    if old.delta_crl_url != new.delta_crl_url {
        out.push(line(id, old, &address(new.delta_crl_url.as_deref(), "delta CRL")));
    }
}

fn address(url: Option<&str>, list: &str) -> String {
    match url {
        Some(url) => format!("{list} address set to {url}"),
        None => format!("{list} address removed"),
    }
}

fn line(id: &ConfigurationId, authority: &Authority, change: &str) -> String {
    let kind = if authority.is_root { "root" } else { "intermediate" };
    let (subject, fingerprint) =
        (&authority.certificate.subject, authority.certificate.fingerprint);
    format!("configuration {id}: {kind} `{subject}` sha256 {fingerprint} {change}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trust::configurations::{Device, Devices};
    use crate::trust::subject::SubjectField;
    use crate::x509::certificate::Certificate;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    pub(crate) fn authority(name: &str, is_root: bool) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let der = params(name).self_signed(&key).expect("a certificate");
        let certificate = Arc::new(Certificate::from_der(der.der()).expect("readable"));
        Authority { certificate, is_root, crl_url: None, delta_crl_url: None }
    }

    pub(crate) fn set(configurations: &[(&str, &[Authority])]) -> Configurations<Device> {
        let configuration = |(id, authorities): &(&str, &[Authority])| Configuration {
            id: ConfigurationId::from(*id),
            domain: Arc::default(),
            display_name: format!("the {id}"),
            kind: Device { subject_field: SubjectField::SanDns, devices: Devices::Any },
            authorities: authorities.to_vec(),
        };
        configurations.iter().map(configuration).collect()
    }

    #[test]
    fn describes_every_difference_of_an_authority() {
        let mut old = authority("a", true);
        (old.crl_url, old.delta_crl_url) = (Some("http://x/".into()), Some("http://y/".into()));
        let new = Authority { is_root: false, crl_url: None, delta_crl_url: None, ..old.clone() };
        let changes = Changes::between(&set(&[("1", &[old])]), &set(&[("1", &[new])]));
        let ends =
            ["changed to an intermediate", "delta CRL address removed", "CRL address removed"];
        for end in ends {
            assert!(changes.lines.iter().any(|line| line.ends_with(end)), "{:?}", changes.lines);
        }
        assert_eq!(changes.lines.len(), ends.len());
    }

    #[test]
    fn describes_every_kind_of_change() {
        let (a, b, i) = (authority("a", true), authority("b", true), authority("i", false));
        let old = set(&[("1", &[a.clone(), i.clone()]), ("2", std::slice::from_ref(&b))]);
        let mut new = set(&[("1", &[a.clone(), b.clone()]), ("3", std::slice::from_ref(&a))]);
        let changed = Arc::make_mut(&mut new.configurations[0]);
        changed.authorities[0].crl_url = Some("http://x/".into());
        changed.kind.subject_field = SubjectField::SanUri;
        let changes = Changes::between(&old, &new);
        let (fa, fb, fi) =
            (a.certificate.fingerprint, b.certificate.fingerprint, i.certificate.fingerprint);
        assert_eq!(
            changes.lines,
            [
                "configurations 1, 3 share `CN=a`: devices of it are refused unless their client_id \
                 selects one"
                    .into(),
                "configuration 1 changed from tls_client_auth_san_dns to tls_client_auth_san_uri"
                    .into(),
                format!("configuration 1: root `CN=a` sha256 {fa} CRL address set to http://x/"),
                format!("configuration 1: intermediate `CN=i` sha256 {fi} removed"),
                format!("configuration 1: root `CN=b` sha256 {fb} added"),
                "configuration 2 `the 2` removed".into(),
                format!("configuration 2: root `CN=b` sha256 {fb} removed"),
                "configuration 3 `the 3` added, tls_client_auth_san_dns".into(),
                format!("configuration 3: root `CN=a` sha256 {fa} added"),
            ]
        );
        assert_eq!(
            changes.to_string(),
            "2 anchors added, 1 of 2 removed; devices of 2 configurations would be ambiguous"
        );
        assert!(Changes::between(&new, &new).is_empty());
    }

    #[test]
    fn the_loss_of_a_list_address_is_suspicious() {
        let bare = authority("a", true);
        let with = |crl: bool, delta: bool| Authority {
            crl_url: crl.then(|| "http://pki.example/a.crl".into()),
            delta_crl_url: delta.then(|| "http://pki.example/a-delta.crl".into()),
            ..bare.clone()
        };
        let one = |id: &str, authority: Authority| set(&[(id, &[authority])]);
        let lost = |old: &Configurations<Device>, new: &Configurations<Device>| {
            Changes::between(old, new).revocation_lost
        };
        let (full, none) = (one("1", with(true, true)), one("1", with(false, false)));
        assert_eq!(lost(&full, &none), 1, "counted once for both addresses");
        assert_eq!(lost(&full, &one("1", with(true, false))), 1);
        assert_eq!(lost(&none, &full), 0, "an address is added");
        let moved = one("2", with(false, false));
        assert_eq!(lost(&full, &moved), 1, "lost on the way to another configuration");
        assert_eq!(lost(&full, &one("2", with(true, true))), 0);
        assert_eq!(lost(&full, &Configurations::default()), 0, "a removed authority needs no list");
        let changes = Changes::between(&full, &none);
        assert!(changes.is_suspicious(1.0));
        assert!(
            changes.to_string().ends_with("revocation checking would be lost for 1 authorities")
        );
    }

    #[test]
    fn an_intermediate_that_devices_can_still_present_keeps_its_list() {
        let root =
            rcgen::CertifiedIssuer::self_signed(params("r"), KeyPair::generate().expect("a key"));
        let root = root.expect("a root");
        let key = KeyPair::generate().expect("a key");
        let inter = params("i").signed_by(&key, &root).expect("an intermediate");
        let authority_of = |der: &[u8], is_root: bool, url: Option<&str>| Authority {
            certificate: Arc::new(Certificate::from_der(der).expect("readable")),
            is_root,
            crl_url: url.map(Into::into),
            delta_crl_url: None,
        };
        let listed = authority_of(inter.der(), false, Some("http://pki.example/i.crl"));
        let bare = authority_of(inter.der(), false, None);
        let root = authority_of(root.der(), true, None);
        let lost = |old: &Configurations<Device>, new: &Configurations<Device>| {
            Changes::between(old, new).revocation_lost
        };
        let (only, both) = ([root.clone()], [root.clone(), listed]);
        let old = set(&[("1", &both)]);
        assert_eq!(lost(&old, &set(&[("1", &only)])), 1, "only its list is gone");
        let other = [authority("o", true)];
        assert_eq!(lost(&old, &set(&[("1", &other)])), 0, "its issuer is gone as well");
        assert_eq!(lost(&old, &set(&[("2", &only)])), 0, "no anchor is left");
        let moved = set(&[("1", &only), ("2", &both)]);
        assert_eq!(lost(&old, &moved), 0, "its list counts in every configuration");
        assert_eq!(lost(&old, &set(&[("1", &only), ("2", &[root, bare])])), 1);
    }

    #[test]
    fn another_certificate_of_the_same_name_and_key_is_the_same_authority() {
        let key = KeyPair::generate().expect("a key");
        let certificate = |serial: u64| {
            let mut params = params("r");
            params.serial_number = Some(serial.into());
            let der = params.self_signed(&key).expect("a certificate");
            Arc::new(Certificate::from_der(der.der()).expect("readable"))
        };
        let list = |certificate, crl_url: Option<&str>| {
            let crl_url = crl_url.map(Into::into);
            set(&[("1", &[Authority { certificate, is_root: true, crl_url, delta_crl_url: None }])])
        };
        let (old, url) = (certificate(1), Some("http://pki.example/r.crl"));
        let lost = |url| {
            let old = list(Arc::clone(&old), Some("http://pki.example/r.crl"));
            Changes::between(&old, &list(certificate(2), url)).revocation_lost
        };
        assert_eq!((lost(None), lost(url)), (1, 0));
    }

    #[test]
    fn large_removals_are_suspicious() {
        let four: Vec<Authority> = (0..4).map(|n| authority(&n.to_string(), true)).collect();
        let with = |n: usize| set(&[("1", &four[..n])]);
        let removal = |from: usize, to: usize, most: f64| {
            Changes::between(&with(from), &with(to)).is_suspicious(most)
        };
        assert!(removal(4, 0, 0.5), "all of four");
        assert!(removal(4, 1, 0.5), "three of four");
        assert!(!removal(4, 2, 0.5), "half is not more than half");
        assert!(!removal(4, 3, 0.5));
        assert!(removal(4, 3, 0.0), "no removal is allowed");
        assert!(removal(1, 0, 1.0), "all, even if any part may be removed");
        assert!(!removal(0, 4, 0.0) && !removal(0, 0, 0.0));
        let replaced = set(&[("1", &[authority("new", true)])]);
        assert!(
            Changes::between(&with(1), &replaced).is_suspicious(0.5),
            "replaced by another anchor"
        );
        let moved = set(&[("2", &four)]);
        assert!(
            Changes::between(&with(4), &moved).is_suspicious(0.5),
            "moved to another configuration"
        );
    }

    #[test]
    fn removals_in_small_steps_are_suspicious_together() {
        let all: Vec<Authority> = (0..10).map(|n| authority(&n.to_string(), true)).collect();
        let with = |[from, to]: [usize; 2]| set(&[("1", &all[from..to])]);
        // Lists that were in force, the last one of them still is; then the new one.
        for (lists, new, held) in [
            (&[[0, 10]][..], [0, 6], false),
            (&[[0, 10], [0, 6]][..], [0, 4], true),
            (&[[0, 10], [0, 6]][..], [0, 5], false),
            (&[[0, 1], [0, 10], [0, 6]][..], [0, 4], true), // the list has grown before it shrank
            (&[[0, 1], [0, 2]][..], [1, 2], false), // one of two, although it was the only one
            (&[[0, 1], [0, 4]][..], [1, 4], false),
            (&[[0, 10], [0, 6]][..], [0, 10], false), // what was removed comes back
        ] {
            let mut sets: Vec<_> = lists.iter().copied().map(with).collect();
            let (in_force, new_set) = (sets.pop().expect("one"), with(new));
            let changes = Changes::between(&in_force, &new_set);
            assert_eq!(
                changes.is_suspicious_since(&sets, &new_set, 0.5),
                held,
                "{lists:?} then {new:?}"
            );
        }
    }
}
