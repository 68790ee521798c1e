//! Revocation on a complete path: its certificates, its anchor, and the signers of lists.

use std::sync::Arc;

use crate::trust::path::checks::Purpose;
use crate::trust::path::search::{Candidate, Failure, Goal, Search};
use crate::trust::refusal::Refusal;
use crate::trust::revocation::addresses_seen::{Named, SeenAddresses};
use crate::trust::revocation::{CrlMode, Question};
use crate::x509::certificate::{Certificate, Fingerprint};

/// Largest nesting of searches for the paths of CRL signers.
const MAX_SIGNER_DEPTH: usize = 3;

impl<'a> Search<'a> {
    /// Checks revocation from the anchor down (section 6.1.3 (a) (3)).
    pub(super) fn check_revocation(
        &self,
        goal: &Goal<'a>,
        path: &[Arc<Certificate>],
    ) -> Result<(), Refusal> {
        let Some(anchor) = path.last() else { return Ok(()) };
        let signer_is_trusted =
            |signer: &Certificate| self.is_signer_trusted(goal, anchor.fingerprint, signer);
        for pair in path.windows(2).rev() {
            let [certificate, issuer] = pair else { continue };
            let observer = self.snapshot.address_observer.as_deref();
            let named = observer.map_or(Named::Nothing, |observer| {
                Named::by(certificate, issuer, observer, self.now)
            });
            let by_directory = self.has_crl_url(goal, issuer);
            let has_address = by_directory || named.has_address();
            let domain = goal.domain;
            let mode = self.snapshot.crl_mode(domain, &issuer.subject, issuer.key, has_address);
            let checked = self.snapshot.revocations.check(&Question {
                certificate,
                issuer: &issuer.subject,
                issuer_key: issuer.key,
                domain,
                mode,
                now: self.now,
                signer_is_trusted: &signer_is_trusted,
            });
            // If the directory names a list, lists from certificates are useful only if that one
            // does not decide, for example because the issuer splits its list.
            let is_unknown = || checked.as_ref().is_err_and(Refusal::is_revocation_unknown);
            if let (Some(observer), Named::New(values)) = (observer, &named)
                && mode != CrlMode::Off
                && (!by_directory || mode == CrlMode::IfAvailable || is_unknown())
            {
                let (issuer, now) = (Arc::clone(issuer), self.now);
                let (points, freshest) = (values.points, values.freshest);
                let anchor = anchor.fingerprint;
                // Unreadable values name no address that could be fetched.
                if let Ok(seen) = SeenAddresses::new(issuer, anchor, points, freshest, now) {
                    observer.record(seen.in_domain(domain));
                }
            }
            checked?;
            // A peer that uses up the budget must not disable the list of a delegated signer.
            if let Some(refusal) = self.state.borrow().undecided_signer.clone() {
                return Err(refusal);
            }
        }
        self.check_anchor_revocation(goal, anchor, &signer_is_trusted)
    }

    /// Checks an anchor that another authority issued against the lists at hand.  Its issuer's key is
    /// one that signed such a list and verifies the anchor.
    fn check_anchor_revocation(
        &self,
        goal: &Goal<'a>,
        anchor: &Arc<Certificate>,
        signer_is_trusted: &dyn Fn(&Certificate) -> bool,
    ) -> Result<(), Refusal> {
        if anchor.issuer == anchor.subject {
            return Ok(());
        }
        let domain = goal.domain;
        for signer in self.snapshot.revocations.signers_named(&anchor.issuer) {
            let issuer = Candidate {
                certificate: Arc::clone(signer),
                is_anchor: false,
                is_configured: true,
            };
            match self.verify_signature(anchor, &issuer) {
                Ok(()) => {}
                Err(Failure::DeadEnd(_)) => continue,
                Err(Failure::BudgetExceeded(refusal)) => return Err(refusal),
            }
            // An anchor needs no list: an unknown status refuses nothing.
            let mode = match self.snapshot.crl_mode(domain, &anchor.issuer, signer.key, false) {
                CrlMode::Off => CrlMode::Off,
                CrlMode::Require | CrlMode::IfAvailable => CrlMode::IfAvailable,
            };
            self.snapshot.revocations.check(&Question {
                certificate: anchor,
                issuer: &anchor.issuer,
                issuer_key: signer.key,
                domain,
                mode,
                now: self.now,
                signer_is_trusted,
            })?;
        }
        Ok(())
    }

    /// Returns true if the directory names a list of this issuer.  Authorities are compared by key,
    /// because the peer may present another certificate of the issuer than the directory has.
    fn has_crl_url(&self, goal: &Goal<'a>, issuer: &Certificate) -> bool {
        self.authorities(goal, &issuer.subject)
            .any(|authority| authority.certificate.key == issuer.key && authority.crl_url.is_some())
    }

    /// Returns true if this CRL signer has a path to the same anchor.
    fn is_signer_trusted(
        &self,
        goal: &Goal<'a>,
        anchor: Fingerprint,
        signer: &Certificate,
    ) -> bool {
        if signer.fingerprint == anchor {
            return true;
        }
        {
            let mut state = self.state.borrow_mut();
            let signers = &mut state.signers;
            if signers.last() == Some(&signer.fingerprint) {
                // The status of the signer is on the list that it signs, for example because one
                // signer signs all lists of an authority.  The outer search already proves its
                // path, and every other list that covers the signer is checked as well.
                return true;
            }
            if signers.len() >= MAX_SIGNER_DEPTH {
                return false;
            }
            signers.push(signer.fingerprint);
        }
        let goal = Goal { purpose: Purpose::CrlSigning, anchor: Some(anchor), ..*goal };
        let reached = self.extend(&goal, &mut vec![Arc::new(signer.clone())]);
        let mut state = self.state.borrow_mut();
        state.signers.pop();
        match reached {
            Ok(()) => true,
            Err(Failure::DeadEnd(_)) => false,
            Err(Failure::BudgetExceeded(refusal)) => {
                state.undecided_signer = Some(refusal);
                false
            }
        }
    }
}
