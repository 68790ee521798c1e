//! Certificate policies (RFC 5280 sections 4.2.1.4, 4.2.1.5, 4.2.1.11, 4.2.1.14 and 6.1), with the
//! policy graph of RFC 9618 instead of the tree.
//!
//! The tree of RFC 5280 can double in size with every certificate.  The graph has at most one node
//! for each policy of each certificate and at most one edge for each mapping.  Its size is linear
//! in the size of the certificates.

use std::collections::{BTreeMap, BTreeSet};

use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::TrustPolicy;
use crate::x509::certificate::{Certificate, Extension, oid};
use crate::x509::der::{self, DerError, Reader, tag};

/// id-qt-cps and id-qt-unotice, the policy qualifiers of RFC 5280 section 4.2.1.4.
const KNOWN_QUALIFIERS: [&[u8]; 2] = [&[0x2b, 6, 1, 5, 5, 7, 2, 1], &[0x2b, 6, 1, 5, 5, 7, 2, 2]];

type Oid = Box<[u8]>;

/// Policy state variables of RFC 5280 section 6.1.2, from the anchor down to one certificate.
#[derive(Debug)]
pub(crate) struct PolicyState<'a> {
    wanted: &'a [Oid],
    graph: Option<Graph>,
    explicit_policy: usize,
    policy_mapping: usize,
    inhibit_any_policy: usize,
}

impl<'a> PolicyState<'a> {
    /// Returns the initial state for a path of `certificates`, not counting the anchor.  The
    /// constraints in the certificate of the anchor apply (RFC 5937 section 3.2).
    pub fn new(
        certificates: usize,
        policy: &'a TrustPolicy,
        anchor: &Certificate,
    ) -> Result<Self, Refusal> {
        let initial = |inhibited: bool| if inhibited { 0 } else { certificates + 1 };
        let mut state = Self {
            wanted: &policy.policies,
            graph: Some(Graph::default()),
            explicit_policy: initial(policy.explicit_policy),
            policy_mapping: initial(policy.inhibit_policy_mapping),
            inhibit_any_policy: initial(policy.inhibit_any_policy),
        };
        let extensions = PolicyExtensions::of(anchor)?;
        // Most anchors have no policies.  Such an anchor allows any policy.
        if extensions.policies.is_some() {
            state.descend(&extensions, true);
        }
        state.map(&extensions);
        state.constrain(&extensions);
        Ok(state)
    }

    /// Processes one certificate below the anchor: section 6.1.3 (d) to (f).  Then section 6.1.5
    /// (a), (b) and (g) if it is the last one, and section 6.1.4 (a), (b) and (h) to (j) otherwise.
    pub fn process(&mut self, certificate: &Certificate, last: bool) -> Result<(), Refusal> {
        let extensions = PolicyExtensions::of(certificate)?;
        let self_issued = certificate.is_self_issued();
        self.descend(&extensions, self.inhibit_any_policy > 0 || (self_issued && !last));
        self.check_explicit_policy(certificate)?;
        if last {
            self.explicit_policy = self.explicit_policy.saturating_sub(1);
            if extensions.require_explicit == Some(0) {
                self.explicit_policy = 0;
            }
            if let Some(graph) = &mut self.graph
                && !graph.intersect(self.wanted)
            {
                self.graph = None;
            }
            return self.check_explicit_policy(certificate);
        }
        self.map(&extensions);
        if !self_issued {
            self.explicit_policy = self.explicit_policy.saturating_sub(1);
            self.policy_mapping = self.policy_mapping.saturating_sub(1);
            self.inhibit_any_policy = self.inhibit_any_policy.saturating_sub(1);
        }
        self.constrain(&extensions);
        Ok(())
    }

    fn descend(&mut self, extensions: &PolicyExtensions, any_is_allowed: bool) {
        self.graph = match (self.graph.take(), &extensions.policies) {
            (Some(graph), Some(policies)) => graph.descend(policies, any_is_allowed),
            _ => None,
        };
    }

    fn check_explicit_policy(&self, certificate: &Certificate) -> Result<(), Refusal> {
        if self.explicit_policy > 0 || self.graph.is_some() {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Policy,
            format!(
                "an explicit certificate policy is required, but no acceptable policy is valid for \
                 the path down to `{}`",
                certificate.subject
            ),
        ))
    }

    fn map(&mut self, extensions: &PolicyExtensions) {
        if let Some(graph) = &mut self.graph
            && !graph.map(&extensions.mappings, self.policy_mapping > 0)
        {
            self.graph = None;
        }
    }

    fn constrain(&mut self, extensions: &PolicyExtensions) {
        let lower = |state: &mut usize, to: Option<u32>| {
            if let Some(to) = to {
                *state = (*state).min(usize::try_from(to).unwrap_or(usize::MAX));
            }
        };
        lower(&mut self.explicit_policy, extensions.require_explicit);
        lower(&mut self.policy_mapping, extensions.inhibit_mapping);
        lower(&mut self.inhibit_any_policy, extensions.inhibit_any);
    }
}

/// valid_policy_graph of RFC 9618: one level for each certificate so far, with one node per policy.
#[derive(Debug)]
struct Graph {
    levels: Vec<BTreeMap<Oid, Node>>,
}

#[derive(Debug, Default)]
struct Node {
    /// expected_policy_set: names of this policy in the next certificate.
    expected: BTreeSet<Oid>,
    /// Policies of the level above that lead to this node.
    parents: BTreeSet<Oid>,
}

impl Node {
    fn expecting(policy: &Oid, parents: BTreeSet<Oid>) -> Self {
        Self { expected: BTreeSet::from([policy.clone()]), parents }
    }
}

impl Default for Graph {
    /// Returns the graph at depth 0: anyPolicy, expecting anyPolicy.
    fn default() -> Self {
        let any: Oid = oid::ANY_POLICY.into();
        let root = Node::expecting(&any, BTreeSet::new());
        Self { levels: vec![BTreeMap::from([(any, root)])] }
    }
}

impl Graph {
    /// Adds the level for a certificate with these policies (section 6.1.3 (d)).  Returns `None` if
    /// no policy is left.
    fn descend(mut self, policies: &BTreeSet<Oid>, any_is_allowed: bool) -> Option<Self> {
        let above = self.levels.last()?;
        let mut expecting: BTreeMap<&Oid, BTreeSet<Oid>> = BTreeMap::new();
        for (policy, node) in above {
            for expected in &node.expected {
                expecting.entry(expected).or_default().insert(policy.clone());
            }
        }
        let mut level: BTreeMap<Oid, Node> = BTreeMap::new();
        for policy in policies.iter().filter(|p| &***p != oid::ANY_POLICY) {
            // (d) (1): the parents are the nodes that expect the policy, or else anyPolicy.
            let parents = match expecting.get(policy) {
                Some(parents) => parents.clone(),
                None if above.contains_key(oid::ANY_POLICY) => {
                    BTreeSet::from([oid::ANY_POLICY.into()])
                }
                None => continue,
            };
            level.insert(policy.clone(), Node::expecting(policy, parents));
        }
        if any_is_allowed && policies.contains(oid::ANY_POLICY) {
            // (d) (2): anyPolicy covers policies that are expected but not listed.
            for (policy, parents) in expecting {
                level
                    .entry(policy.clone())
                    .or_insert_with_key(|policy| Node::expecting(policy, parents));
            }
        }
        self.levels.push(level);
        self.prune().then_some(self)
    }

    /// Applies policy mappings (section 6.1.4 (b)).  Returns false if no policy is left.
    fn map(&mut self, mappings: &BTreeMap<Oid, BTreeSet<Oid>>, allowed: bool) -> bool {
        let has_above = self.levels.len() > 1;
        let Some(level) = self.levels.last_mut() else { return false };
        let covered_by_any = level.contains_key(oid::ANY_POLICY);
        for (issuer_policy, subject_policies) in mappings {
            if !allowed {
                level.remove(issuer_policy);
            } else if let Some(node) = level.get_mut(issuer_policy) {
                node.expected = subject_policies.clone();
            } else if covered_by_any {
                let parents = if has_above {
                    BTreeSet::from([oid::ANY_POLICY.into()])
                } else {
                    BTreeSet::new()
                };
                let node = Node { expected: subject_policies.clone(), parents };
                level.insert(issuer_policy.clone(), node);
            }
        }
        self.prune()
    }

    /// Intersects the graph with the wanted policies (section 6.1.5 (g)).  An empty list means any
    /// policy.  Returns false if no policy is left.
    fn intersect(&mut self, wanted: &[Oid]) -> bool {
        if wanted.is_empty() || wanted.iter().any(|w| &**w == oid::ANY_POLICY) {
            return true;
        }
        // A policy in the domain of the first issuer has anyPolicy as parent.  Nodes that are
        // reachable from a wanted policy stay.  A chain of anyPolicy covers every policy.
        let mut reachable: BTreeSet<Oid> = BTreeSet::from([oid::ANY_POLICY.into()]);
        for level in self.levels.iter_mut().skip(1) {
            level.retain(|policy, node| {
                &**policy == oid::ANY_POLICY
                    || node.parents.iter().any(|parent| {
                        reachable.contains(parent)
                            && (&**parent != oid::ANY_POLICY || wanted.contains(policy))
                    })
            });
            reachable = level.keys().cloned().collect();
        }
        self.prune()
    }

    /// Removes nodes without children (section 6.1.3 (d) (3)).  Returns false if no policy is left.
    fn prune(&mut self) -> bool {
        let mut parents: Option<BTreeSet<Oid>> = None;
        for level in self.levels.iter_mut().rev() {
            if let Some(parents) = &parents {
                level.retain(|policy, _| parents.contains(policy));
            }
            parents = Some(level.values().flat_map(|node| node.parents.iter().cloned()).collect());
            if level.is_empty() {
                return false;
            }
        }
        true
    }
}

/// Decoded policy extensions of one certificate.
#[derive(Debug, Default)]
struct PolicyExtensions {
    policies: Option<BTreeSet<Oid>>,
    mappings: BTreeMap<Oid, BTreeSet<Oid>>,
    require_explicit: Option<u32>,
    inhibit_mapping: Option<u32>,
    inhibit_any: Option<u32>,
}

impl PolicyExtensions {
    fn of(certificate: &Certificate) -> Result<Self, Refusal> {
        let mut out = Self::default();
        for extension in &certificate.extensions {
            let (name, result) = match &*extension.oid {
                oid::CERTIFICATE_POLICIES => ("certificatePolicies", out.read_policies(extension)),
                oid::POLICY_MAPPINGS => ("policyMappings", out.read_mappings(&extension.value)),
                oid::POLICY_CONSTRAINTS => {
                    ("policyConstraints", out.read_constraints(&extension.value))
                }
                oid::INHIBIT_ANY_POLICY => {
                    ("inhibitAnyPolicy", out.read_inhibit_any_policy(&extension.value))
                }
                _ => continue,
            };
            result.map_err(|why| {
                Refusal::new(Code::Policy, format!("{name} of `{}`: {why}", certificate.subject))
            })?;
        }
        Ok(out)
    }

    fn read_policies(&mut self, extension: &Extension) -> Result<(), DerError> {
        let mut list = der::single(&extension.value, tag::SEQUENCE)?.reader();
        let mut policies = BTreeSet::new();
        while !list.is_empty() {
            let mut information = list.sequence()?;
            let policy = read_oid(&mut information)?;
            if let Some(qualifiers) = information.optional(tag::SEQUENCE)? {
                read_qualifiers(qualifiers.reader(), extension.critical)?;
            }
            information.end()?;
            if !policies.insert(policy) {
                return Err(DerError::Value("a policy occurs twice"));
            }
        }
        if policies.is_empty() {
            return Err(DerError::Value("an empty list"));
        }
        self.policies = Some(policies);
        Ok(())
    }

    fn read_mappings(&mut self, der: &[u8]) -> Result<(), DerError> {
        let mut list = der::single(der, tag::SEQUENCE)?.reader();
        while !list.is_empty() {
            let mut pair = list.sequence()?;
            let (issuer, subject) = (read_oid(&mut pair)?, read_oid(&mut pair)?);
            pair.end()?;
            if [&issuer, &subject].into_iter().any(|policy| &**policy == oid::ANY_POLICY) {
                return Err(DerError::Value("a mapping of anyPolicy"));
            }
            self.mappings.entry(issuer).or_default().insert(subject);
        }
        if self.mappings.is_empty() { Err(DerError::Value("an empty list")) } else { Ok(()) }
    }

    fn read_constraints(&mut self, der: &[u8]) -> Result<(), DerError> {
        let mut r = der::single(der, tag::SEQUENCE)?.reader();
        self.require_explicit = r.optional(tag::context(0))?.map(skip_certs).transpose()?;
        self.inhibit_mapping = r.optional(tag::context(1))?.map(skip_certs).transpose()?;
        r.end()?;
        if self.require_explicit.is_none() && self.inhibit_mapping.is_none() {
            return Err(DerError::Value("an empty sequence"));
        }
        Ok(())
    }

    fn read_inhibit_any_policy(&mut self, der: &[u8]) -> Result<(), DerError> {
        self.inhibit_any = Some(skip_certs(der::single(der, tag::INTEGER)?)?);
        Ok(())
    }
}

fn read_oid(r: &mut Reader<'_>) -> Result<Oid, DerError> {
    Ok(r.expect(tag::OID)?.value.into())
}

/// Parses `SkipCerts ::= INTEGER (0..MAX)`, saturating at `u32::MAX`.
fn skip_certs(element: der::Element<'_>) -> Result<u32, DerError> {
    let value = der::integer(element)?;
    if value[0] & 0x80 != 0 {
        return Err(DerError::Value("a negative number of certificates"));
    }
    Ok(der::small_integer(element).unwrap_or(u32::MAX))
}

/// Checks policy qualifiers.  In a critical extension, every qualifier must be understood (RFC 5280
/// section 4.2.1.4).
fn read_qualifiers(mut r: Reader<'_>, critical: bool) -> Result<(), DerError> {
    if r.is_empty() {
        return Err(DerError::Value("an empty list of qualifiers"));
    }
    while !r.is_empty() {
        let mut information = r.sequence()?;
        let kind = information.expect(tag::OID)?.value;
        information.any()?;
        information.end()?;
        if critical && !KNOWN_QUALIFIERS.contains(&kind) {
            return Err(DerError::Value("a critical list with an unknown policy qualifier"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
