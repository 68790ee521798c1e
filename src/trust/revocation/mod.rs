//! The revocation sets in force, and the check that path validation makes against them.
//!
//! A complete list and its deltas form a series: one issuer, one key, one scope.  The complete list is
//! shared and never copied; a delta is an overlay that is searched first.
//!
//! # Design notes
//! A stale delta, or one that does not fit the complete list, counts only against a certificate.  RFC
//! 5280 section 5.2.4 forbids combining it, so it proves no certificate valid and lifts no hold.  But the
//! certificates that it lists were revoked after the complete list was issued, and a device must not
//! become valid again because a newer delta did not arrive.
//!
//! A complete list that has expired already when it arrives counts against certificates too, and proves
//! none valid.  The list that it replaces decides on until its own nextUpdate, which RFC 5280 section
//! 6.3.3 (a) allows, with the entries of both.  A list that expires later ends the use of all earlier
//! ones: the issuer has said until when its newest data is good.  Only the newest list is on disk.

pub mod addresses_seen;
mod policy;
mod series;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::Arc;

use crate::trust::refusal::{Code, Refusal};
use crate::trust::revocation::series::Series;
use crate::x509::certificate::{Certificate, Fingerprint, GeneralName};
use crate::x509::crl::{self, DistributionPoint, Reason, Reasons, RevocationList};
use crate::x509::name::Name;
use crate::x509::time::{Timestamp, span};

pub use policy::{
    AuthorityPolicy, AuthorityRules, CrlMode, ListPolicy, ListRules, RevocationPolicy, Selector,
};

/// One certificate whose status is checked.
pub struct Question<'a> {
    /// The certificate.
    pub certificate: &'a Certificate,
    /// Its issuer's name in the path.
    pub issuer: &'a Name,
    /// The key that verified the certificate's signature.
    pub issuer_key: Fingerprint,
    /// The trust domain of the configuration.
    pub domain: &'a str,
    /// The mode of its issuer.
    pub mode: CrlMode,
    /// The time of the decision.
    pub now: Timestamp,
    /// Returns true if the certificate of a CRL signer has a valid path to the same anchor (RFC 5280
    /// section 6.3.3 (f)).  Needed for lists that another key than `issuer_key` signed.
    pub signer_is_trusted: &'a dyn Fn(&Certificate) -> bool,
}

/// A list that was fetched and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Names of the issuers that it may belong to; empty if it may belong to any.
    pub issuers: Vec<Name>,
    /// Reason, with the list (or its address) and the rule.
    pub why: String,
}

/// All revocation sets in force.
#[derive(Debug, Default)]
pub struct Revocations {
    by_issuer: HashMap<Name, Vec<Series>>,
    unusable: Vec<Unusable>,
    policy: RevocationPolicy,
}

impl Revocations {
    /// Groups lists by issuer, key and scope.
    pub fn new(lists: impl IntoIterator<Item = Arc<RevocationList>>) -> Self {
        let mut by_issuer: HashMap<Name, Vec<Series>> = HashMap::new();
        for list in lists {
            let of_issuer = by_issuer.entry(list.issuer.clone()).or_default();
            match of_issuer.iter_mut().find(|series| series.any().is_same_series(&list)) {
                Some(series) => series.add(list),
                None => of_issuer.push(Series::of(list)),
            }
        }
        Self { by_issuer, ..Self::default() }
    }

    /// Adds lists that still decide because the list that replaced each of them, the first of each pair, had
    /// already expired when it arrived.  A later list, of another address, ends that.
    #[must_use]
    pub(crate) fn with_earlier(
        mut self,
        pairs: impl IntoIterator<Item = (Arc<RevocationList>, Arc<RevocationList>)>,
    ) -> Self {
        for (newest, earlier) in pairs {
            let of_issuer = self.by_issuer.get_mut(&newest.issuer);
            let is_base = |base: &Arc<RevocationList>| base.is_copy_of(&newest);
            let mut of_issuer = of_issuer.into_iter().flatten();
            if let Some(series) = of_issuer.find(|series| series.base.as_ref().is_some_and(is_base))
            {
                series.earlier.push(earlier);
            }
        }
        self
    }

    /// Replaces the policy, which is the strict default.
    #[must_use]
    pub fn with_policy(self, policy: RevocationPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Adds lists that cannot be used, so that a refusal is `crl_invalid` with the reason.
    #[must_use]
    pub fn with_unusable(self, unusable: Vec<Unusable>) -> Self {
        Self { unusable, ..self }
    }

    /// Returns the rules for lists.
    pub fn policy(&self) -> &RevocationPolicy {
        &self.policy
    }

    /// Returns the lists in force: of each series the latest complete one and its deltas.
    pub fn lists(&self) -> impl Iterator<Item = &Arc<RevocationList>> {
        self.by_issuer
            .values()
            .flatten()
            .flat_map(|series| series.base.iter().chain(&series.deltas))
    }

    /// Returns one certificate of each key that signed a list of this issuer name.
    pub(in crate::trust) fn signers_named(
        &self,
        issuer: &Name,
    ) -> impl Iterator<Item = &Arc<Certificate>> {
        let series = self.by_issuer.get(issuer).into_iter().flatten();
        series.filter_map(|series| series.any().signers.first())
    }

    /// Checks one certificate (RFC 5280 section 6.3.3).  Returns `Ok` if it is not revoked, or if its
    /// authority's mode permits an unknown status.
    ///
    /// A certificate that any list has, of its issuer's name and a trusted signer or of a CRL issuer
    /// that it names, is refused in every mode but `Off`, whatever scope the list states and even if
    /// it is stale: time does not make a revoked certificate valid.
    ///
    /// # Errors
    /// `certificate_revoked`, `certificate_on_hold`; if a list is required, `crl_missing`,
    /// `crl_stale`, `crl_invalid`; `certificate_malformed` for unreadable distribution points.
    pub fn check(&self, question: &Question<'_>) -> Result<(), Refusal> {
        if question.mode == CrlMode::Off {
            return Ok(());
        }
        let mut search = Search {
            question,
            rules: self.policy.of(question.domain, question.issuer, question.issuer_key),
            points: OnceCell::new(),
            covered: Reasons::NONE,
            problem: None,
        };
        // Lists of the issuer's name, then lists of the CRL issuers that the certificate names.  Every
        // one is searched: what one list leaves out does not answer for an entry in another.  Lists of
        // the issuer's own key come first.
        let mut names = vec![question.issuer.clone()];
        names.extend(search.crl_issuers()?);
        for own_key in [true, false] {
            for series in names.iter().filter_map(|name| self.by_issuer.get(name)).flatten() {
                if (series.any().signer_key() == Some(question.issuer_key)) == own_key {
                    search.ask(series)?;
                }
            }
        }
        if search.covered.is_all() || question.mode == CrlMode::IfAvailable {
            return Ok(());
        }
        Err(match search.problem {
            Some(problem) => problem,
            None => self.nothing_found(question),
        })
    }

    fn nothing_found(&self, question: &Question<'_>) -> Refusal {
        let concerns =
            |bad: &&Unusable| bad.issuers.is_empty() || bad.issuers.contains(question.issuer);
        match self.unusable.iter().find(concerns) {
            Some(bad) => Refusal::new(Code::CrlInvalid, bad.why.clone()),
            None => Refusal::new(
                Code::CrlMissing,
                format!("no revocation list of `{}` was ever loaded", question.issuer),
            ),
        }
    }
}

/// Describes why a list does not cover a certificate, with the names of both.
fn describe_scope(list: &RevocationList, certificate: &Certificate) -> String {
    let web = |names: Option<&Vec<GeneralName>>| {
        let names = names.into_iter().flatten().filter_map(addresses_seen::web_address);
        names.take(4).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    };
    let of_list = web(list.scope.as_ref().and_then(|scope| scope.names.as_ref()));
    let points = crl::distribution_points(certificate).unwrap_or_default();
    let of_certificate: Vec<_> = points
        .iter()
        .map(|point| web(point.names.as_ref()))
        .filter(|names| !names.is_empty())
        .take(4)
        .collect();
    let mut out = format!("the list of `{}` does not cover this certificate", list.issuer);
    if !of_list.is_empty() {
        let of_certificate = if of_certificate.is_empty() {
            "has none with a web address".to_owned()
        } else {
            format!("has {}", of_certificate.join(", "))
        };
        out += &format!(
            ": the list is for the distribution point {of_list}, and the certificate \
             {of_certificate}"
        );
    }
    out
}

/// The search for one certificate's status.
struct Search<'q> {
    question: &'q Question<'q>,
    /// Rules for the certificate's issuer.
    rules: &'q ListRules,
    points: OnceCell<Vec<DistributionPoint>>,
    /// Reasons that lists have excluded.
    covered: Reasons,
    /// The most informative reason why the rest is unknown.
    problem: Option<Refusal>,
}

impl Search<'_> {
    /// Returns the certificate's distribution points.  Where no list is required, unreadable ones name
    /// no list.
    fn points(&self) -> Result<&[DistributionPoint], Refusal> {
        if let Some(points) = self.points.get() {
            return Ok(points);
        }
        let points = match crl::distribution_points(self.question.certificate) {
            Ok(points) => points,
            Err(_) if self.question.mode == CrlMode::IfAvailable => Vec::new(),
            Err(why) => {
                let detail = format!("cRLDistributionPoints: {why}");
                return Err(Refusal::new(Code::CertificateMalformed, detail));
            }
        };
        Ok(self.points.get_or_init(|| points))
    }

    /// Returns the cRLIssuer names of the certificate's distribution points, without the issuer's own.
    fn crl_issuers(&self) -> Result<Vec<Name>, Refusal> {
        let names = self.points()?.iter().flat_map(DistributionPoint::crl_issuer_names);
        Ok(names.filter(|name| *name != self.question.issuer).cloned().collect())
    }

    /// Searches one series.  Returns an error if the certificate is listed; else records the reasons
    /// that the series covers, or why it covers none.
    fn ask(&mut self, series: &Series) -> Result<(), Refusal> {
        let question = self.question;
        // Of two authorities with one name, neither list decides for the other (section 6.3.3 (f)).
        // The path of another signer is searched only if its list would change the decision.
        if series.any().signer_key() != Some(question.issuer_key)
            && (!self.covered.is_all() || series.lists(question))
            && !series.any().signers.iter().any(|signer| (question.signer_is_trusted)(signer))
        {
            self.note(Code::CrlMissing, || {
                format!(
                    "the list of `{}` is signed by another key than the certificate's issuer, and \
                     the status of its signer or its path to the same anchor is unknown",
                    series.any().issuer
                )
            });
            return Ok(());
        }
        // An entry counts against the certificate whatever scope the list states.
        self.refuse_if_listed(series)?;
        let reasons = self.in_scope(series.any())?;
        if reasons == Reasons::NONE {
            self.note(Code::CrlMissing, || describe_scope(series.any(), question.certificate));
            return Ok(());
        }
        let Some(base) = &series.base else {
            self.note(Code::CrlMissing, || {
                format!("a delta list of `{}` without a complete one", series.any().issuer)
            });
            return Ok(());
        };
        let now = question.now;
        if base.this_update > now {
            self.note(Code::CrlInvalid, || {
                let (issuer, update) = (&base.issuer, base.this_update);
                format!(
                    "thisUpdate of the list of `{issuer}` is in the future: {update} (now: {now})"
                )
            });
            return Ok(());
        }
        let state = match self.delta_in_force(series, base) {
            // A fresh delta updates even an expired complete list (section 6.3.3 (a)).
            Some(_) => Ok(()),
            None if self.rules.require_delta => Err(Refusal::new(
                Code::CrlStale,
                format!("no fresh delta list of `{}` amends its complete list", base.issuer),
            )),
            None => match self.lateness(base) {
                Err(late) => self.check_earlier(series)?.then_some(()).ok_or(late),
                in_force => in_force,
            },
        };
        match state {
            Ok(()) => self.covered = self.covered.or(reasons),
            Err(refusal) => self.note_refusal(refusal),
        }
        Ok(())
    }

    /// Returns true if an earlier list of the series is fresh, and an error if it has the certificate.
    /// The entries of the expired list, which replaced it, count as well: they were searched before.
    fn check_earlier(&self, series: &Series) -> Result<bool, Refusal> {
        let now = self.question.now;
        let is_fresh = |list: &&RevocationList| {
            list.this_update <= now && list.next_update.is_some_and(|next| now <= next)
        };
        let Some(fresh) = series.earlier.iter().map(|list| &**list).find(is_fresh) else {
            return Ok(false);
        };
        self.refuse_if_listed_in(std::iter::once(fresh))?;
        Ok(true)
    }

    /// Returns an error if a list of the series has the certificate.
    fn refuse_if_listed(&self, series: &Series) -> Result<(), Refusal> {
        let (issuer, serial) = (self.question.issuer, &self.question.certificate.serial);
        if series.any().is_about_attribute_certificates() {
            return Ok(());
        }
        let Some(base) = &series.base else {
            return self.refuse_if_listed_in(series.later_deltas());
        };
        let listed = base.listed(issuer, serial);
        // A clock that was set back does not make a revoked certificate valid.
        let delta = if base.this_update > self.question.now {
            None
        } else {
            self.delta_in_force(series, base)
        };
        match delta.and_then(|delta| delta.listed(issuer, serial)) {
            // Only a hold can be lifted (section 5.3.1).
            Some(Reason::RemoveFromCrl) if listed == Some(Reason::CertificateHold) => {}
            Some(Reason::RemoveFromCrl) | None => self.refuse_if(listed, base)?,
            changed => self.refuse_if(changed, delta.unwrap_or(base))?,
        }
        let number = delta.map(|delta| delta.number);
        let not_combined = series.later_deltas().filter(|delta| Some(delta.number) > number);
        self.refuse_if_listed_in(not_combined)
    }

    /// Returns the delta that amends the complete list now.
    fn delta_in_force<'l>(
        &self,
        series: &'l Series,
        base: &RevocationList,
    ) -> Option<&'l RevocationList> {
        let now = self.question.now;
        series.delta_for(base, |delta| delta.this_update <= now && self.lateness(delta).is_ok())
    }

    /// Returns the reasons that a list covers for the certificate (section 6.3.3 (b), (d)).
    fn in_scope(&self, list: &RevocationList) -> Result<Reasons, Refusal> {
        if list.scope.is_none() && list.issuer == *self.question.issuer {
            return Ok(Reasons::ALL);
        }
        let scope = list.scope.as_ref();
        let certificate = self.question.certificate;
        let at =
            |point: &DistributionPoint| point.covered_reasons(certificate, &list.issuer, scope);
        Ok(self.points()?.iter().map(at).fold(Reasons::NONE, Reasons::or))
    }

    /// Returns an error if nextUpdate is further in the past than the grace.
    fn lateness(&self, list: &RevocationList) -> Result<(), Refusal> {
        let now = self.question.now;
        let Some(next_update) = list.next_update else {
            return if self.rules.without_next_update {
                Ok(())
            } else {
                let issuer = &list.issuer;
                let detail =
                    format!("the list of `{issuer}` has no nextUpdate, so it is never fresh");
                Err(Refusal::new(Code::CrlInvalid, detail))
            };
        };
        let grace = self.rules.grace;
        if now <= next_update.after(grace) {
            return Ok(());
        }
        Err(Refusal::new(
            Code::CrlStale,
            format!(
                "the list of `{}` was due for renewal at {next_update}, {} ago; {} are allowed",
                list.issuer,
                span(now.since(next_update)),
                span(grace)
            ),
        ))
    }

    fn refuse_if_listed_in<'l>(
        &self,
        lists: impl Iterator<Item = &'l RevocationList>,
    ) -> Result<(), Refusal> {
        for list in lists {
            let listed = list.listed(self.question.issuer, &self.question.certificate.serial);
            self.refuse_if(listed.filter(|reason| *reason != Reason::RemoveFromCrl), list)?;
        }
        Ok(())
    }

    fn refuse_if(&self, listed: Option<Reason>, list: &RevocationList) -> Result<(), Refusal> {
        let (code, state) = match listed {
            None => return Ok(()),
            Some(Reason::CertificateHold) => (Code::CertificateOnHold, "on hold"),
            Some(_) => (Code::CertificateRevoked, "revoked"),
        };
        let certificate = self.question.certificate;
        let reason = listed.unwrap_or(Reason::Unspecified);
        let number = list.number.map(|number| format!(" {number}")).unwrap_or_default();
        Err(Refusal::new(
            code,
            format!(
                "certificate `{}`, serial {}, is {state} ({reason}) by {}list{number} of `{}` of {}",
                certificate.subject,
                certificate.serial_hex(),
                if list.is_delta() { "delta " } else { "" },
                list.issuer,
                list.this_update,
            ),
        ))
    }

    fn note(&mut self, code: Code, detail: impl FnOnce() -> String) {
        if self.problem.as_ref().is_none_or(|problem| problem.code < code) {
            self.problem = Some(Refusal::new(code, detail()));
        }
    }

    fn note_refusal(&mut self, refusal: Refusal) {
        self.problem = Some(match self.problem.take() {
            Some(problem) => problem.best(refusal),
            None => refusal,
        });
    }
}
