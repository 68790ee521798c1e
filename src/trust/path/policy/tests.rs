//! Policies on made paths, and the graph against the tree of the RFC.

use super::*;
use crate::x509::test_certificates::{self, Key, Spec, cn, policies, policy};
use proptest::prelude::*;

/// What one certificate states, and whether it is self-issued.
#[derive(Debug, Clone, Default)]
struct Says {
    policies: Option<Vec<Vec<u8>>>,
    mappings: Vec<(Vec<u8>, Vec<u8>)>,
    explicit: Option<u32>,
    mapping: Option<u32>,
    any: Option<u32>,
    self_issued: bool,
}

fn of(numbers: &[u8]) -> Says {
    Says { policies: Some(numbers.iter().map(|n| number(*n)).collect()), ..Says::default() }
}

/// Policy `n`; 0 is anyPolicy.
fn number(n: u8) -> Vec<u8> {
    if n == 0 { test_certificates::ANY_POLICY.to_vec() } else { policy(n) }
}

impl Says {
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

/// Judges a path, anchor first.
fn judge(path: &[Says], trust: &TrustPolicy) -> Result<(), Code> {
    let certificates: Vec<Certificate> = path.iter().map(Says::certificate).collect();
    let below = &certificates[1..];
    let judged = Policies::new(below.len(), trust, &certificates[0]).and_then(|mut state| {
        for (i, certificate) in below.iter().enumerate() {
            state.take(certificate, i + 1 == below.len())?;
        }
        Ok(())
    });
    judged.map_err(|refusal| refusal.code)
}

fn plain(path: &[Says]) -> bool {
    judge(path, &TrustPolicy::default()).is_ok()
}

fn wanting(wanted: &[u8]) -> TrustPolicy {
    let policies = wanted.iter().map(|n| number(*n).into()).collect();
    TrustPolicy { policies, explicit_policy: true, ..TrustPolicy::default() }
}

#[test]
fn policies_count_only_where_one_is_required() {
    let anchor = Says::default;
    assert!(plain(&[anchor(), Says::default(), Says::default()]));
    assert!(plain(&[anchor(), of(&[1]), of(&[2])]));
    for (path, good) in [
        (vec![of(&[1]).explicit(0), of(&[1])], true),
        (vec![of(&[1]).explicit(0), of(&[2])], false),
        (vec![of(&[1]).explicit(0), Says::default()], false),
        (vec![of(&[0]).explicit(0), of(&[2])], true),
        (vec![of(&[1]).explicit(0), of(&[0])], true),
        (vec![of(&[1, 2]).explicit(0), of(&[2, 3]), of(&[3])], false),
        (vec![of(&[1, 2]).explicit(0), of(&[2, 3]), of(&[2])], true),
        // Required only two certificates further down.
        (vec![of(&[1]).explicit(2), of(&[2]), of(&[2])], false),
        (vec![of(&[1]).explicit(3), of(&[2]), of(&[2])], true),
        // By the leaf itself.
        (vec![of(&[1]), of(&[2]).explicit(0)], false),
        (vec![of(&[1]), of(&[1]).explicit(0)], true),
        (vec![of(&[1]), of(&[2]).explicit(1)], true),
    ] {
        let path: Vec<Says> = std::iter::once(anchor()).chain(path).collect();
        assert_eq!(
            plain(&path),
            good,
            "{:?}",
            path.iter().map(|s| &s.policies).collect::<Vec<_>>()
        );
    }
}

#[test]
fn mappings_are_followed_until_they_are_inhibited() {
    let anchor = Says::default;
    for (path, good) in [
        (vec![of(&[1]).map(1, 2).explicit(0), of(&[2])], true),
        (vec![of(&[1]).map(1, 2).explicit(0), of(&[1])], false),
        (vec![of(&[1]).map(1, 2).map(1, 3).explicit(0), of(&[3])], true),
        (vec![of(&[0]).map(1, 2).explicit(0), of(&[2])], true),
        (vec![of(&[1]).map(1, 2).explicit(0), of(&[2]).map(2, 3), of(&[3])], true),
        (vec![of(&[1]).explicit(0).inhibit_mapping(0), of(&[1]).map(1, 2), of(&[2])], false),
        (vec![of(&[1]).explicit(0).inhibit_mapping(1), of(&[1]).map(1, 2), of(&[2])], true),
        // anyPolicy is no policy to map.
        (vec![of(&[0]).map(0, 2), of(&[2])], false),
        (vec![of(&[1]).map(1, 0), of(&[2])], false),
    ] {
        let path: Vec<Says> = std::iter::once(anchor()).chain(path).collect();
        assert_eq!(plain(&path), good);
    }
}

#[test]
fn any_policy_counts_until_it_is_inhibited() {
    let anchor = Says::default;
    for (path, good) in [
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0])], false),
        (vec![of(&[1]).explicit(0).inhibit_any(1), of(&[0]), of(&[1])], true),
        (vec![of(&[1]).explicit(0).inhibit_any(1), of(&[0]), of(&[0])], false),
        // A self-issued authority may still use it, and does not use up the count.
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0]).self_issued(), of(&[1])], true),
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0]).self_issued(), of(&[0])], false),
        (vec![of(&[1]).explicit(0).inhibit_any(0), of(&[0]).self_issued()], false),
    ] {
        let path: Vec<Says> = std::iter::once(anchor()).chain(path).collect();
        assert_eq!(plain(&path), good);
    }
}

#[test]
fn wanted_policies_are_meant_in_the_terms_of_the_first_issuer() {
    let anchor = Says::default;
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
        (&[1], vec![Says::default(), of(&[1])], false),
    ] {
        let path: Vec<Says> = std::iter::once(anchor()).chain(path).collect();
        let got = judge(&path, &wanting(wanted));
        assert_eq!(got, if good { Ok(()) } else { Err(Code::Policy) }, "{wanted:?}");
    }
}

#[test]
fn an_anchors_own_constraints_bind() {
    assert!(plain(&[Says::default().explicit(0), of(&[1]), of(&[1])]));
    assert!(!plain(&[Says::default().explicit(0), of(&[1]), of(&[2])]));
    assert!(!plain(&[of(&[1]).explicit(0), of(&[2]), of(&[2])]));
    assert!(plain(&[of(&[1]).map(1, 2).explicit(0), of(&[2]), of(&[2])]));
    assert!(!plain(&[Says::default().explicit(0).inhibit_any(0), of(&[0]), of(&[0])]));
}

#[test]
fn what_cannot_be_read_is_refused() {
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
        assert_eq!(Stated::of(&certificate).is_ok(), good, "{certificate:?}");
    }
}

#[test]
fn mappings_of_all_to_all_stay_linear() {
    // The tree of RFC 5280 would have 30^8 leaves here and never end (CVE-2023-0464).
    let all: Vec<u8> = (1..=30).collect();
    let mut says = of(&all).explicit(0);
    for from in &all {
        for to in &all {
            says = says.map(*from, *to);
        }
    }
    let mut path = vec![says; 9];
    path.push(of(&[7]));
    assert!(plain(&path));
}

/// The valid_policy_tree of RFC 5280 section 6.1 to the letter, without pruning by bounds: the
/// oracle for the graph.
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

        /// Deletes childless nodes above `depth`; false when the tree is then NULL.
        fn prune(&mut self, depth: usize) -> bool {
            for above in (0..depth).rev() {
                for node in self.at(above) {
                    self.nodes[node].deleted = !self.has_child(node, None);
                }
            }
            !self.at(0).is_empty() && !self.at(depth).is_empty()
        }
    }

    /// Judges a path below an anchor that says nothing, for any policy.
    pub(super) fn judge(path: &[Says]) -> bool {
        let n = path.len();
        let mut tree = Tree::default();
        tree.add(0, None, number(0));
        let mut is_null = false;
        let (mut explicit, mut mapping, mut any) = (n + 1, n + 1, n + 1);
        for (i, says) in (1..).zip(path) {
            match &says.policies {
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
                    if policies.contains(&number(0)) && (any > 0 || (i < n && says.self_issued)) {
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
                explicit = if says.explicit == Some(0) { 0 } else { explicit.saturating_sub(1) };
                break;
            }
            if says.mappings.iter().any(|(a, b)| *a == number(0) || *b == number(0)) {
                return false;
            }
            let sources: BTreeSet<&Vec<u8>> = says.mappings.iter().map(|(a, _)| a).collect();
            for from in sources {
                if is_null {
                    break;
                }
                let to: Vec<Vec<u8>> = says
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
            if !says.self_issued {
                [&mut explicit, &mut mapping, &mut any]
                    .into_iter()
                    .for_each(|count| *count = count.saturating_sub(1));
            }
            let lower = |count: &mut usize, to: Option<u32>| {
                *count = to.map_or(*count, |to| (*count).min(to as usize));
            };
            lower(&mut explicit, says.explicit);
            lower(&mut mapping, says.mapping);
            lower(&mut any, says.any);
        }
        explicit > 0 || !is_null
    }
}

fn any_says() -> impl Strategy<Value = Says> {
    let policies = prop::option::weighted(0.9, prop::collection::btree_set(0u8..4, 1..4));
    let mappings = prop::collection::vec((1u8..4, 1u8..4), 0..3);
    let skip = || prop::option::weighted(0.3, 0u32..3);
    (policies, mappings, skip(), skip(), skip(), any::<bool>()).prop_map(
        |(policies, mappings, explicit, mapping, any, self_issued)| Says {
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
    fn the_graph_decides_as_the_rfcs_tree(path in prop::collection::vec(any_says(), 1..6)) {
        let expected = tree::judge(&path);
        let with_anchor: Vec<Says> = std::iter::once(Says::default()).chain(path).collect();
        prop_assert_eq!(plain(&with_anchor), expected);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), kind in 0usize..4) {
        let kinds = [
            test_certificates::CERTIFICATE_POLICIES, test_certificates::POLICY_MAPPINGS, test_certificates::POLICY_CONSTRAINTS,
            test_certificates::INHIBIT_ANY_POLICY,
        ];
        let key = Key::number(0);
        let der = Spec::new(cn("a"), cn("b")).with(kinds[kind], true, bytes).sign(key, key);
        if let Ok(certificate) = Certificate::from_der(&der) {
            let _ = Stated::of(&certificate);
        }
    }

    #[test]
    fn more_demands_never_accept_more(
        path in prop::collection::vec(
            (prop::collection::vec(0u8..4, 1..4), prop::collection::vec((1u8..4, 1u8..4), 0..3)), 1..5),
        wanted in 1u8..4,
    ) {
        let path: Vec<Says> = std::iter::once(Says::default())
            .chain(path.into_iter().map(|(mut numbers, mapped)| {
                numbers.sort_unstable();
                numbers.dedup();
                mapped.into_iter().fold(of(&numbers), |says, (a, b)| says.map(a, b))
            }))
            .collect();
        let explicit = judge(&path, &wanting(&[]));
        if judge(&path, &wanting(&[wanted])).is_ok() {
            prop_assert!(explicit.is_ok());
        }
        let mut strict = wanting(&[]);
        (strict.inhibit_any_policy, strict.inhibit_policy_mapping) = (true, true);
        if judge(&path, &strict).is_ok() {
            prop_assert!(explicit.is_ok());
        }
    }
}
