//! Merges a list response into the configurations in force.

use std::collections::HashMap;

use crate::graph::wire::Entry;
use crate::trust::configurations::{AnchorSet, Configuration, ConfigurationId, Skipped};

/// Returns the configurations after a response.  What the response shortens stays as it is in
/// `in_force`.  Ids get the prefix of their source.
pub(super) fn merge(in_force: &AnchorSet, entries: Vec<Entry>, prefix: Option<&str>) -> AnchorSet {
    let before: HashMap<&ConfigurationId, &Configuration> =
        in_force.configurations.iter().map(|c| (&c.id, c)).collect();
    let with_prefix = |id: ConfigurationId| match prefix {
        Some(source) => ConfigurationId(format!("{source}/{id}").into()),
        None => id,
    };
    let mut merged = AnchorSet::default();
    for entry in entries {
        match entry {
            Entry::Complete { mut configuration, skipped } => {
                configuration.id = with_prefix(configuration.id);
                let id = configuration.id.clone();
                let skip = |s: Skipped| Skipped { configuration: id.clone(), why: s.why };
                merged.skipped.extend(skipped.into_iter().map(skip));
                merged.configurations.push(configuration);
            }
            Entry::Shortened { id, why, readable } => {
                let id = with_prefix(id);
                let kept = before.get(&id).map(|&kept| kept.clone());
                let why = match &kept {
                    Some(_) => format!("{why}; it stays as it was"),
                    None => why,
                };
                let rest = || readable.map(|rest| Configuration { id: id.clone(), ..rest });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::tests::{authority, set};

    #[test]
    fn keeps_what_the_response_shortens() {
        let (a, b) = (authority("a", true), authority("b", true));
        let in_force = set(&[("1", &[a.clone(), b.clone()])]);
        let shortened = |id: &str| Entry::Shortened {
            id: id.into(),
            why: "cut".into(),
            readable: set(&[(id, std::slice::from_ref(&a))]).configurations.pop(),
        };
        let next = merge(&in_force, vec![shortened("1"), shortened("2")], None);
        assert_eq!(next.configurations[0].authorities.len(), 2, "kept");
        assert_eq!(next.configurations[1].authorities.len(), 1, "only the readable part is known");
        assert_eq!(next.skipped.len(), 2);
        assert!(next.skipped[0].why.contains("stays as it was"));
    }

    #[test]
    fn prefixes_ids_with_their_source() {
        let complete = |c: Configuration| Entry::Complete { configuration: c, skipped: vec![] };
        let list = set(&[("1", &[])]).configurations.into_iter().map(complete).collect();
        let next = merge(&AnchorSet::default(), list, Some("contoso"));
        assert_eq!(next.configurations[0].id.as_str(), "contoso/1");
    }
}
