//! The search for a path: depth first from the certificate upwards, the likeliest issuer first,
//! within bounds that no chain can stretch.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::sync::Arc;

use crate::trust::configurations::{AnchorSet, Authority, Configuration, ConfigurationId};
use crate::trust::index::{Index, key_ids_agree};
use crate::trust::path::checks::{self, Purpose};
use crate::trust::path::webpki;
use crate::trust::refusal::{Code, Refusal};
use crate::trust::revocation::addresses_seen::Look;
use crate::trust::revocation::{CrlMode, Question};
use crate::trust::snapshot::Snapshot;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

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
    /// The configurations that are searched: the snapshot's, of one kind.
    anchors: &'a AnchorSet,
    index: &'a Index,
    presented: &'a [Arc<Certificate>],
    now: Timestamp,
    ledger: RefCell<Ledger>,
}

#[derive(Default)]
struct Ledger {
    nodes: usize,
    paths: usize,
    /// Comparisons of names with constraints that are left.
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
    /// A search among `presented`, leaf first, under the configurations of devices in `snapshot`; with
    /// `explain`, every path is noted.
    pub fn new(
        presented: &'a [Arc<Certificate>],
        snapshot: &'a Snapshot,
        now: Timestamp,
        explain: bool,
    ) -> Self {
        let ledger = RefCell::new(Ledger {
            comparisons: snapshot.policy.max_name_comparisons,
            attempts: explain.then(Vec::new),
            ..Ledger::default()
        });
        let (anchors, index) = (&*snapshot.anchors, snapshot.index());
        Self { snapshot, anchors, index, presented, now, ledger }
    }

    /// The same under the configurations of applications.
    pub fn among_applications(
        presented: &'a [Arc<Certificate>],
        snapshot: &'a Snapshot,
        now: Timestamp,
    ) -> Self {
        let (anchors, index) = (&*snapshot.applications, snapshot.application_index());
        Self { anchors, index, ..Self::new(presented, snapshot, now, false) }
    }

    /// A path from the leaf to an anchor of the configuration with this index: leaf first.
    ///
    /// # Errors
    /// The most telling refusal of all paths tried.
    pub fn path(&self, configuration: usize) -> Result<Vec<Arc<Certificate>>, Refusal> {
        let leaf = self.presented.first();
        let (Some(configuration_of), Some(leaf)) =
            (self.anchors.configurations.get(configuration), leaf)
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
                let detail = format!("a path of more than {max_path} certificates");
                Err(self.dead(goal, path, Refusal::new(Code::PathLength, detail)))
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
        {
            let mut ledger = self.ledger.borrow_mut();
            ledger.paths += 1;
            if ledger.paths > policy.max_paths {
                let detail = format!("none of {} paths to an anchor is good", policy.max_paths);
                return Err(Refusal::new(Code::PathBudget, detail));
            }
            checks::path(path, goal.purpose, self.now, policy, &mut ledger.comparisons)?;
        }
        if goal.purpose == Purpose::ClientAuth {
            webpki::check_with_webpki(path, self.now)?;
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
            let sightings = self.snapshot.sightings.as_deref();
            let look = sightings
                .map_or(Look::None, |sightings| sightings.look(certificate, issuer, self.now));
            let by_directory = self.has_list(goal, issuer);
            let has_address = by_directory || look.has_address();
            let kind = goal.configuration.kind;
            let mode = self.snapshot.crl_mode(kind, &issuer.subject, issuer.key, has_address);
            let checked = self.snapshot.revocations.check(&Question {
                certificate,
                issuer: &issuer.subject,
                issuer_key: issuer.key,
                mode,
                now: self.now,
                signer_is_trusted: &signer_is_trusted,
            });
            // Where the directory names a list, another one is of use only if that does not settle it,
            // as when its issuer spreads them over several.
            let is_unknown = || checked.as_ref().is_err_and(Refusal::is_for_want_of_a_list);
            if let (Some(sightings), Look::New(new)) = (sightings, &look)
                && mode != CrlMode::Off
                && (!by_directory || mode == CrlMode::IfAvailable || is_unknown())
            {
                sightings.note(new, issuer, anchor.fingerprint, self.now);
            }
            checked?;
        }
        Ok(())
    }

    /// The directory names a list of this issuer, which may be presented in another certificate than
    /// the directory's.
    fn has_list(&self, goal: &Goal<'a>, issuer: &Certificate) -> bool {
        self.authorities(goal, &issuer.subject)
            .any(|authority| authority.certificate.key == issuer.key && authority.crl_url.is_some())
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
        let places = self.index.named_in(goal.index, name);
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
mod tests;
