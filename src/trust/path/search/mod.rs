//! Bounded search for a path: depth first from the certificate towards an anchor, the likeliest
//! issuer first.  The bounds do not depend on the presented chain.

mod describe;
mod revocation;
mod signed;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::sync::Arc;

use crate::trust::configurations::{Authority, Configuration, ConfigurationId};
use crate::trust::index::{Index, key_ids_agree};
use crate::trust::path::checks::{self, Purpose};
use crate::trust::path::{signature, webpki};
use crate::trust::refusal::{Code, Refusal};
use crate::trust::snapshot::Snapshot;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

pub use describe::misplaced_authority;
pub use signed::Signed;

/// Largest number of attempts in an explanation.
pub(crate) const MAX_ATTEMPTS: usize = 64;

/// Path that was tried, with its result.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Configuration of the search.
    pub configuration: ConfigurationId,
    /// Leaf first, up to the last issuer that was tried.
    pub path: Vec<Arc<Certificate>>,
    /// `None` if the path was accepted.
    pub refusal: Option<Refusal>,
}

/// Path search for one decision and trust domain, with its inputs and the budget it has used.  Each
/// domain has a budget of its own, so that the authorities of one cannot use up another's.
pub(crate) struct Search<'a> {
    snapshot: &'a Snapshot,
    /// Index of the configurations of one kind, from the snapshot.
    index: &'a Index,
    presented: &'a [Arc<Certificate>],
    /// Number of certificates that the peer sent.
    sent: usize,
    now: Timestamp,
    state: RefCell<State>,
}

/// Mutable state of a search.
#[derive(Default)]
struct State {
    /// Number of candidates tried.
    nodes: usize,
    /// Number of complete paths checked.
    paths: usize,
    /// Remaining budget of comparisons of names with constraints.
    comparisons: usize,
    /// Results of signature verifications by key and certificate, shared by all paths and
    /// configurations of the decision.
    signatures: Vec<((Fingerprint, Fingerprint), Result<(), Refusal>)>,
    /// Number of failed verifications that count towards the bound.
    failed_signatures: usize,
    /// Cost of the verifications with keys that only the peer presents.
    presented_cost: usize,
    /// Certificates for which an authority of the directory failed.
    failed_by_directory: Vec<Fingerprint>,
    /// CRL signers whose paths are being searched, outermost first.
    signers: Vec<Fingerprint>,
    /// The bound that ended the search for the path of a CRL signer.
    undecided_signer: Option<Refusal>,
    /// Presented certificates of paths whose signatures are all valid.
    signed: Vec<Fingerprint>,
    /// A signature was verified that had not been before.
    has_new_signature: bool,
    attempts: Option<Vec<Attempt>>,
}

/// Target of one search.
#[derive(Clone, Copy)]
struct Goal<'g> {
    /// Position of the configuration in its list.
    position: usize,
    configuration: &'g ConfigurationId,
    domain: &'g str,
    authorities: &'g [Authority],
    purpose: Purpose,
    /// If set, the path must end at this anchor.
    anchor: Option<Fingerprint>,
}

/// Reason why an anchor was not reached.
enum Failure {
    /// This path is refused.  Other issuers may succeed.
    DeadEnd(Refusal),
    /// A bound of the search is reached.  No other issuer is tried.
    BudgetExceeded(Refusal),
}

struct Candidate {
    certificate: Arc<Certificate>,
    is_anchor: bool,
    /// From the directory, not from the peer.
    is_configured: bool,
}

impl<'a> Search<'a> {
    /// Creates a search with `presented`, leaf first, under the device configurations of
    /// `snapshot`.  With `explain`, every path that is tried is recorded.
    pub fn new(
        presented: &'a [Arc<Certificate>],
        snapshot: &'a Snapshot,
        now: Timestamp,
        explain: bool,
    ) -> Self {
        let state = RefCell::new(State {
            comparisons: snapshot.policy.max_name_comparisons,
            attempts: explain.then(Vec::new),
            ..State::default()
        });
        let (index, sent) = (snapshot.index(), presented.len());
        Self { snapshot, index, presented, sent, now, state }
    }

    /// Sets the number of certificates that the peer sent, if it sent more than are searched.
    #[must_use]
    pub(crate) fn of_sent(self, sent: usize) -> Self {
        Self { sent, ..self }
    }

    /// Like [`Search::new`], under the application configurations of `snapshot`.
    pub(crate) fn among_applications(
        presented: &'a [Arc<Certificate>],
        snapshot: &'a Snapshot,
        now: Timestamp,
    ) -> Self {
        let index = snapshot.application_index();
        Self { index, ..Self::new(presented, snapshot, now, false) }
    }

    /// Returns a path, leaf first, from the leaf to an anchor of `configuration`, which has this
    /// position in the list of its kind.
    ///
    /// # Errors
    /// Returns the most informative refusal of all paths that were tried.
    pub fn path<K>(
        &self,
        position: usize,
        configuration: &'a Configuration<K>,
    ) -> Result<Vec<Arc<Certificate>>, Refusal> {
        let Some(leaf) = self.presented.first() else {
            return Err(Refusal::new(Code::ChainUntrusted, "the chain is missing"));
        };
        let goal = Goal {
            position,
            configuration: &configuration.id,
            domain: &configuration.domain,
            authorities: &configuration.authorities,
            purpose: Purpose::ClientAuth,
            anchor: None,
        };
        self.find_path(&goal, leaf)
    }

    /// Returns the paths that were tried, in order.
    pub(crate) fn into_attempts(self) -> Vec<Attempt> {
        self.state.into_inner().attempts.unwrap_or_default()
    }

    /// Returns what the search learned about signatures.
    pub(crate) fn into_signed(self) -> Signed {
        let State { signed, has_new_signature, .. } = self.state.into_inner();
        Signed { certificates: signed, has_new_signature }
    }

    fn find_path(
        &self,
        goal: &Goal<'a>,
        target: &Arc<Certificate>,
    ) -> Result<Vec<Arc<Certificate>>, Refusal> {
        let mut path = vec![Arc::clone(target)];
        match self.extend(goal, &mut path) {
            Ok(()) => Ok(path),
            Err(Failure::DeadEnd(refusal) | Failure::BudgetExceeded(refusal)) => Err(refusal),
        }
    }

    /// Extends `path`, whose last certificate is not an anchor, to an anchor.
    fn extend(&self, goal: &Goal<'a>, path: &mut Vec<Arc<Certificate>>) -> Result<(), Failure> {
        let max_path = self.snapshot.policy.max_path;
        let last = Arc::clone(&path[path.len() - 1]);
        let mut best: Option<Refusal> = None;
        for candidate in self.candidates(goal, path, &last) {
            self.count_candidate()?;
            path.push(Arc::clone(&candidate.certificate));
            let tried = if path.len() > max_path {
                let detail = format!("the path has more than {max_path} certificates");
                Err(self.dead_end(goal, path, Refusal::new(Code::PathLength, detail)))
            } else {
                self.try_issuer(goal, path, &last, &candidate)
            };
            match tried {
                Ok(()) => return Ok(()),
                Err(Failure::BudgetExceeded(refusal)) => {
                    return Err(Failure::BudgetExceeded(refusal));
                }
                Err(Failure::DeadEnd(refusal)) => {
                    best = Some(match best {
                        Some(earlier) => earlier.best(refusal),
                        None => refusal,
                    });
                }
            }
            path.pop();
        }
        Err(Failure::DeadEnd(best.unwrap_or_else(|| {
            let detail = self.why_no_issuer(goal, path, &last);
            let refusal = Refusal::new(Code::ChainUntrusted, detail);
            self.record(goal, path, Some(&refusal));
            refusal
        })))
    }

    /// Tries the last certificate of `path` as the issuer of `below`.
    fn try_issuer(
        &self,
        goal: &Goal<'a>,
        path: &mut Vec<Arc<Certificate>>,
        below: &Certificate,
        candidate: &Candidate,
    ) -> Result<(), Failure> {
        let issuer = &candidate.certificate;
        // Cheap checks come before the signature.
        let checked = if candidate.is_anchor {
            checks::check_anchor(issuer, goal.purpose, self.now, &self.snapshot.policy)
        } else {
            checks::check_authority(issuer, goal.purpose, self.now)
        };
        checked.map_err(|refusal| self.dead_end(goal, path, refusal))?;
        self.verify_signature(below, candidate).map_err(|failure| match failure {
            Failure::DeadEnd(refusal) => self.dead_end(goal, path, refusal),
            exceeded => exceeded,
        })?;
        if !candidate.is_anchor {
            return self.extend(goal, path);
        }
        self.record_signed(path);
        let result = self.check_complete_path(goal, path);
        self.record(goal, path, result.as_ref().err());
        result.map_err(|refusal| match refusal.code {
            Code::PathBudget => Failure::BudgetExceeded(refusal),
            _ => Failure::DeadEnd(refusal),
        })
    }

    /// Validates a path that ends at an anchor.
    fn check_complete_path(
        &self,
        goal: &Goal<'a>,
        path: &[Arc<Certificate>],
    ) -> Result<(), Refusal> {
        let policy = &self.snapshot.policy;
        {
            let mut state = self.state.borrow_mut();
            state.paths += 1;
            if state.paths > policy.max_paths {
                let detail =
                    format!("the first {} paths to an anchor are not valid", policy.max_paths);
                return Err(Refusal::new(Code::PathBudget, detail));
            }
            checks::check_path(path, goal.purpose, self.now, policy, &mut state.comparisons)?;
        }
        if goal.purpose == Purpose::ClientAuth {
            webpki::check_with_webpki(path, self.now)?;
        }
        self.check_revocation(goal, path)
    }

    /// Returns the certificates that may have issued `last`, the likeliest first.
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
            found.push(Candidate {
                certificate: Arc::clone(certificate),
                is_anchor,
                is_configured: true,
            });
        }
        for certificate in self.presented.iter().skip(1).filter(|c| issuer_is(c)) {
            if !found.iter().any(|c| c.certificate.fingerprint == certificate.fingerprint) {
                found.push(Candidate {
                    certificate: Arc::clone(certificate),
                    is_anchor: false,
                    is_configured: false,
                });
            }
        }
        // Each (name, key) occurs at most once in a path.  Repeating one only lengthens the path.
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
            // The directory's authorities come before presented ones, unless the key identifiers
            // say that they did not sign.
            (
                distance == 2,
                !candidate.is_configured,
                distance,
                !candidate.is_anchor,
                !it.is_valid_at(self.now),
                Reverse(it.not_after),
            )
        });
        found
    }

    /// Returns the authorities of the configuration with this name.
    fn authorities(&self, goal: &Goal<'a>, name: &Name) -> impl Iterator<Item = &'a Authority> {
        let authorities = goal.authorities;
        let positions = self.index.by_name_in(goal.position, name);
        positions.iter().filter_map(|position| authorities.get(position.authority))
    }

    fn verify_signature(
        &self,
        certificate: &Certificate,
        candidate: &Candidate,
    ) -> Result<(), Failure> {
        let issuer = &*candidate.certificate;
        let pair = (issuer.key, certificate.fingerprint);
        let mut state = self.state.borrow_mut();
        if let Some((_, result)) = state.signatures.iter().find(|(verified, _)| *verified == pair) {
            return result.clone().map_err(Failure::DeadEnd);
        }
        let policy = &self.snapshot.policy;
        let exceeded =
            |detail: String| Err(Failure::BudgetExceeded(Refusal::new(Code::PathBudget, detail)));
        let (max, max_failed) = (policy.max_signatures, policy.max_failed_signatures);
        let max_cost = policy.max_presented_cost;
        if state.signatures.len() >= max {
            return exceeded(format!("no path was found within {max} signature verifications"));
        }
        if state.failed_signatures >= max_failed {
            return exceeded(format!(
                "{max_failed} signatures of presented certificates are invalid"
            ));
        }
        if !candidate.is_configured {
            // Counted although a result may be remembered, so that the decision does not depend on it.
            state.presented_cost = state.presented_cost.saturating_add(signature::cost(issuer));
            if state.presented_cost > max_cost {
                return exceeded(format!(
                    "verification with the presented keys, up to that of `{}`, costs more than \
                     {max_cost} verifications with ECDSA P-256; add the authorities of the path to \
                     the directory",
                    issuer.subject
                ));
            }
        }
        let (result, is_remembered) = self.snapshot.signatures.verify(certificate, issuer);
        state.has_new_signature |= !is_remembered;
        if result.is_err() {
            let counted = candidate.is_configured
                && state.failed_by_directory.contains(&certificate.fingerprint);
            if candidate.is_configured && !counted {
                state.failed_by_directory.push(certificate.fingerprint);
            }
            state.failed_signatures += usize::from(!counted);
        }
        state.signatures.push((pair, result.clone()));
        result.map_err(Failure::DeadEnd)
    }

    fn count_candidate(&self) -> Result<(), Failure> {
        let mut state = self.state.borrow_mut();
        state.nodes += 1;
        let max = self.snapshot.policy.max_nodes;
        if state.nodes <= max {
            return Ok(());
        }
        let detail = format!("no path was found within {max} issuers");
        Err(Failure::BudgetExceeded(Refusal::new(Code::PathBudget, detail)))
    }

    /// Records the presented certificates of a path whose signatures are all valid.
    fn record_signed(&self, path: &[Arc<Certificate>]) {
        let signed = &mut self.state.borrow_mut().signed;
        for certificate in self.presented.iter().skip(1) {
            let it = certificate.fingerprint;
            if path.iter().any(|c| c.fingerprint == it) && !signed.contains(&it) {
                signed.push(it);
            }
        }
    }

    /// Records a refused path and returns the failure.
    fn dead_end(&self, goal: &Goal<'a>, path: &[Arc<Certificate>], refusal: Refusal) -> Failure {
        self.record(goal, path, Some(&refusal));
        Failure::DeadEnd(refusal)
    }

    /// Records an attempt, if an explanation was requested.
    fn record(&self, goal: &Goal<'a>, path: &[Arc<Certificate>], refusal: Option<&Refusal>) {
        if goal.purpose != Purpose::ClientAuth {
            return;
        }
        if let Some(attempts) = &mut self.state.borrow_mut().attempts
            && attempts.len() < MAX_ATTEMPTS
        {
            attempts.push(Attempt {
                configuration: goal.configuration.clone(),
                path: path.to_vec(),
                refusal: refusal.cloned(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
