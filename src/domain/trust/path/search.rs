//! The search for a path: depth first from the certificate upwards, the likeliest issuer first,
//! within bounds that no chain can stretch.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::sync::Arc;

use crate::domain::cert::{Certificate, Fingerprint};
use crate::domain::name::Name;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::time::Timestamp;
use crate::domain::trust::anchors::{Authority, Configuration, ConfigurationId};
use crate::domain::trust::path::checks::{self, Purpose};
use crate::domain::trust::path::index::key_ids_agree;
use crate::domain::trust::path::second;
use crate::domain::trust::revocations::{CrlMode, Question};
use crate::domain::trust::snapshot::Snapshot;

/// Paths that an explanation keeps.
pub const MAX_ATTEMPTS: usize = 64;
/// Signers of revocation lists whose own path is looked for while another's is.
const MAX_SIGNER_DEPTH: usize = 3;

/// One path that was tried, and what ended it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Under which configuration.
    pub configuration: ConfigurationId,
    /// Leaf first, as far as it went.
    pub path: Vec<Arc<Certificate>>,
    /// `None`: it was accepted.
    pub refusal: Option<Refusal>,
}

/// One decision: what it is made from and what it has used up.
pub struct Search<'a> {
    snapshot: &'a Snapshot,
    presented: &'a [Arc<Certificate>],
    now: Timestamp,
    ledger: RefCell<Ledger>,
}

#[derive(Default)]
struct Ledger {
    nodes: usize,
    comparisons: usize,
    /// What became of the signatures of this decision, by key and certificate, so that no path and no
    /// configuration pays for one again.
    checked: Vec<((Fingerprint, Fingerprint), Result<(), Refusal>)>,
    /// CRL signers whose paths are being looked for.
    signers: Vec<Fingerprint>,
    attempts: Option<Vec<Attempt>>,
}

/// What one search is for.
#[derive(Clone, Copy)]
struct Goal<'g> {
    index: usize,
    configuration: &'g Configuration,
    purpose: Purpose,
    /// Only this anchor will do.
    anchor: Option<Fingerprint>,
}

/// How an attempt to reach an anchor ended, if not by reaching it.
enum End {
    /// Other issuers may do.
    Dead(Refusal),
    /// The bounds are reached; no other issuer is tried.
    Spent(Refusal),
}

struct Candidate {
    certificate: Arc<Certificate>,
    is_anchor: bool,
}

impl<'a> Search<'a> {
    /// A search among `presented`, leaf first, under `snapshot`; with `explain`, every path is noted.
    pub fn new(
        presented: &'a [Arc<Certificate>],
        snapshot: &'a Snapshot,
        now: Timestamp,
        explain: bool,
    ) -> Self {
        let attempts = explain.then(Vec::new);
        let ledger = RefCell::new(Ledger { attempts, ..Ledger::default() });
        Self { snapshot, presented, now, ledger }
    }

    /// A path from the leaf to an anchor of the configuration with this index: leaf first.
    ///
    /// # Errors
    /// The most telling refusal of all paths tried.
    pub fn path(&self, configuration: usize) -> Result<Vec<Arc<Certificate>>, Refusal> {
        let leaf = self.presented.first();
        let (Some(configuration_of), Some(leaf)) =
            (self.snapshot.anchors.configurations.get(configuration), leaf)
        else {
            return Err(Refusal::new(Code::ChainUntrusted, "nothing to judge"));
        };
        let goal = Goal {
            index: configuration,
            configuration: configuration_of,
            purpose: Purpose::ClientAuth,
            anchor: None,
        };
        self.reach(&goal, leaf)
    }

    /// The paths that were tried, in order.
    pub fn into_attempts(self) -> Vec<Attempt> {
        self.ledger.into_inner().attempts.unwrap_or_default()
    }

    fn reach(
        &self,
        goal: &Goal<'a>,
        target: &Arc<Certificate>,
    ) -> Result<Vec<Arc<Certificate>>, Refusal> {
        let mut path = vec![Arc::clone(target)];
        match self.extend(goal, &mut path) {
            Ok(()) => Ok(path),
            Err(End::Dead(refusal) | End::Spent(refusal)) => Err(refusal),
        }
    }

    /// Grows `path`, whose last certificate is no anchor, to an anchor.
    fn extend(&self, goal: &Goal<'a>, path: &mut Vec<Arc<Certificate>>) -> Result<(), End> {
        let max_path = self.snapshot.policy.max_path;
        let last = Arc::clone(&path[path.len() - 1]);
        let mut best: Option<Refusal> = None;
        for candidate in self.candidates(goal, path, &last) {
            self.spend_node()?;
            path.push(Arc::clone(&candidate.certificate));
            let tried = if path.len() > max_path {
                Err(End::Dead(Refusal::new(
                    Code::PathLength,
                    format!("a path of more than {max_path} certificates"),
                )))
            } else {
                self.step(goal, path, &last, &candidate)
            };
            match tried {
                Ok(()) => return Ok(()),
                Err(End::Spent(refusal)) => return Err(End::Spent(refusal)),
                Err(End::Dead(refusal)) => {
                    best = Some(match best {
                        Some(earlier) => earlier.best(refusal),
                        None => refusal,
                    });
                }
            }
            path.pop();
        }
        Err(End::Dead(best.unwrap_or_else(|| {
            let refusal = Refusal::new(
                Code::ChainUntrusted,
                format!(
                    "no authority `{}`, which issued `{}`, is among the anchors of configuration {} \
                     or the certificates presented",
                    last.issuer, last.subject, goal.configuration.id
                ),
            );
            self.note(goal, path, Some(&refusal));
            refusal
        })))
    }

    /// Tries the candidate that was just put on the path as issuer of the one before it.
    fn step(
        &self,
        goal: &Goal<'a>,
        path: &mut Vec<Arc<Certificate>>,
        below: &Certificate,
        candidate: &Candidate,
    ) -> Result<(), End> {
        let issuer = &candidate.certificate;
        // What costs nothing comes before the signature.
        let suitable = if candidate.is_anchor {
            checks::as_anchor(issuer, goal.purpose, self.now, &self.snapshot.policy)
        } else {
            checks::as_authority(issuer, goal.purpose, self.now)
        };
        suitable.map_err(|refusal| self.dead(goal, path, refusal))?;
        self.signature(below, issuer).map_err(|end| match end {
            End::Dead(refusal) => self.dead(goal, path, refusal),
            spent => spent,
        })?;
        if !candidate.is_anchor {
            return self.extend(goal, path);
        }
        let judged = self.complete(goal, path);
        self.note(goal, path, judged.as_ref().err());
        judged.map_err(|refusal| match refusal.code {
            Code::PathBudget => End::Spent(refusal),
            _ => End::Dead(refusal),
        })
    }

    /// Judges a path that reaches an anchor.
    fn complete(&self, goal: &Goal<'a>, path: &[Arc<Certificate>]) -> Result<(), Refusal> {
        let policy = &self.snapshot.policy;
        let used = self.ledger.borrow().comparisons;
        let mut left = policy.max_name_comparisons.saturating_sub(used);
        let judged = checks::path(path, goal.purpose, self.now, policy, &mut left);
        self.ledger.borrow_mut().comparisons =
            policy.max_name_comparisons - left.min(policy.max_name_comparisons);
        judged?;
        if goal.purpose == Purpose::ClientAuth {
            second::opinion(path, self.now)?;
        }
        self.revocation(goal, path)
    }

    /// Section 6.1.3 (a) (3), from the anchor down.
    fn revocation(&self, goal: &Goal<'a>, path: &[Arc<Certificate>]) -> Result<(), Refusal> {
        let Some(anchor) = path.last() else { return Ok(()) };
        let signer_is_trusted =
            |signer: &Certificate| self.signer(goal, anchor.fingerprint, signer);
        for pair in path.windows(2).rev() {
            let [certificate, issuer] = pair else { continue };
            self.snapshot.revocations.check(&Question {
                certificate,
                issuer: &issuer.subject,
                issuer_key: issuer.key,
                mode: self.crl_mode(goal, issuer),
                now: self.now,
                signer_is_trusted: &signer_is_trusted,
            })?;
        }
        Ok(())
    }

    fn crl_mode(&self, goal: &Goal<'a>, issuer: &Certificate) -> CrlMode {
        let policy = &self.snapshot.policy;
        if let Some(mode) = policy.crl {
            return mode;
        }
        // The same authority may be presented in another certificate than the directory's.
        let has_list = self.authorities(goal, &issuer.subject).any(|authority| {
            authority.certificate.key == issuer.key && authority.crl_url.is_some()
        });
        if has_list || policy.require_crl { CrlMode::Require } else { CrlMode::Off }
    }

    /// Whether this signer of a revocation list has a path to the same anchor.
    fn signer(&self, goal: &Goal<'a>, anchor: Fingerprint, signer: &Certificate) -> bool {
        if signer.fingerprint == anchor {
            return true;
        }
        {
            let mut ledger = self.ledger.borrow_mut();
            let signers = &mut ledger.signers;
            if signers.last() == Some(&signer.fingerprint) {
                // Its own status is on the list that it signs, as when an authority leaves all its
                // lists to one signer.  What is being shown above needs no second showing, and
                // every other list that speaks of it is asked as well.
                return true;
            }
            if signers.len() >= MAX_SIGNER_DEPTH {
                return false;
            }
            signers.push(signer.fingerprint);
        }
        let goal = Goal { purpose: Purpose::CrlSigning, anchor: Some(anchor), ..*goal };
        let reached = self.reach(&goal, &Arc::new(signer.clone())).is_ok();
        self.ledger.borrow_mut().signers.pop();
        reached
    }

    /// Certificates that may have issued `last`, the likeliest first.
    fn candidates(
        &self,
        goal: &Goal<'a>,
        path: &[Arc<Certificate>],
        last: &Certificate,
    ) -> Vec<Candidate> {
        let issuer_is = |certificate: &Certificate| certificate.subject == last.issuer;
        let mut found: Vec<Candidate> = Vec::new();
        for authority in self.authorities(goal, &last.issuer) {
            let certificate = &authority.certificate;
            let may_end = authority.is_root || self.snapshot.policy.intermediate_anchors;
            let is_anchor =
                may_end && goal.anchor.is_none_or(|anchor| anchor == certificate.fingerprint);
            found.push(Candidate { certificate: Arc::clone(certificate), is_anchor });
        }
        for certificate in self.presented.iter().skip(1).filter(|c| issuer_is(c)) {
            if !found.iter().any(|c| c.certificate.fingerprint == certificate.fingerprint) {
                found.push(Candidate { certificate: Arc::clone(certificate), is_anchor: false });
            }
        }
        // One key under one name once: what is gained by passing it twice is only length.
        found.retain(|candidate| {
            !path.iter().any(|c| {
                c.key == candidate.certificate.key && c.subject == candidate.certificate.subject
            })
        });
        found.sort_by_cached_key(|candidate| {
            let it = &candidate.certificate;
            let distance = match key_ids_agree(last, it) {
                Some(true) => 0,
                None => 1,
                Some(false) => 2,
            };
            (distance, !candidate.is_anchor, !it.is_valid_at(self.now), Reverse(it.not_after))
        });
        found
    }

    /// The configuration's authorities of that name.
    fn authorities(&self, goal: &Goal<'a>, name: &Name) -> impl Iterator<Item = &'a Authority> {
        let authorities = &goal.configuration.authorities;
        let places = self.snapshot.index().named_in(goal.index, name);
        places.iter().filter_map(|place| authorities.get(place.authority))
    }

    fn signature(&self, certificate: &Certificate, issuer: &Certificate) -> Result<(), End> {
        let pair = (issuer.key, certificate.fingerprint);
        let mut ledger = self.ledger.borrow_mut();
        if let Some((_, result)) = ledger.checked.iter().find(|(checked, _)| *checked == pair) {
            return result.clone().map_err(End::Dead);
        }
        let max = self.snapshot.policy.max_signatures;
        if ledger.checked.len() >= max {
            let detail = format!("no path within {max} signatures");
            return Err(End::Spent(Refusal::new(Code::PathBudget, detail)));
        }
        let result = self.snapshot.signatures.verify(certificate, issuer);
        ledger.checked.push((pair, result.clone()));
        result.map_err(End::Dead)
    }

    fn spend_node(&self) -> Result<(), End> {
        let mut ledger = self.ledger.borrow_mut();
        ledger.nodes += 1;
        let max = self.snapshot.policy.max_nodes;
        if ledger.nodes <= max {
            return Ok(());
        }
        let detail = format!("no path within {max} issuers tried");
        Err(End::Spent(Refusal::new(Code::PathBudget, detail)))
    }

    fn dead(&self, goal: &Goal<'a>, path: &[Arc<Certificate>], refusal: Refusal) -> End {
        self.note(goal, path, Some(&refusal));
        End::Dead(refusal)
    }

    fn note(&self, goal: &Goal<'a>, path: &[Arc<Certificate>], refusal: Option<&Refusal>) {
        if goal.purpose != Purpose::ClientAuth {
            return;
        }
        if let Some(attempts) = &mut self.ledger.borrow_mut().attempts
            && attempts.len() < MAX_ATTEMPTS
        {
            attempts.push(Attempt {
                configuration: goal.configuration.id.clone(),
                path: path.to_vec(),
                refusal: refusal.cloned(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::subject::SubjectField;
    use crate::domain::trust::anchors::{AnchorSet, Devices};
    use crate::domain::trust::path::forge::{self, Key, NOW, Spec, cn};
    use crate::domain::trust::revocations::Revocations;
    use crate::domain::trust::snapshot::TrustPolicy;

    fn key(n: usize) -> &'static Key {
        Key::number(n)
    }

    /// The authority `name` with key `own`, signed by `issuer`'s key `by`.
    fn authority(name: &str, own: usize, issuer: &str, by: usize) -> Vec<u8> {
        Spec::authority(cn(name), cn(issuer)).sign(key(own), key(by))
    }

    fn root(name: &str, own: usize) -> Vec<u8> {
        authority(name, own, name, own)
    }

    fn device(issuer: &str, by: usize) -> Vec<u8> {
        Spec::device(cn("device"), cn(issuer)).sign(key(15), key(by))
    }

    fn read(der: &[u8]) -> Arc<Certificate> {
        Arc::new(Certificate::from_der(der).expect("a certificate"))
    }

    /// One configuration with these roots and intermediates.
    fn snapshot(roots: &[Vec<u8>], intermediates: &[Vec<u8>], policy: TrustPolicy) -> Snapshot {
        let authority = |der: &Vec<u8>, is_root| Authority {
            certificate: read(der),
            is_root,
            crl_url: None,
            delta_crl_url: None,
        };
        let configuration = Configuration {
            id: "fleet".into(),
            display_name: String::new(),
            subject_field: SubjectField::SubjectDn,
            devices: Devices::Any,
            authorities: roots
                .iter()
                .map(|der| authority(der, true))
                .chain(intermediates.iter().map(|der| authority(der, false)))
                .collect(),
        };
        let anchors = AnchorSet { configurations: vec![configuration], skipped: Vec::new() };
        Snapshot::new(
            1,
            Arc::new(anchors),
            Arc::new(Revocations::default()),
            Arc::new(policy),
            Arc::default(),
        )
    }

    /// The names of the path found, or the refusal's code.
    fn search(snapshot: &Snapshot, chain: &[Vec<u8>]) -> Result<Vec<String>, Code> {
        let presented: Vec<_> = chain.iter().map(|der| read(der)).collect();
        let search = Search::new(&presented, snapshot, Timestamp(NOW), false);
        let names =
            |path: Vec<Arc<Certificate>>| path.iter().map(|c| c.subject.to_string()).collect();
        search.path(0).map(names).map_err(|refusal| refusal.code)
    }

    fn found(snapshot: &Snapshot, chain: &[Vec<u8>]) -> bool {
        search(snapshot, chain).is_ok()
    }

    #[test]
    fn order_duplicates_and_strangers_do_not_matter() {
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        let (a, b) = (authority("A", 1, "R", 0), authority("B", 2, "A", 1));
        let leaf = device("B", 2);
        let path = Ok(["CN=device", "CN=B", "CN=A", "CN=R"].map(String::from).to_vec());
        assert_eq!(search(&of, &[leaf.clone(), b.clone(), a.clone()]), path);
        let mixed =
            [leaf.clone(), a.clone(), root("X", 9), root("R", 0), a, leaf.clone(), b.clone(), b];
        assert_eq!(search(&of, &mixed), path);
        assert_eq!(search(&of, &[leaf]), Err(Code::ChainUntrusted));
    }

    #[test]
    fn intermediates_of_the_directory_are_material_and_no_anchors() {
        let (a, leaf) = (authority("A", 1, "R", 0), device("A", 1));
        let with_root = snapshot(&[root("R", 0)], std::slice::from_ref(&a), TrustPolicy::default());
        assert_eq!(search(&with_root, std::slice::from_ref(&leaf)).map(|path| path.len()), Ok(3));
        let alone = |policy| snapshot(&[], std::slice::from_ref(&a), policy);
        let chain = [leaf];
        assert_eq!(search(&alone(TrustPolicy::default()), &chain), Err(Code::ChainUntrusted));
        let switched = TrustPolicy { intermediate_anchors: true, ..TrustPolicy::default() };
        assert_eq!(search(&alone(switched), &chain).map(|path| path.len()), Ok(2));
    }

    #[test]
    fn a_cross_signed_authority_is_followed_to_the_root_that_is_trusted() {
        let of = snapshot(&[root("New", 1)], &[], TrustPolicy::default());
        let chain = [device("A", 2), authority("A", 2, "Old", 0), authority("A", 2, "New", 1)];
        assert_eq!(search(&of, &chain).map(|path| path[2].clone()), Ok("CN=New".into()));
    }

    #[test]
    fn loops_end() {
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        let (a, b) = (authority("A", 1, "B", 2), authority("B", 2, "A", 1));
        assert_eq!(search(&of, &[device("A", 1), a.clone(), b.clone()]), Err(Code::ChainUntrusted));
        // The way out of the loop is found.
        assert!(found(&of, &[device("A", 1), a, b, authority("B", 2, "R", 0)]));
    }

    #[test]
    fn an_expired_twin_is_passed_over() {
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        let old = Spec::authority(cn("A"), cn("R"))
            .valid("200101000000Z", "210101000000Z")
            .sign(key(1), key(0));
        let new = authority("A", 1, "R", 0);
        assert!(found(&of, &[device("A", 1), old.clone(), new]));
        assert_eq!(search(&of, &[device("A", 1), old]), Err(Code::AuthorityExpired));
    }

    #[test]
    fn a_hundred_namesakes_are_told_apart_by_key() {
        let keys: Vec<Key> = (0..100).map(|_| Key::generate()).collect();
        let roots = |with_ids: bool| -> Vec<Vec<u8>> {
            let root = |own: &Key| {
                let spec = Spec::authority(cn("Root"), cn("Root"));
                if with_ids { spec.key_ids(own, own) } else { spec }.sign(own, own)
            };
            keys.iter().map(root).collect()
        };
        let (last, a) = (&keys[99], key(1));
        let chain = [
            Spec::device(cn("device"), cn("A")).key_ids(key(15), a).sign(key(15), a),
            Spec::authority(cn("A"), cn("Root")).key_ids(a, last).sign(a, last),
        ];
        let told = snapshot(&roots(true), &[], TrustPolicy::default());
        assert_eq!(search(&told, &chain).map(|path| path.len()), Ok(3));
        assert_eq!(told.signatures.len(), 2, "the key identifiers lead straight to the right one");
        // Without identifiers it takes a signature each, and that is within the bounds.
        assert!(found(&snapshot(&roots(false), &[], TrustPolicy::default()), &chain));
        let tight = TrustPolicy { max_signatures: 50, ..TrustPolicy::default() };
        assert_eq!(search(&snapshot(&roots(false), &[], tight), &chain), Err(Code::PathBudget));
    }

    #[test]
    fn what_a_chain_can_cost_is_bounded() {
        // Every authority is certified by every key of the next level: 4^8 paths, and no root.
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        let mut chain = vec![device("L0", 1)];
        for level in 0..8 {
            for twin in 0..4 {
                let spec =
                    Spec::authority(cn(&format!("L{level}")), cn(&format!("L{}", level + 1)));
                chain.push(spec.serial(&[1 + twin]).sign(key(1 + level), key(2 + level)));
            }
        }
        let refused = search(&of, &chain);
        assert!(matches!(refused, Err(Code::PathBudget | Code::ChainUntrusted)), "{refused:?}");
        let few = TrustPolicy { max_nodes: 5, ..TrustPolicy::default() };
        let of = snapshot(&[root("R", 0)], &[], few);
        assert_eq!(search(&of, &chain), Err(Code::PathBudget));
    }

    #[test]
    fn a_path_has_at_most_so_many_certificates() {
        let chain_of = |intermediates: usize| {
            let mut chain = vec![device(&format!("L{intermediates}"), intermediates)];
            for level in (1..=intermediates).rev() {
                chain.push(authority(
                    &format!("L{level}"),
                    level,
                    &format!("L{}", level - 1),
                    level - 1,
                ));
            }
            chain
        };
        let of = snapshot(&[root("L0", 0)], &[], TrustPolicy::default());
        assert!(found(&of, &chain_of(8)));
        assert_eq!(search(&of, &chain_of(9)), Err(Code::PathLength));
    }

    #[test]
    fn self_issued_authorities_do_not_count_for_path_lengths() {
        let roll = |own: usize, by: usize| authority("A", own, "A", by);
        let top = Spec::authority(cn("A"), cn("R")).path_length(0).sign(key(1), key(0));
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        assert!(found(&of, &[device("A", 2), roll(2, 1), top.clone()]));
        assert_eq!(
            search(&of, &[device("B", 3), authority("B", 3, "A", 1), top]),
            Err(Code::PathLength)
        );
    }

    #[test]
    fn anchors_are_judged_as_the_operator_says() {
        let leaf = [device("R", 0)];
        let strict = TrustPolicy::default;
        let lax = || TrustPolicy { anchor_validity: false, anchor_constraints: false, ..strict() };
        let spec = || Spec::authority(cn("R"), cn("R"));
        let mut version_1 = Spec::new(cn("R"), cn("R"));
        version_1.version = 1;
        for (root, code) in [
            (spec().valid("200101000000Z", "210101000000Z"), Code::AuthorityExpired),
            (spec().without(forge::BASIC_CONSTRAINTS), Code::AuthorityNotCa),
            (version_1, Code::AuthorityNotCa),
            (spec().with(forge::KEY_USAGE, true, forge::key_usage(&[0, 6])), Code::KeyUsage),
        ] {
            let root = [root.sign(key(0), key(0))];
            assert_eq!(search(&snapshot(&root, &[], strict()), &leaf), Err(code));
            assert!(found(&snapshot(&root, &[], lax()), &leaf), "{code}");
        }
    }

    #[test]
    fn an_anchor_identifies_nobody() {
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        assert_eq!(search(&of, &[root("R", 0)]), Err(Code::ChainUntrusted));
    }

    #[test]
    fn names_chain_whatever_their_case_and_string_type() {
        let of = snapshot(&[root("Iot  root", 0)], &[], TrustPolicy::default());
        let issuer = forge::name(&[(forge::CN, 0x13, " IOT ROOT")]);
        let leaf = Spec::device(cn("device"), issuer).sign(key(15), key(0));
        assert!(found(&of, &[leaf]));
    }

    #[test]
    fn the_most_telling_refusal_wins() {
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        let expired = Spec::device(cn("device"), cn("A"))
            .valid("200101000000Z", "210101000000Z")
            .sign(key(15), key(1));
        let forged = authority("A", 1, "R", 7);
        let good = authority("A", 1, "R", 0);
        assert_eq!(search(&of, &[expired.clone(), forged.clone()]), Err(Code::SignatureInvalid));
        assert_eq!(search(&of, &[expired, forged, good]), Err(Code::CertificateExpired));
    }

    #[test]
    fn an_explanation_has_every_path() {
        let of = snapshot(&[root("R", 0)], &[], TrustPolicy::default());
        let chain = [device("A", 1), authority("A", 1, "X", 5), authority("A", 1, "R", 0)];
        let presented: Vec<_> = chain.iter().map(|der| read(der)).collect();
        let search = Search::new(&presented, &of, Timestamp(NOW), true);
        assert!(search.path(0).is_ok());
        let ends: Vec<_> = search
            .into_attempts()
            .into_iter()
            .map(|a| (a.path.len(), a.refusal.map(|r| r.code)))
            .collect();
        assert_eq!(ends, [(2, Some(Code::ChainUntrusted)), (3, None)]);
    }
}
