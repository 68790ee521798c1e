//! Selects the client of a device's request.

use crate::token::denied::Denied;
use crate::token::policy::TokenPolicy;
use crate::token::terms::Terms;
use crate::trust::judge::devices::Verified;
use crate::trust::refusal::{Code, Refusal};
use crate::trust::subject::SubjectId;

/// A device whose certificate and `client_id` are accepted.  Only [`select`] creates it.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    pub(super) verified: &'a Verified,
    pub(super) client_id: &'a str,
    pub(super) terms: &'a Terms,
}

/// Selects the only candidate that may use `client_id`.
///
/// `candidates` are the verdicts of the judge: the same certificate under each configuration that
/// accepts it.
///
/// # Errors
/// The codes `client_unknown`, `client_mismatch` and `configuration_ambiguous`, or a missing
/// `client_id`.
pub fn select<'a>(
    candidates: &'a [Verified],
    client_id: Option<&str>,
    policy: &'a TokenPolicy,
) -> Result<Selected<'a>, Denied> {
    let own = |verified: &'a Verified| {
        // The resulting client_id counts, not the request's spelling of it.
        if !policy.may_be_own_client(verified.subject()) {
            return None;
        }
        let terms = policy.own_terms()?;
        Some(Selected { verified, client_id: verified.subject().as_str(), terms })
    };
    let (mut matches, code_if_empty): (Vec<Selected<'a>>, _) = match client_id {
        None if policy.client_id_required() => {
            return Err(Denied::InvalidRequest("client_id is missing".to_owned()));
        }
        None => (candidates.iter().filter_map(own).collect(), Code::ClientUnknown),
        // No device may use the `client_id` of an application, whatever its certificate contains.
        Some(id) if policy.application(id).is_some() => (Vec::new(), Code::ClientMismatch),
        // A configured client_id belongs to that client.  It never matches a subject ID.
        Some(id) if let Some(client) = policy.client(id) => {
            let covered = candidates.iter().filter(|verified| client.covers(verified));
            let of = |verified| Selected { verified, client_id: &client.id, terms: &client.terms };
            (covered.map(of).collect(), Code::ClientMismatch)
        }
        Some(id) => {
            let is_subject = |v: &&Verified| {
                SubjectId::parse(v.subject().field(), id).is_ok_and(|id| id == *v.subject())
            };
            let named: Vec<_> = candidates.iter().filter(is_subject).collect();
            let reserved = named.iter().any(|v| !policy.may_be_own_client(v.subject()));
            let code = if reserved { Code::ClientMismatch } else { Code::ClientUnknown };
            (named.into_iter().filter_map(own).collect(), code)
        }
    };
    // Candidates are in the operator's order of trust domains: the first domain decides, so that no
    // configuration of another one makes a device ambiguous.
    if let Some(first) = matches.first().map(|first| first.verified.domain()) {
        matches.retain(|other| other.verified.domain() == first);
    }
    let requested = || {
        client_id.map_or("a request without client_id".to_owned(), |id| format!("client_id `{id}`"))
    };
    match matches[..] {
        [one] => Ok(one),
        [] => {
            let detail = format!("{} does not match {}", requested(), list(candidates));
            Err(Refusal::new(code_if_empty, detail).into())
        }
        _ => {
            let several = matches.iter().map(|one| one.verified);
            let detail = format!("{} matches several: {}", requested(), list(several));
            Err(Refusal::new(Code::ConfigurationAmbiguous, detail).into())
        }
    }
}

fn list<'a>(candidates: impl IntoIterator<Item = &'a Verified>) -> String {
    let name = |v: &Verified| format!("`{}` of `{}`", v.subject(), v.configuration());
    candidates.into_iter().map(name).collect::<Vec<_>>().join(", ")
}
