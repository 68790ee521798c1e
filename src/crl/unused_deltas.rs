//! Deltas that amend no complete list because their scope differs (RFC 5280 section 5.2.4).
//!
//! The entries of such a delta count against certificates all the same, but it proves none valid and lifts
//! no hold, so the operator must hear of it.

use std::sync::Arc;

use tracing::warn;

use crate::crl::address_state::AddressState;
use crate::crl::source::Source;
use crate::crl::status::Status;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::text::Cleaned;
use crate::trust::revocation::addresses_seen::web_address;
use crate::x509::crl::{OnlyContains, RevocationList};
use crate::x509::name::Name;

/// Names of a distribution point in a message.
const MAX_NAMES: usize = 4;

impl Source {
    /// Notes which deltas of `issuer` amend no complete list in force, after a list of it changed.
    pub(super) fn note_unused_deltas(&mut self, issuer: &Name) {
        let in_force = self.addresses.values().flat_map(AddressState::in_force);
        let lists: Vec<Arc<RevocationList>> =
            in_force.filter(|list| list.issuer == *issuer).cloned().collect();
        for (address, state) in &mut self.addresses {
            let mut changed = false;
            for held in state.lists.iter_mut().filter(|held| held.list.issuer == *issuer) {
                let unused = unused(&held.list, &lists);
                if held.unused == unused {
                    continue;
                }
                if let Some(why) = &unused {
                    warn!(crl.address = %Cleaned(address), "delta CRL not combined: {}", Cleaned(why));
                    audit(address, why);
                }
                held.unused = unused;
                changed = true;
            }
            if changed {
                self.statuses.put(address, Status::of(address, state));
            }
        }
    }
}

/// Describes why `delta` amends none of `lists`, if its issuer has complete lists and all of them have
/// another scope.
fn unused(delta: &RevocationList, lists: &[Arc<RevocationList>]) -> Option<String> {
    let is_base =
        |list: &&Arc<RevocationList>| !list.is_delta() && list.signer_key() == delta.signer_key();
    let mut bases = lists.iter().filter(is_base);
    let first = bases.clone().next().filter(|_| delta.is_delta())?;
    if bases.any(|base| base.is_same_series(delta)) {
        return None;
    }
    Some(format!(
        "the scope of the delta ({}) differs from the scope of the complete list ({}); its entries count \
         against certificates, and it lifts no hold and renews no list",
        describe(delta),
        describe(first)
    ))
}

/// Describes the scope of a list.
fn describe(list: &RevocationList) -> String {
    let Some(scope) = &list.scope else { return "no issuingDistributionPoint".to_owned() };
    let names = scope.names.iter().flatten().take(MAX_NAMES);
    let mut parts: Vec<String> = names
        .map(|name| match web_address(name) {
            Some(address) => format!("`{address}`"),
            None => "a name without a web address".to_owned(),
        })
        .collect();
    match scope.only {
        OnlyContains::All => {}
        OnlyContains::User => parts.push("user certificates".to_owned()),
        OnlyContains::Authority => parts.push("authority certificates".to_owned()),
        OnlyContains::Attribute => parts.push("attribute certificates".to_owned()),
    }
    if scope.reasons.is_some() {
        parts.push("some reasons".to_owned());
    }
    if scope.indirect {
        parts.push("indirect".to_owned());
    }
    parts.join(", ")
}

fn audit(address: &str, why: &str) {
    Record {
        action: Some("change"),
        detail: Some(why),
        object_type: Some("certificateRevocationList"),
        object: Some(address),
        ..Record::new(Event::Trust, Outcome::Changed)
    }
    .emit();
}
