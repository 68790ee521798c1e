//! Tests of certificate policies, and of the policy graph against the tree of RFC 5280.

use super::*;
use crate::x509::test_certificates::{self, Key, Spec, cn, policies, policy};
use proptest::prelude::*;

/// Policy extensions of a certificate, and whether it is self-issued.
#[derive(Debug, Clone, Default)]
struct PolicySpec {
    policies: Option<Vec<Vec<u8>>>,
    mappings: Vec<(Vec<u8>, Vec<u8>)>,
    explicit: Option<u32>,
    mapping: Option<u32>,
    any: Option<u32>,
    self_issued: bool,
}

fn of(numbers: &[u8]) -> PolicySpec {
    PolicySpec {
        policies: Some(numbers.iter().map(|n| number(*n)).collect()),
        ..PolicySpec::default()
    }
}

/// Returns policy `n`, where 0 is anyPolicy.
fn number(n: u8) -> Vec<u8> {
    if n == 0 { test_certificates::ANY_POLICY.to_vec() } else { policy(n) }
}

impl PolicySpec {
    fn map(mut self, from: u8, to: u8) -> Self {
        self.mappings.push((number(from), number(to)));
        self
    }
    fn explicit(mut self, skip: u32) -> Self {
        self.explicit = Some(skip);
        self
    }
    fn inhibit_mapping(mut self, skip: u32) -> Self {
        self.mapping = Some(skip);
        self
    }
    fn inhibit_any(mut self, skip: u32) -> Self {
        self.any = Some(skip);
        self
    }
    fn self_issued(mut self) -> Self {
        self.self_issued = true;
        self
    }

    fn certificate(&self) -> Certificate {
        let key = Key::number(0);
        let issuer = if self.self_issued { cn("subject") } else { cn("issuer") };
        let mut spec = Spec::new(cn("subject"), issuer);
        if let Some(of) = &self.policies {
            spec = spec.with(test_certificates::CERTIFICATE_POLICIES, false, policies(of));
        }
        if !self.mappings.is_empty() {
            spec = spec.with(
                test_certificates::POLICY_MAPPINGS,
                true,
                test_certificates::mappings(&self.mappings),
            );
        }
        if self.explicit.or(self.mapping).is_some() {
            let der = test_certificates::policy_constraints(self.explicit, self.mapping);
            spec = spec.with(test_certificates::POLICY_CONSTRAINTS, true, der);
        }
        if let Some(skip) = self.any {
            spec = spec.with(
                test_certificates::INHIBIT_ANY_POLICY,
                true,
                test_certificates::uint(skip),
            );
        }
        Certificate::from_der(&spec.sign(key, key)).expect("a certificate")
    }
}

/// Processes a path, anchor first.
fn process(path: &[PolicySpec], trust: &TrustPolicy) -> Result<(), Code> {
    let certificates: Vec<Certificate> = path.iter().map(PolicySpec::certificate).collect();
    let below = &certificates[1..];
    let result = PolicyState::new(below.len(), trust, &certificates[0]).and_then(|mut state| {
        for (i, certificate) in below.iter().enumerate() {
            state.process(certificate, i + 1 == below.len())?;
        }
        Ok(())
    });
    result.map_err(|refusal| refusal.code)
}

/// Returns true if the default policy accepts the path.
fn is_accepted(path: &[PolicySpec]) -> bool {
    process(path, &TrustPolicy::default()).is_ok()
}

fn requiring(wanted: &[u8]) -> TrustPolicy {
    let policies = wanted.iter().map(|n| number(*n).into()).collect();
    TrustPolicy { policies, explicit_policy: true, ..TrustPolicy::default() }
}

#[test]
fn policies_matter_only_if_one_is_required() {
    let anchor = PolicySpec::default;
    assert!(is_accepted(&[anchor(), PolicySpec::default(), PolicySpec::default()]));
    assert!(is_accepted(&[anchor(), of(&[1]), of(&[2])]));
    for (path, good) in [
        (vec![of(&[1]).explicit(0), of(&[1])], true),
        (vec![of(&[1]).explicit(0), of(&[2])], false),
        (vec![of(&[1]).explicit(0), PolicySpec::default()], false),
        (vec![of(&[0]).explicit(0), of(&[2])], true),
        (vec![of(&[1]).explicit(0), of(&[0])], true),
        (vec![of(&[1, 2]).explicit(0), of(&[2, 3]), of(&[3])], false),
        (vec![of(&[1, 2]).explicit(0), of(&[2, 3]), of(&[2])], true),
        // Required from two certificates below.
        (vec![of(&[1]).explicit(2), of(&[2]), of(&[2])], false),
        (vec![of(&[1]).explicit(3), of(&[2]), of(&[2])], true),
        // Required by the leaf.
        (vec![of(&[1]), of(&[2]).explicit(0)], false),
        (vec![of(&[1]), of(&[1]).explicit(0)], true),
        (vec![of(&[1]), of(&[2]).explicit(1)], true),
    ] {
        let path: Vec<PolicySpec> = std::iter::once(anchor()).chain(path).collect();
        assert_eq!(
            is_accepted(&path),
            good,
            "{:?}",
            path.iter().map(|s| &s.policies).collect::<Vec<_>>()
        );
    }
}

#[test]
fn mappings_apply_until_they_are_inhibited() {
    let anchor = PolicySpec::default;
    for (path, good) in [
        (vec![of(&[1]).map(1, 2).explicit(0), of(&[2])], true),
        (vec![of(&[1]).map(1, 2).explicit(0), of(&[1])], false),
        (vec![of(&[1]).map(1, 2).map(1, 3).explicit(0), of(&[3])], true),
        (vec![of(&[0]).map(1, 2).explicit(0), of(&[2])], true),
        (vec![of(&[1]).map(1, 2).explicit(0), of(&[2]).map(2, 3), of(&[3])], true),
        (vec![of(&[1]).explicit(0).inhibit_mapping(0), of(&[1]).map(1, 2), of(&[2])], false),
        (vec![of(&[1]).explicit(0).inhibit_mapping(1), of(&[1]).map(1, 2), of(&[2])], true),
        // anyPolicy must not be mapped.
        (vec![of(&[0]).map(0, 2), of(&[2])], false),
        (vec![of(&[1]).map(1, 0), of(&[2])], false),
    ] {
        let path: Vec<PolicySpec> = std::iter::once(anchor()).chain(path).collect();
        assert_eq!(is_accepted(&path), good);
    }
}

#[test]
fn any_policy_counts_until_it_is_inhibited() {
    let anchor = PolicySpec::default;
    for (path, good) in [
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0])], false),
        (vec![of(&[1]).explicit(0).inhibit_any(1), of(&[0]), of(&[1])], true),
        (vec![of(&[1]).explicit(0).inhibit_any(1), of(&[0]), of(&[0])], false),
        // A self-issued authority may still use anyPolicy and does not count.
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0]).self_issued(), of(&[1])], true),
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0]).self_issued(), of(&[0])], false),
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0]).self_issued()], false),
    ] {
        let path: Vec<PolicySpec> = std::iter::once(anchor()).chain(path).collect();
        assert_eq!(is_accepted(&path), good);
    }
}

#[test]
fn required_policies_are_in_the_domain_of_the_first_issuer() {
    let anchor = PolicySpec::default;
    for (wanted, path, good) in [
        (&[1][..], vec![of(&[1, 2]), of(&[1])], true),
        (&[1], vec![of(&[1, 2]), of(&[2])], false),
        (&[1], vec![of(&[1]).map(1, 2), of(&[2])], true),
        (&[2], vec![of(&[1]).map(1, 2), of(&[2])], false),
        (&[1], vec![of(&[0]), of(&[0])], true),
        (&[1], vec![of(&[0]), of(&[1])], true),
        (&[1], vec![of(&[0]), of(&[2])], false),
        (&[1], vec![of(&[1, 2]).map(1, 3).map(2, 4), of(&[4])], false),
        (&[1], vec![of(&[1, 2]).map(1, 3).map(2, 3), of(&[3])], true),
        (&[0], vec![of(&[2]), of(&[2])], true),
        (&[1], vec![PolicySpec::default(), of(&[1])], false),
    ] {
        let path: Vec<PolicySpec> = std::iter::once(anchor()).chain(path).collect();
        let got = process(&path, &requiring(wanted));
        assert_eq!(got, if good { Ok(()) } else { Err(Code::Policy) }, "{wanted:?}");
    }
}

#[test]
fn constraints_of_the_anchor_apply() {
    assert!(is_accepted(&[PolicySpec::default().explicit(0), of(&[1]), of(&[1])]));
    assert!(!is_accepted(&[PolicySpec::default().explicit(0), of(&[1]), of(&[2])]));
    assert!(!is_accepted(&[of(&[1]).explicit(0), of(&[2]), of(&[2])]));
    assert!(is_accepted(&[of(&[1]).map(1, 2).explicit(0), of(&[2]), of(&[2])]));
    assert!(!is_accepted(&[PolicySpec::default().explicit(0).inhibit_any(0), of(&[0]), of(&[0])]));
}

#[test]
fn refuses_malformed_policy_extensions() {
    let key = Key::number(0);
    let qualified = |qualifier: &[u8]| {
        let qualifier = test_certificates::seq(&[test_certificates::oid(qualifier), vec![5, 0]]);
        test_certificates::seq(&[test_certificates::seq(&[
            test_certificates::oid(&policy(1)),
            test_certificates::seq(&[qualifier]),
        ])])
    };
    for (kind, critical, der, good) in [
        (
            test_certificates::CERTIFICATE_POLICIES,
            false,
            test_certificates::seq::<Vec<u8>>(&[]),
            false,
        ),
        (test_certificates::CERTIFICATE_POLICIES, false, policies(&[policy(1), policy(1)]), false),
        (test_certificates::CERTIFICATE_POLICIES, true, qualified(&[0x2a, 3]), false),
        (test_certificates::CERTIFICATE_POLICIES, false, qualified(&[0x2a, 3]), true),
        (test_certificates::CERTIFICATE_POLICIES, true, qualified(KNOWN_QUALIFIERS[0]), true),
        (test_certificates::POLICY_MAPPINGS, false, test_certificates::seq::<Vec<u8>>(&[]), false),
        (
            test_certificates::POLICY_CONSTRAINTS,
            true,
            test_certificates::seq::<Vec<u8>>(&[]),
            false,
        ),
        (
            test_certificates::POLICY_CONSTRAINTS,
            true,
            test_certificates::seq(&[vec![0x80, 1, 0xff]]),
            false,
        ),
        (test_certificates::INHIBIT_ANY_POLICY, true, vec![2, 1, 0x80], false),
        (test_certificates::INHIBIT_ANY_POLICY, true, vec![2, 5, 1, 0, 0, 0, 0], true),
    ] {
        let der = Spec::new(cn("a"), cn("b")).with(kind, critical, der).sign(key, key);
        let certificate = Certificate::from_der(&der).expect("a certificate");
        assert_eq!(PolicyExtensions::of(&certificate).is_ok(), good, "{certificate:?}");
    }
}

#[test]
fn mappings_of_all_to_all_stay_linear() {
    // The tree of RFC 5280 would have 30^8 leaves here (CVE-2023-0464).
    let all: Vec<u8> = (1..=30).collect();
    let mut spec = of(&all).explicit(0);
    for from in &all {
        for to in &all {
            spec = spec.map(*from, *to);
        }
    }
    let mut path = vec![spec; 9];
    path.push(of(&[7]));
    assert!(is_accepted(&path));
}

/// Literal implementation of the valid_policy_tree of RFC 5280 section 6.1, used to test the graph.
mod tree {
    use super::*;

    struct Node {
        depth: usize,
        parent: Option<usize>,
        valid: Vec<u8>,
        expected: Vec<Vec<u8>>,
        deleted: bool,
    }

    #[derive(Default)]
    struct Tree {
        nodes: Vec<Node>,
    }

    impl Tree {
        fn add(&mut self, depth: usize, parent: Option<usize>, valid: Vec<u8>) {
            let expected = vec![valid.clone()];
            self.nodes.push(Node { depth, parent, valid, expected, deleted: false });
        }

        fn at(&self, depth: usize) -> Vec<usize> {
            let live = |i: &usize| !self.nodes[*i].deleted && self.nodes[*i].depth == depth;
            (0..self.nodes.len()).filter(live).collect()
        }

        fn has_child(&self, node: usize, valid: Option<&[u8]>) -> bool {
            self.nodes
                .iter()
                .any(|n| !n.deleted && n.parent == Some(node) && valid.is_none_or(|v| n.valid == v))
        }

        /// Deletes childless nodes above `depth`.  Returns false if the tree is then NULL.
        fn prune(&mut self, depth: usize) -> bool {
            for above in (0..depth).rev() {
                for node in self.at(above) {
                    self.nodes[node].deleted = !self.has_child(node, None);
                }
            }
            !self.at(0).is_empty() && !self.at(depth).is_empty()
        }
    }

    /// Processes a path below an anchor without policy extensions.  Any policy is acceptable.
    pub(super) fn process(path: &[PolicySpec]) -> bool {
        let n = path.len();
        let mut tree = Tree::default();
        tree.add(0, None, number(0));
        let mut is_null = false;
        let (mut explicit, mut mapping, mut any) = (n + 1, n + 1, n + 1);
        for (i, spec) in (1..).zip(path) {
            match &spec.policies {
                None => is_null = true,
                Some(_) if is_null => {}
                Some(policies) => {
                    for p in policies.iter().filter(|p| **p != number(0)) {
                        let above = tree.at(i - 1);
                        let expecting = |node: &&usize| tree.nodes[**node].expected.contains(p);
                        let mut parents: Vec<usize> =
                            above.iter().filter(expecting).copied().collect();
                        if parents.is_empty() {
                            let is_any = |node: &usize| tree.nodes[*node].valid == number(0);
                            parents = above.into_iter().filter(is_any).collect();
                        }
                        for parent in parents {
                            tree.add(i, Some(parent), p.clone());
                        }
                    }
                    if policies.contains(&number(0)) && (any > 0 || (i < n && spec.self_issued)) {
                        for parent in tree.at(i - 1) {
                            for expected in tree.nodes[parent].expected.clone() {
                                if !tree.has_child(parent, Some(&expected)) {
                                    tree.add(i, Some(parent), expected);
                                }
                            }
                        }
                    }
                    is_null = !tree.prune(i);
                }
            }
            if explicit == 0 && is_null {
                return false;
            }
            if i == n {
                explicit = if spec.explicit == Some(0) { 0 } else { explicit.saturating_sub(1) };
                break;
            }
            if spec.mappings.iter().any(|(a, b)| *a == number(0) || *b == number(0)) {
                return false;
            }
            let sources: BTreeSet<&Vec<u8>> = spec.mappings.iter().map(|(a, _)| a).collect();
            for from in sources {
                if is_null {
                    break;
                }
                let to: Vec<Vec<u8>> = spec
                    .mappings
                    .iter()
                    .filter(|(a, _)| a == from)
                    .map(|(_, b)| b.clone())
                    .collect();
                let named = |node: &usize, wanted: &[u8]| tree.nodes[*node].valid == wanted;
                let own: Vec<usize> =
                    tree.at(i).into_iter().filter(|node| named(node, from)).collect();
                if mapping == 0 {
                    own.iter().for_each(|node| tree.nodes[*node].deleted = true);
                    is_null = !tree.prune(i);
                } else if own.is_empty() {
                    let covering = tree.at(i).into_iter().find(|node| named(node, &number(0)));
                    if let Some(parent) = covering.and_then(|node| tree.nodes[node].parent) {
                        tree.add(i, Some(parent), from.clone());
                        tree.nodes.last_mut().expect("just added").expected = to;
                    }
                } else {
                    own.iter().for_each(|node| tree.nodes[*node].expected = to.clone());
                }
            }
            if !spec.self_issued {
                [&mut explicit, &mut mapping, &mut any]
                    .into_iter()
                    .for_each(|count| *count = count.saturating_sub(1));
            }
            let lower = |count: &mut usize, to: Option<u32>| {
                *count = to.map_or(*count, |to| (*count).min(to as usize));
            };
            lower(&mut explicit, spec.explicit);
            lower(&mut mapping, spec.mapping);
            lower(&mut any, spec.any);
        }
        explicit > 0 || !is_null
    }
}

fn any_spec() -> impl Strategy<Value = PolicySpec> {
    let policies = prop::option::weighted(0.9, prop::collection::btree_set(0u8..4, 1..4));
    let mappings = prop::collection::vec((1u8..4, 1u8..4), 0..3);
    let skip = || prop::option::weighted(0.3, 0u32..3);
    (policies, mappings, skip(), skip(), skip(), any::<bool>()).prop_map(
        |(policies, mappings, explicit, mapping, any, self_issued)| PolicySpec {
            policies: policies.map(|of| of.into_iter().map(number).collect()),
            mappings: mappings.into_iter().map(|(a, b)| (number(a), number(b))).collect(),
            explicit,
            mapping,
            any,
            self_issued,
        },
    )
}

proptest! {
    #[test]
    fn the_graph_agrees_with_the_tree(path in prop::collection::vec(any_spec(), 1..6)) {
        let expected = tree::process(&path);
        let with_anchor: Vec<_> = std::iter::once(PolicySpec::default()).chain(path).collect();
        prop_assert_eq!(is_accepted(&with_anchor), expected);
    }
}

proptest! {
    #[test]
    fn does_not_panic_on_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        kind in 0usize..4,
    ) {
        let kinds = [
            test_certificates::CERTIFICATE_POLICIES,
            test_certificates::POLICY_MAPPINGS,
            test_certificates::POLICY_CONSTRAINTS,
            test_certificates::INHIBIT_ANY_POLICY,
        ];
        let key = Key::number(0);
        let der = Spec::new(cn("a"), cn("b")).with(kinds[kind], true, bytes).sign(key, key);
        if let Ok(certificate) = Certificate::from_der(&der) {
            let _ = PolicyExtensions::of(&certificate);
        }
    }

    #[test]
    fn stricter_policies_accept_fewer_paths(
        path in prop::collection::vec(
            (prop::collection::vec(0u8..4, 1..4), prop::collection::vec((1u8..4, 1u8..4), 0..3)), 1..5),
        wanted in 1u8..4,
    ) {
        let path: Vec<PolicySpec> = std::iter::once(PolicySpec::default())
            .chain(path.into_iter().map(|(mut numbers, mapped)| {
                numbers.sort_unstable();
                numbers.dedup();
                mapped.into_iter().fold(of(&numbers), |spec, (a, b)| spec.map(a, b))
            }))
            .collect();
        let explicit = process(&path, &requiring(&[]));
        if process(&path, &requiring(&[wanted])).is_ok() {
            prop_assert!(explicit.is_ok());
        }
        let mut strict = requiring(&[]);
        (strict.inhibit_any_policy, strict.inhibit_policy_mapping) = (true, true);
        if process(&path, &strict).is_ok() {
            prop_assert!(explicit.is_ok());
        }
    }
}
