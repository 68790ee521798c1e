//! The journal of configurations: an outline of the newest list, without certificates.
//!
//! It restricts any older list to the configurations, authorities and addresses that the newest has.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::trust::configurations::{Authority, Configurations, Kind};
use crate::x509::time::Timestamp;

/// Outline of a list that the directory confirmed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outline {
    fetched_at: i64,
    configurations: Vec<Outlined>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Outlined {
    id: String,
    kind: String,
    authorities: Vec<OutlinedAuthority>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutlinedAuthority {
    sha256: String,
    is_root: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crl_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta_crl_url: Option<String>,
}

impl OutlinedAuthority {
    fn of(authority: &Authority) -> Self {
        Self {
            sha256: authority.certificate.fingerprint.to_string(),
            is_root: authority.is_root,
            crl_url: authority.crl_url.as_deref().map(str::to_owned),
            delta_crl_url: authority.delta_crl_url.as_deref().map(str::to_owned),
        }
    }
}

impl Outline {
    /// The outline of `set`, which the directory confirmed at `at`.
    pub(super) fn of<K: Kind>(set: &Configurations<K>, at: Timestamp) -> Self {
        let outlined = set.configurations.iter().map(|configuration| Outlined {
            id: configuration.id.to_string(),
            kind: configuration.kind.as_str().to_owned(),
            authorities: configuration.authorities.iter().map(OutlinedAuthority::of).collect(),
        });
        Self { fetched_at: at.0, configurations: outlined.collect() }
    }

    /// Time at which the directory confirmed the list.
    pub(super) fn at(&self) -> Timestamp {
        Timestamp(self.fetched_at)
    }

    /// Removes from `set` what the outline lacks, and sets the kind and the addresses of authorities.  A
    /// configuration whose clients are identified by another field is removed.
    pub(super) fn restrict<K: Kind>(&self, set: &mut Configurations<K>) {
        let outlined: HashMap<_, _> =
            self.configurations.iter().map(|one| (one.id.as_str(), one)).collect();
        set.configurations.retain_mut(|configuration| {
            let outlined = outlined.get(configuration.id.as_str());
            let Some(outlined) = outlined.filter(|one| one.kind == configuration.kind.as_str())
            else {
                return false;
            };
            let newest: HashMap<_, _> =
                outlined.authorities.iter().map(|one| (one.sha256.as_str(), one)).collect();
            Arc::make_mut(configuration).authorities.retain_mut(|authority| {
                let fingerprint = authority.certificate.fingerprint.to_string();
                let Some(newest) = newest.get(fingerprint.as_str()) else { return false };
                authority.is_root = newest.is_root;
                authority.crl_url = newest.crl_url.as_deref().map(Into::into);
                authority.delta_crl_url = newest.delta_crl_url.as_deref().map(Into::into);
                true
            });
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::Changes;
    use crate::sync::configurations::changes::tests::{authority, set};
    use crate::trust::configurations::Device;
    use crate::trust::subject::SubjectField;

    #[test]
    fn restricts_an_older_list_to_the_newest() {
        let with = |authority: &Authority, url: Option<&str>| Authority {
            crl_url: url.map(Into::into),
            ..authority.clone()
        };
        let (a, b, c) = (authority("a", true), authority("b", true), authority("c", false));
        let as_root = |authority: &Authority, is_root| Authority { is_root, ..authority.clone() };
        let older = set(&[
            ("1", &[with(&a, None), b.clone(), as_root(&c, true)]),
            ("2", std::slice::from_ref(&a)),
            ("3", std::slice::from_ref(&a)),
        ]);
        // Root b and configuration 2 are removed, a list address is added, c is no longer a root, and
        // configuration 3 identifies its devices by another field.
        let mut newest = set(&[
            ("1", &[with(&a, Some("http://pki.example/a.crl")), as_root(&c, false)]),
            ("3", std::slice::from_ref(&a)),
            ("4", std::slice::from_ref(&b)),
        ]);
        Arc::make_mut(&mut newest.configurations[1]).kind.subject_field = SubjectField::SanUri;
        let expected: Configurations<Device> =
            set(&[("1", &[with(&a, Some("http://pki.example/a.crl")), as_root(&c, false)])]);

        let bytes = serde_json::to_vec(&Outline::of(&newest, Timestamp(7))).expect("JSON");
        let outline: Outline = serde_json::from_slice(&bytes).expect("readable");
        assert_eq!(outline.at(), Timestamp(7));
        let mut restricted = older.clone();
        outline.restrict(&mut restricted);
        let changes = Changes::between(&expected, &restricted);
        assert!(changes.is_empty(), "{:?}", changes.lines);
        let mut same = newest.clone();
        outline.restrict(&mut same);
        assert!(Changes::between(&newest, &same).is_empty(), "the newest list is not changed");
    }
}
