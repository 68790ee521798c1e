//! Descriptions of chains without a path, for refusals.

use std::sync::Arc;

use crate::trust::path::search::{Goal, Search};
use crate::x509::certificate::Certificate;

impl<'a> Search<'a> {
    /// Describes why nothing issued `last`, the end of `path`.
    pub(super) fn why_no_issuer(
        &self,
        goal: &Goal<'a>,
        path: &[Arc<Certificate>],
        last: &Certificate,
    ) -> String {
        let (Certificate { subject, issuer, .. }, id) = (last, goal.configuration);
        let mut same_name = self.authorities(goal, issuer).map(|authority| &authority.certificate);
        if subject == issuer {
            return if !same_name.any(|configured| configured.key == last.key) {
                format!("root `{subject}` is not in configuration {id}")
            } else if path.len() == 1 {
                misplaced_authority(self.presented)
            } else {
                format!("`{subject}` is in configuration {id} and ends no path")
            };
        }
        if same_name.next().is_some() || self.presented.iter().skip(1).any(|c| c.subject == *issuer)
        {
            return format!(
                "no path leads past `{subject}`: its issuer `{issuer}` is already in it"
            );
        }
        let sent = self.sent;
        format!(
            "authority `{issuer}`, which issued `{subject}`, is neither in configuration {id} nor \
             among the presented certificates ({sent} were sent)"
        )
    }
}

/// Describes a chain whose first certificate is an authority.
pub fn misplaced_authority(presented: &[Arc<Certificate>]) -> String {
    let Some((first, rest)) = presented.split_first() else { return String::new() };
    let what = if rest.iter().any(|other| other.issuer == first.subject) {
        "the chain is in reverse order: "
    } else {
        ""
    };
    format!(
        "{what}the first certificate, `{}`, is the authority itself; the certificate of the client \
         comes first",
        first.subject
    )
}
