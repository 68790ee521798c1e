//! The rules by which a list replaces the one in force.

use std::sync::Arc;

use crate::crl::targets::Expected;
use crate::x509::crl::{CrlNumber, RevocationList};
use crate::x509::time::Timestamp;

/// Reasons to reject a list that is readable and correctly signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// A delta at an address of complete lists.
    #[error("the list is a delta, and a complete list is expected at this address")]
    Delta,
    /// The issuer is not one of the authorities that name the address.
    #[error("the issuer `{found}` is not an authority that names this address")]
    Issuer {
        /// Issuer of the list.
        found: String,
    },
    /// The signing key is neither the one of the list in force nor one of these authorities.
    #[error("the list is signed by another key than the list in force")]
    Key,
    /// cRLNumber decreases (RFC 5280 section 5.2.3), as in a replayed list.
    #[error("cRLNumber {found} is below {in_force}, the number of the list in force")]
    NumberWentDown {
        /// Number of the list in force.
        in_force: String,
        /// Number of the new list.
        found: String,
    },
    /// thisUpdate decreases.
    #[error("thisUpdate {found} is before {in_force}, the time of the list in force")]
    Older {
        /// Time of the list in force.
        in_force: Timestamp,
        /// Time of the new list.
        found: Timestamp,
    },
}

/// Decides whether `new` may replace `old` at `now`.  Returns false if both are the same list.
pub(super) fn accept(
    expected: &Expected,
    old: Option<&RevocationList>,
    new: &RevocationList,
    now: Timestamp,
) -> Result<bool, Rejected> {
    if new.is_delta() && !expected.delta {
        return Err(Rejected::Delta);
    }
    // An indirect list carries its own issuer's name.  Each use checks whether that issuer is trusted.
    let indirect = new.scope.as_ref().is_some_and(|scope| scope.indirect);
    if !indirect && !expected.authorities.iter().any(|authority| authority.name == new.issuer) {
        return Err(Rejected::Issuer { found: new.issuer.to_string() });
    }
    let Some(old) = old else { return Ok(true) };
    let has_expected_key = |list: &RevocationList| {
        let key = list.signer_key();
        expected.authorities.iter().any(|authority| Some(authority.key) == key)
    };
    if has_expected_key(old) && !has_expected_key(new) {
        return Err(Rejected::Key);
    }
    let same_series = old.is_same_series(new) && old.is_delta() == new.is_delta();
    if same_series && new.number < old.number {
        let text = |number: Option<CrlNumber>| match number {
            Some(number) => number.to_string(),
            None => "(none)".to_owned(),
        };
        let (in_force, found) = (text(old.number), text(new.number));
        return Err(Rejected::NumberWentDown { in_force, found });
    }
    // This also applies to a list of another scope or key.  Otherwise an attacker on the network path
    // could use such a list as a step to restore any old one.  A list of the future was accepted while the
    // clock ran ahead.  It is set aside; its number still counts.
    if new.this_update < old.this_update && old.this_update <= now {
        return Err(Rejected::Older { in_force: old.this_update, found: new.this_update });
    }
    Ok(!new.is_copy_of(old))
}

/// Returns the list that decides on while `new`, which replaces `old`, is expired already when it
/// arrives: a fresh one of `old` and of `earlier`.  A list that expires later, while it is in force, ends
/// the time of its series: the issuer said until when its newest data is good.
pub(super) fn still_fresh(
    new: &RevocationList,
    old: Option<&Arc<RevocationList>>,
    earlier: Option<&Arc<RevocationList>>,
    now: Timestamp,
) -> Option<Arc<RevocationList>> {
    let is_fresh = |list: &RevocationList| {
        list.this_update <= now && list.next_update.is_some_and(|next| now <= next)
    };
    if new.is_delta() || new.next_update.is_none_or(|next| now <= next) {
        return None;
    }
    let candidates = [old, earlier].into_iter().flatten();
    let mut usable = candidates.filter(|list| {
        let is_earlier = !list.is_delta() && list.this_update <= new.this_update;
        is_earlier && list.is_same_series(new) && is_fresh(list)
    });
    usable.next().cloned()
}
