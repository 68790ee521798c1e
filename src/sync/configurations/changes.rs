//! What one list of configurations changes against another, and whether that much may be changed
//! without a person's word.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use crate::trust::configurations::{AnchorSet, Authority, Configuration, ConfigurationId};
use crate::x509::certificate::Fingerprint;

/// The difference between two lists, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// One sentence each, in the order of the configurations' ids.
    pub lines: Vec<String>,
    /// Anchors that the new list has and the old one has not.
    pub anchors_added: usize,
    /// Anchors that the old list has and the new one has not.
    pub anchors_removed: usize,
    /// Anchors of the old list.
    pub anchors_before: usize,
}

impl Changes {
    /// From `old` to `new`.
    pub fn between(old: &AnchorSet, new: &AnchorSet) -> Self {
        let (before, after) = (anchors(old), anchors(new));
        Self {
            lines: lines(old, new),
            anchors_added: after.difference(&before).count(),
            anchors_removed: before.difference(&after).count(),
            anchors_before: before.len(),
        }
    }

    /// True when the two lists are the same to the judge.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// True when the change takes away every anchor, or a larger part of them than `max_removal`.  An
    /// answer like that is far likelier a fault of the directory, or of whoever changed it, than meant.
    pub fn is_suspicious(&self, max_removal: f64) -> bool {
        let (removed, before) = (self.anchors_removed, self.anchors_before);
        // Counts of anchors are far below 2^52.
        removed > 0 && (removed == before || removed as f64 > max_removal * before as f64)
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { anchors_added: added, anchors_removed: removed, anchors_before: before, .. } =
            self;
        write!(f, "{added} anchors added, {removed} of {before} removed")
    }
}

/// Anchors: roots, under the configuration they belong to.
fn anchors(set: &AnchorSet) -> BTreeSet<(&ConfigurationId, Fingerprint)> {
    let roots = |c: &'_ Configuration| -> Vec<Fingerprint> {
        c.authorities.iter().filter(|a| a.is_root).map(|a| a.certificate.fingerprint).collect()
    };
    set.configurations
        .iter()
        .flat_map(|c| roots(c).into_iter().map(move |fingerprint| (&c.id, fingerprint)))
        .collect()
}

fn lines(old: &AnchorSet, new: &AnchorSet) -> Vec<String> {
    let by_id = |set: &'_ AnchorSet| -> BTreeMap<ConfigurationId, Configuration> {
        set.configurations.iter().map(|c| (c.id.clone(), c.clone())).collect()
    };
    let (old, new) = (by_id(old), by_id(new));
    let ids: BTreeSet<_> = old.keys().chain(new.keys()).collect();
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

fn compare(old: &Configuration, new: &Configuration, out: &mut Vec<String>) {
    let id = &new.id;
    if old.display_name != new.display_name {
        let (from, to) = (&old.display_name, &new.display_name);
        out.push(format!("configuration {id} renamed from `{from}` to `{to}`"));
    }
    if old.kind != new.kind {
        let (from, to) = (old.kind.as_str(), new.kind.as_str());
        out.push(format!("configuration {id} changed from {from} to {to}"));
    }
    let twin = |list: &'_ [Authority], one: &Authority| -> Option<Authority> {
        let wanted = one.certificate.fingerprint;
        list.iter().find(|a| a.certificate.fingerprint == wanted).cloned()
    };
    for authority in &old.authorities {
        match twin(&new.authorities, authority) {
            None => out.push(line(id, authority, "removed")),
            Some(now) if now.is_root != authority.is_root => {
                let to = if now.is_root { "made a root" } else { "made an intermediate" };
                out.push(line(id, authority, to));
            }
            Some(now) if now.crl_url != authority.crl_url => {
                out.push(line(id, authority, &address(now.crl_url.as_deref(), "list")));
            }
            Some(now) if now.delta_crl_url != authority.delta_crl_url => {
                out.push(line(id, authority, &address(now.delta_crl_url.as_deref(), "delta")));
            }
            Some(_) => {}
        }
    }
    let added = new.authorities.iter().filter(|a| twin(&old.authorities, a).is_none());
    out.extend(added.map(|a| line(id, a, "added")));
}

fn address(url: Option<&str>, what: &str) -> String {
    match url {
        Some(url) => format!("given the {what} address {url}"),
        None => format!("left without a {what} address"),
    }
}

fn line(id: &ConfigurationId, authority: &Authority, what: &str) -> String {
    let kind = if authority.is_root { "root" } else { "intermediate" };
    let (subject, fingerprint) =
        (&authority.certificate.subject, authority.certificate.fingerprint);
    format!("configuration {id}: {kind} `{subject}` sha256 {fingerprint} {what}")
}

#[cfg(test)]
pub(in crate::sync) mod tests {
    use super::*;
    use crate::trust::configurations::{Devices, Kind};
    use crate::trust::subject::SubjectField;
    use crate::x509::certificate::Certificate;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
    use std::sync::Arc;

    pub(in crate::sync) fn authority(name: &str, is_root: bool) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let der = params.self_signed(&key).expect("a certificate");
        let certificate = Arc::new(Certificate::from_der(der.der()).expect("readable"));
        Authority { certificate, is_root, crl_url: None, delta_crl_url: None }
    }

    pub(in crate::sync) fn set(configurations: &[(&str, &[Authority])]) -> AnchorSet {
        let configuration = |(id, authorities): &(&str, &[Authority])| Configuration {
            id: ConfigurationId::from(*id),
            display_name: format!("the {id}"),
            kind: Kind::Devices(SubjectField::SanDns),
            devices: Devices::Any,
            authorities: authorities.to_vec(),
        };
        AnchorSet {
            configurations: configurations.iter().map(configuration).collect(),
            skipped: vec![],
        }
    }

    #[test]
    fn every_kind_of_change_has_its_line() {
        let (a, b, i) = (authority("a", true), authority("b", true), authority("i", false));
        let old = set(&[("1", &[a.clone(), i.clone()]), ("2", std::slice::from_ref(&b))]);
        let mut new = set(&[("1", &[a.clone(), b.clone()]), ("3", std::slice::from_ref(&a))]);
        new.configurations[0].authorities[0].crl_url = Some("http://x/".into());
        new.configurations[0].kind = Kind::Devices(SubjectField::SanUri);
        let changes = Changes::between(&old, &new);
        let (fa, fb, fi) =
            (a.certificate.fingerprint, b.certificate.fingerprint, i.certificate.fingerprint);
        assert_eq!(
            changes.lines,
            [
                "configuration 1 changed from tls_client_auth_san_dns to tls_client_auth_san_uri"
                    .into(),
                format!(
                    "configuration 1: root `CN=a` sha256 {fa} given the list address http://x/"
                ),
                format!("configuration 1: intermediate `CN=i` sha256 {fi} removed"),
                format!("configuration 1: root `CN=b` sha256 {fb} added"),
                "configuration 2 `the 2` removed".into(),
                format!("configuration 2: root `CN=b` sha256 {fb} removed"),
                "configuration 3 `the 3` added, tls_client_auth_san_dns".into(),
                format!("configuration 3: root `CN=a` sha256 {fa} added"),
            ]
        );
        assert_eq!(changes.to_string(), "2 anchors added, 1 of 2 removed");
        assert!(Changes::between(&new, &new).is_empty());
    }

    #[test]
    fn large_removals_are_suspicious() {
        let four: Vec<Authority> = (0..4).map(|n| authority(&n.to_string(), true)).collect();
        let with = |n: usize| set(&[("1", &four[..n])]);
        let removal = |from: usize, to: usize, most: f64| {
            Changes::between(&with(from), &with(to)).is_suspicious(most)
        };
        assert!(removal(4, 0, 0.5), "all");
        assert!(removal(4, 1, 0.5), "three of four");
        assert!(!removal(4, 2, 0.5), "half is not more than half");
        assert!(!removal(4, 3, 0.5));
        assert!(removal(4, 3, 0.0), "none may go");
        assert!(removal(1, 0, 1.0), "all, whatever the switch");
        assert!(!removal(0, 4, 0.0) && !removal(0, 0, 0.0));
        let replaced = set(&[("1", &[authority("new", true)])]);
        assert!(Changes::between(&with(1), &replaced).is_suspicious(0.5), "another in its place");
        let moved = set(&[("2", &four)]);
        assert!(Changes::between(&with(4), &moved).is_suspicious(0.5), "another configuration");
    }
}
