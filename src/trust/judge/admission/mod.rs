//! The decision at the end of a handshake: whether to continue, and which of the presented
//! certificates later decisions need.
//!
//! # Design notes
//! A peer may present certificates that cost a decision much and lead nowhere.  A connection therefore
//! keeps the leaf and the presented certificates of paths whose signatures are all valid.  Requests
//! search among these and the directory's authorities, so that an invalid signature of a presented
//! certificate is verified in the handshake and never at a request.  Keeping too little can only
//! refuse: a device with another path has to connect again.

use std::sync::Arc;

use crate::trust::judge::applications::{reach, search};
use crate::trust::judge::devices::{UnverifiedChain, judge_and_list_signed};
use crate::trust::path::search::{Search, Signed};
use crate::trust::refusal::Refusal;
use crate::trust::snapshot::Snapshot;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

/// Verdict on a presented chain.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Ok if some configuration, of devices or of applications, accepts the chain.  The judge of its
    /// kind decides on each request.
    pub verdict: Result<(), Refusal>,
    /// The part of the chain that later decisions need.
    pub kept: Arc<UnverifiedChain>,
    /// Every signature had been verified before.
    pub is_known: bool,
}

/// Decides whether to continue a handshake.  A refusal is the most informative one of all paths that
/// were tried.
pub fn admit(chain: &Arc<UnverifiedChain>, snapshot: &Snapshot, now: Timestamp) -> Admission {
    let (mut verdict, mut signed) = judge_and_list_signed(chain, snapshot, now);
    // A chain without other certificates cannot be reduced.
    if verdict.is_err() || chain.certificates().len() > 1 {
        let (by_application, of_applications) = admit_application(chain, snapshot, now);
        signed.add(of_applications);
        verdict = match (verdict, by_application) {
            (Ok(()), _) | (_, Some(Ok(()))) => Ok(()),
            (Err(refusal), Some(Err(other))) => Err(refusal.best(other)),
            (Err(refusal), None) => Err(refusal),
        };
    }
    let kept = reduce(chain, &signed.certificates, verdict.as_ref().err());
    Admission { verdict, kept, is_known: !signed.has_new_signature }
}

/// Returns the decision under the application configurations that may have issued the chain, if there
/// are any, and what it learned about signatures.
fn admit_application(
    chain: &UnverifiedChain,
    snapshot: &Snapshot,
    now: Timestamp,
) -> (Option<Result<(), Refusal>>, Signed) {
    let (mut decision, mut searches) = (None, Vec::<(&str, Search<'_>)>::new());
    let certificates = chain.certificates().iter().map(AsRef::as_ref);
    for place in snapshot.application_index().candidates(&snapshot.applications, certificates) {
        let configuration = &snapshot.applications.configurations[place];
        // Each trust domain has a budget of its own.
        let known = searches.iter().position(|(domain, _)| **domain == *configuration.domain);
        let of_domain = known.unwrap_or_else(|| {
            searches.push((&configuration.domain, search(chain, snapshot, now)));
            searches.len() - 1
        });
        let reached = reach(&searches[of_domain].1, place, configuration, chain);
        decision = Some(match (decision, reached) {
            (Some(Ok(())), _) | (_, Ok(())) => Ok(()),
            (Some(Err(earlier)), Err(other)) => Err(Refusal::best(earlier, other)),
            (None, Err(refusal)) => Err(refusal),
        });
    }
    let mut signed = Signed::default();
    searches.into_iter().for_each(|(_, search)| signed.add(search.into_signed()));
    (decision, signed)
}

/// Leaves out the certificates that no path needs.
fn reduce(
    chain: &Arc<UnverifiedChain>,
    signed: &[Fingerprint],
    refusal: Option<&Refusal>,
) -> Arc<UnverifiedChain> {
    let keeps = |certificate: &Certificate| signed.contains(&certificate.fingerprint);
    if chain.certificates().iter().skip(1).all(|certificate| keeps(certificate)) {
        return Arc::clone(chain);
    }
    Arc::new(chain.reduced(keeps, refusal))
}

#[cfg(test)]
mod tests;
