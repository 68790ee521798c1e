//! Certificate policies (RFC 5280 sections 4.2.1.4, 4.2.1.5, 4.2.1.11, 4.2.1.14 and 6.1, with the
//! policy graph of RFC 9618 in place of the tree).
//!
//! The tree of RFC 5280 can double with every certificate; the graph has at most one node for each
//! policy of each certificate, and at most one edge for each mapping, so that its size is linear in the
//! certificates' bytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::TrustPolicy;
use crate::x509::certificate::{Certificate, Extension, oid};
use crate::x509::der::{self, DerError, Reader, tag};

/// id-qt-cps and id-qt-unotice, the qualifiers of RFC 5280 section 4.2.1.4.
const KNOWN_QUALIFIERS: [&[u8]; 2] = [&[0x2b, 6, 1, 5, 5, 7, 2, 1], &[0x2b, 6, 1, 5, 5, 7, 2, 2]];

type Oid = Box<[u8]>;

/// The policy state variables of RFC 5280 section 6.1.2, from the anchor down to one certificate.
#[derive(Debug)]
pub struct Policies<'a> {
    wanted: &'a [Oid],
    graph: Option<Graph>,
    explicit_policy: usize,
    policy_mapping: usize,
    inhibit_any_policy: usize,
}

impl<'a> Policies<'a> {
    /// The state above a path of `certificates`, the anchor not counted, with the constraints that the
    /// anchor's own certificate states (RFC 5937 section 3.2).
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
        let stated = Stated::of(anchor)?;
        // An anchor without policies is the usual one: it stands for any.
        if stated.policies.is_some() {
            state.descend(&stated, true);
        }
        state.map(&stated);
        state.constrain(&stated);
        Ok(state)
    }

    /// Processes one certificate below the anchor: section 6.1.3 (d) to (f), then, unless it is the
    /// last, 6.1.4 (a), (b) and (h) to (j), or, if it is, 6.1.5 (a), (b) and (g).
    pub fn take(&mut self, certificate: &Certificate, last: bool) -> Result<(), Refusal> {
        let stated = Stated::of(certificate)?;
        let self_issued = certificate.is_self_issued();
        self.descend(&stated, self.inhibit_any_policy > 0 || (self_issued && !last));
        self.is_satisfied(certificate)?;
        if last {
            self.explicit_policy = self.explicit_policy.saturating_sub(1);
            if stated.require_explicit == Some(0) {
                self.explicit_policy = 0;
            }
            if let Some(graph) = &mut self.graph
                && !graph.intersect(self.wanted)
            {
                self.graph = None;
            }
            return self.is_satisfied(certificate);
        }
        self.map(&stated);
        if !self_issued {
            self.explicit_policy = self.explicit_policy.saturating_sub(1);
            self.policy_mapping = self.policy_mapping.saturating_sub(1);
            self.inhibit_any_policy = self.inhibit_any_policy.saturating_sub(1);
        }
        self.constrain(&stated);
        Ok(())
    }

    fn descend(&mut self, stated: &Stated, any_is_allowed: bool) {
        self.graph = match (self.graph.take(), &stated.policies) {
            (Some(graph), Some(policies)) => graph.descend(policies, any_is_allowed),
            _ => None,
        };
    }

    fn is_satisfied(&self, certificate: &Certificate) -> Result<(), Refusal> {
        if self.explicit_policy > 0 || self.graph.is_some() {
            return Ok(());
        }
        Err(Refusal::new(
            Code::Policy,
            format!(
                "an explicit certificate policy is required, and none that is acceptable is valid \
                 for the path down to `{}`",
                certificate.subject
            ),
        ))
    }

    fn map(&mut self, stated: &Stated) {
        if let Some(graph) = &mut self.graph
            && !graph.map(&stated.mappings, self.policy_mapping > 0)
        {
            self.graph = None;
        }
    }

    fn constrain(&mut self, stated: &Stated) {
        let lower = |state: &mut usize, to: Option<u32>| {
            if let Some(to) = to {
                *state = (*state).min(usize::try_from(to).unwrap_or(usize::MAX));
            }
        };
        lower(&mut self.explicit_policy, stated.require_explicit);
        lower(&mut self.policy_mapping, stated.inhibit_mapping);
        lower(&mut self.inhibit_any_policy, stated.inhibit_any);
    }
}

/// The valid_policy_graph: one level for each certificate so far, each with one node for a policy.
#[derive(Debug)]
struct Graph {
    levels: Vec<BTreeMap<Oid, Node>>,
}

#[derive(Debug, Default)]
struct Node {
    /// expected_policy_set: what the next certificate may call this policy.
    expected: BTreeSet<Oid>,
    /// Valid policies of the level above that lead here.
    parents: BTreeSet<Oid>,
}

impl Node {
    fn expecting(policy: &Oid, parents: BTreeSet<Oid>) -> Self {
        Self { expected: BTreeSet::from([policy.clone()]), parents }
    }
}

impl Default for Graph {
    /// Depth 0: anyPolicy, expecting anyPolicy.
    fn default() -> Self {
        let any: Oid = oid::ANY_POLICY.into();
        let root = Node::expecting(&any, BTreeSet::new());
        Self { levels: vec![BTreeMap::from([(any, root)])] }
    }
}

impl Graph {
    /// Section 6.1.3 (d): the next level, for a certificate with these policies.  `None` when no
    /// policy is left.
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
            // (d) (1): under the nodes that expect it, else under anyPolicy.
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
            // (d) (2): what is expected and not named is covered by anyPolicy.
            for (policy, parents) in expecting {
                level
                    .entry(policy.clone())
                    .or_insert_with_key(|policy| Node::expecting(policy, parents));
            }
        }
        self.levels.push(level);
        self.prune().then_some(self)
    }

    /// Section 6.1.4 (b).  False when no policy is left.
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

    /// Section 6.1.5 (g): what is left for the policies that are wanted; no policies: any.  False
    /// when nothing is.
    fn intersect(&mut self, wanted: &[Oid]) -> bool {
        if wanted.is_empty() || wanted.iter().any(|w| &**w == oid::ANY_POLICY) {
            return true;
        }
        // A policy in the issuers' own terms is one whose parent is anyPolicy.  What is reachable
        // from a wanted one stays; anyPolicy all the way down stands for every one.
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

    /// Section 6.1.3 (d) (3): removes nodes without children.  False when nothing is left.
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

/// What one certificate's extensions state about policies.
#[derive(Debug, Default)]
struct Stated {
    policies: Option<BTreeSet<Oid>>,
    mappings: BTreeMap<Oid, BTreeSet<Oid>>,
    require_explicit: Option<u32>,
    inhibit_mapping: Option<u32>,
    inhibit_any: Option<u32>,
}

impl Stated {
    fn of(certificate: &Certificate) -> Result<Self, Refusal> {
        let mut stated = Self::default();
        for extension in &certificate.extensions {
            let (name, read) = match &*extension.oid {
                oid::CERTIFICATE_POLICIES => ("certificatePolicies", stated.policies(extension)),
                oid::POLICY_MAPPINGS => ("policyMappings", stated.mappings(&extension.value)),
                oid::POLICY_CONSTRAINTS => {
                    ("policyConstraints", stated.constraints(&extension.value))
                }
                oid::INHIBIT_ANY_POLICY => {
                    ("inhibitAnyPolicy", stated.inhibit_any_policy(&extension.value))
                }
                _ => continue,
            };
            read.map_err(|why| {
                Refusal::new(Code::Policy, format!("{name} of `{}`: {why}", certificate.subject))
            })?;
        }
        Ok(stated)
    }

    fn policies(&mut self, extension: &Extension) -> Result<(), DerError> {
        let mut list = der::single(&extension.value, tag::SEQUENCE)?.reader();
        let mut policies = BTreeSet::new();
        while !list.is_empty() {
            let mut information = list.sequence()?;
            let policy = oid_of(&mut information)?;
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

    fn mappings(&mut self, der: &[u8]) -> Result<(), DerError> {
        let mut list = der::single(der, tag::SEQUENCE)?.reader();
        while !list.is_empty() {
            let mut pair = list.sequence()?;
            let (issuer, subject) = (oid_of(&mut pair)?, oid_of(&mut pair)?);
            pair.end()?;
            if [&issuer, &subject].into_iter().any(|policy| &**policy == oid::ANY_POLICY) {
                return Err(DerError::Value("a mapping of anyPolicy"));
            }
            self.mappings.entry(issuer).or_default().insert(subject);
        }
        if self.mappings.is_empty() { Err(DerError::Value("an empty list")) } else { Ok(()) }
    }

    fn constraints(&mut self, der: &[u8]) -> Result<(), DerError> {
        let mut r = der::single(der, tag::SEQUENCE)?.reader();
        self.require_explicit = r.optional(tag::context(0))?.map(skip_certs).transpose()?;
        self.inhibit_mapping = r.optional(tag::context(1))?.map(skip_certs).transpose()?;
        r.end()?;
        if self.require_explicit.is_none() && self.inhibit_mapping.is_none() {
            return Err(DerError::Value("an empty sequence"));
        }
        Ok(())
    }

    fn inhibit_any_policy(&mut self, der: &[u8]) -> Result<(), DerError> {
        self.inhibit_any = Some(skip_certs(der::single(der, tag::INTEGER)?)?);
        Ok(())
    }
}

fn oid_of(r: &mut Reader<'_>) -> Result<Oid, DerError> {
    Ok(r.expect(tag::OID)?.value.into())
}

/// SkipCerts ::= INTEGER (0..MAX); what does not fit is more than any path has.
fn skip_certs(element: der::Element<'_>) -> Result<u32, DerError> {
    let value = der::integer(element)?;
    if value[0] & 0x80 != 0 {
        return Err(DerError::Value("a negative number of certificates"));
    }
    Ok(der::small_integer(element).unwrap_or(u32::MAX))
}

/// A critical extension must be understood with its qualifiers, or the certificate refused (RFC 5280
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
