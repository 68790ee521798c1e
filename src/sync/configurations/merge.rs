//! Merges a list response into the configurations in force.

use std::collections::HashMap;
use std::sync::Arc;

use crate::graph::wire::Entry;
use crate::trust::configurations::{
    Authority, Configuration, ConfigurationId, Configurations, Kind, Skipped,
};

/// Ending of the reason of an authority that stays because its certificate became unreadable.
const STAYS: &str = "; the authorities that the response lacks stay";

/// Returns the configurations after a response.  What the response shortens stays as it is in
/// `in_force`.  Ids get the prefix of their source.
///
/// A certificate that is unreadable where it was readable before counts as shortened too: its authority
/// stays.  The response does not tell which one it is, so every authority that the configuration lacks
/// stays.
pub(super) fn merge<K: Kind>(
    in_force: &Configurations<K>,
    entries: Vec<Entry<K>>,
    prefix: Option<&str>,
) -> Configurations<K> {
    let before: HashMap<&ConfigurationId, &Arc<Configuration<K>>> =
        in_force.configurations.iter().map(|c| (&c.id, c)).collect();
    let with_prefix = |id: ConfigurationId| match prefix {
        Some(source) => ConfigurationId(format!("{source}/{id}").into()),
        None => id,
    };
    let mut merged = Configurations::default();
    for entry in entries {
        match entry {
            Entry::Complete { mut configuration, skipped } => {
                configuration.id = with_prefix(configuration.id);
                let id = configuration.id.clone();
                let kept = keep_damaged(in_force, &before, &mut configuration, skipped.len());
                let skip = |mut s: Skipped| {
                    if kept {
                        s.why.push_str(STAYS);
                    }
                    Skipped { configuration: id.clone(), why: s.why }
                };
                merged.skipped.extend(skipped.into_iter().map(skip));
                merged.configurations.push(Arc::new(configuration));
            }
            Entry::Shortened { id, why, readable } => {
                let id = with_prefix(id);
                let kept = before.get(&id).map(|&kept| Arc::clone(kept));
                let why = match &kept {
                    Some(_) => format!("{why}; it stays as it was"),
                    None => why,
                };
                let rest =
                    || readable.map(|rest| Arc::new(Configuration { id: id.clone(), ..rest }));
                merged.configurations.extend(kept.or_else(rest));
                merged.skipped.push(Skipped { configuration: id, why });
            }
            Entry::Skipped(skipped) => {
                let configuration = with_prefix(skipped.configuration);
                merged.skipped.push(Skipped { configuration, why: skipped.why });
            }
        }
    }
    merged
}

/// Adds the authorities that `configuration` lacks if more of its certificates are unreadable than
/// before.  Returns true if it did.
fn keep_damaged<K>(
    in_force: &Configurations<K>,
    before: &HashMap<&ConfigurationId, &Arc<Configuration<K>>>,
    configuration: &mut Configuration<K>,
    unreadable: usize,
) -> bool {
    let Some(old) = before.get(&configuration.id) else { return false };
    let skipped = in_force.skipped.iter().filter(|s| s.configuration == configuration.id);
    let known = skipped.filter(|s| !s.why.ends_with(STAYS)).count();
    if unreadable <= known {
        return false;
    }
    let is_missing = |one: &&Authority| {
        let print = one.certificate.fingerprint;
        configuration.authorities.iter().all(|other| other.certificate.fingerprint != print)
    };
    let missing: Vec<_> = old.authorities.iter().filter(is_missing).cloned().collect();
    let keeps = !missing.is_empty();
    configuration.authorities.extend(missing);
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::tests::{authority, set};
    use crate::trust::configurations::Device;

    #[test]
    fn keeps_what_the_response_shortens() {
        let (a, b) = (authority("a", true), authority("b", true));
        let in_force = set(&[("1", &[a.clone(), b.clone()])]);
        let shortened = |id: &str| Entry::Shortened {
            id: id.into(),
            why: "cut".into(),
            readable: set(&[(id, std::slice::from_ref(&a))])
                .configurations
                .pop()
                .map(Arc::unwrap_or_clone),
        };
        let next = merge(&in_force, vec![shortened("1"), shortened("2")], None);
        assert_eq!(next.configurations[0].authorities.len(), 2, "kept");
        assert_eq!(next.configurations[1].authorities.len(), 1, "only the readable part is known");
        assert_eq!(next.skipped.len(), 2);
        assert!(next.skipped[0].why.contains("stays as it was"));
    }

    #[test]
    fn keeps_an_authority_whose_certificate_became_unreadable() {
        let (a, b) = (authority("a", true), authority("b", true));
        let damaged = |known: &Configurations<Device>, left: &[Authority], unreadable: usize| {
            let configuration = Arc::unwrap_or_clone(set(&[("1", left)]).configurations.remove(0));
            let why = || Skipped { configuration: "1".into(), why: "not a certificate".into() };
            let skipped = (0..unreadable).map(|_| why()).collect();
            merge(known, vec![Entry::Complete { configuration, skipped }], None)
        };
        let count = |set: &Configurations<Device>| set.configurations[0].authorities.len();
        let good = set(&[("1", &[a.clone(), b.clone()])]);
        let once = damaged(&good, std::slice::from_ref(&a), 1);
        assert_eq!(count(&once), 2, "b stays");
        assert!(once.skipped[0].why.ends_with(STAYS));
        let again = damaged(&once, std::slice::from_ref(&a), 1);
        assert_eq!(count(&again), 2, "b stays as long as it is unreadable");
        assert_eq!(count(&damaged(&again, &[a.clone(), b], 0)), 2, "b is readable again");
        let removed = damaged(&again, std::slice::from_ref(&a), 0);
        assert_eq!(count(&removed), 1, "b was removed");
        // A certificate that was never readable keeps no other authority.
        let mut never = set(&[("1", &[a.clone(), authority("c", true)])]);
        never.skipped.push(Skipped { configuration: "1".into(), why: "not a certificate".into() });
        assert_eq!(count(&damaged(&never, &[a], 1)), 1);
    }

    #[test]
    fn prefixes_ids_with_their_source() {
        let complete =
            |c| Entry::Complete { configuration: Arc::unwrap_or_clone(c), skipped: vec![] };
        let list = set(&[("1", &[])]).configurations.into_iter().map(complete).collect();
        let next = merge(&Configurations::default(), list, Some("contoso"));
        assert_eq!(next.configurations[0].id.as_str(), "contoso/1");
    }
}
