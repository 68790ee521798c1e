//! Device configurations that share an authority.
//!
//! A certificate of a shared authority fits several configurations of its trust domain.  The device is
//! refused (`configuration_ambiguous`) unless its `client_id` selects one of them.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::trust::configurations::{ConfigurationId, Configurations, Kind};
use crate::x509::certificate::Fingerprint;
use crate::x509::name::Name;

/// Ids of configurations in one line.
const MAX_IDS: usize = 4;

/// An authority is its name and key, as for the judge.
type Key<'a> = (&'a Name, Fingerprint);
type ByAuthority<'a> = HashMap<Key<'a>, BTreeSet<&'a ConfigurationId>>;

fn by_authority<K: Kind>(set: &Configurations<K>) -> ByAuthority<'_> {
    let mut all = ByAuthority::new();
    // A client is assigned to configurations of applications, so they are never ambiguous.
    for configuration in set.configurations.iter().filter(|_| K::IDENTIFIES_DEVICES) {
        for authority in &configuration.authorities {
            let key = (&authority.certificate.subject, authority.certificate.key);
            all.entry(key).or_default().insert(&configuration.id);
        }
    }
    all
}

/// Returns the number of configurations that share an authority with another one.
pub(super) fn count<K: Kind>(set: &Configurations<K>) -> usize {
    let shared = by_authority(set).into_values().filter(|ids| ids.len() > 1);
    shared.flatten().collect::<HashSet<_>>().len()
}

/// The configurations that a new list makes ambiguous.
#[derive(Debug, Default)]
pub(super) struct NewlyAmbiguous {
    /// Number of configurations.
    pub(super) configurations: usize,
    /// One line for each authority that they share.
    pub(super) lines: Vec<String>,
}

impl NewlyAmbiguous {
    /// Compares `old` with `new`.  An authority that two configurations of both lists share is not new.
    pub(super) fn between<K: Kind>(old: &Configurations<K>, new: &Configurations<K>) -> Self {
        let before = by_authority(old);
        let mut shared: Vec<(Vec<_>, Key<'_>)> = by_authority(new)
            .into_iter()
            .filter(|(key, ids)| {
                let earlier = before.get(key).map_or(0, |old| old.intersection(ids).count());
                ids.len() > 1 && earlier < 2
            })
            .map(|(key, ids)| (ids.into_iter().collect(), key))
            .collect();
        shared.sort_by_cached_key(|(ids, (name, _))| (ids.clone(), name.to_string()));
        let lines = shared.iter().map(|(ids, (name, _))| line(ids, name)).collect();
        let configurations = shared.iter().flat_map(|(ids, _)| ids).collect::<HashSet<_>>().len();
        Self { configurations, lines }
    }
}

fn line(ids: &[&ConfigurationId], name: &Name) -> String {
    let shown: Vec<_> = ids.iter().take(MAX_IDS).map(ToString::to_string).collect();
    let more = match ids.len().saturating_sub(MAX_IDS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "configurations {}{more} share `{name}`: devices of it are refused unless their client_id selects \
         one",
        shown.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::Changes;
    use crate::sync::configurations::changes::tests::{authority, set};
    use crate::trust::configurations::{Application, Authority, Configuration};

    #[test]
    fn an_authority_in_a_second_configuration_makes_both_ambiguous() {
        let (a, b) = (authority("a", true), authority("b", true));
        let one = std::slice::from_ref::<Authority>;
        let apart = set(&[("1", one(&a)), ("2", one(&b))]);
        let both = [a.clone(), b.clone()];
        let shared = set(&[("1", one(&a)), ("2", &both)]);
        let changes = Changes::between(&apart, &shared);
        assert_eq!(changes.newly_ambiguous, 2);
        assert!(changes.lines[0].starts_with("configurations 1, 2 share `CN=a`:"), "{changes:?}");
        assert!(
            changes.to_string().ends_with("devices of 2 configurations would be ambiguous"),
            "{changes}"
        );
        assert_eq!((count(&apart), count(&shared)), (0, 2));
        // What is ambiguous already, or ends being so, needs no warning.
        let third = set(&[("1", one(&a)), ("2", &both), ("3", one(&a))]);
        for (old, new) in [(&shared, &shared), (&shared, &apart), (&shared, &third)] {
            assert_eq!(Changes::between(old, new).newly_ambiguous, 0);
        }
        assert_eq!(count(&third), 3);
        // Each authority counts, and each configuration once.
        let all = set(&[("1", &both), ("2", &both), ("3", one(&b))]);
        let changes = Changes::between(&apart, &all);
        assert_eq!(changes.newly_ambiguous, 3);
        let shares = |line: &&String| line.contains(" share ");
        assert_eq!(changes.lines.iter().filter(shares).count(), 2);
    }

    #[test]
    fn applications_are_never_ambiguous() {
        let a = authority("a", true);
        let configuration = |id: &str| Configuration {
            id: id.into(),
            domain: "hub".into(),
            display_name: String::new(),
            kind: Application,
            authorities: vec![a.clone()],
        };
        let set: Configurations<_> = ["1", "2"].map(configuration).into_iter().collect();
        assert_eq!(Changes::between(&Configurations::default(), &set).newly_ambiguous, 0);
        assert_eq!(count(&set), 0);
    }
}
