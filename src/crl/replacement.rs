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
    /// The signing key is not one of these authorities', as the key of the list in force is.
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

/// Decides whether `new` may come into force at `now`, in place of those lists of `in_force` that it
/// replaces.  Returns false if it is in force already.
pub(super) fn accept<'l>(
    expected: &Expected,
    in_force: impl IntoIterator<Item = &'l Arc<RevocationList>>,
    new: &RevocationList,
    now: Timestamp,
) -> Result<bool, Rejected> {
    if new.is_delta() && !expected.delta {
        return Err(Rejected::Delta);
    }
    if !may_hold(expected, new) {
        return Err(Rejected::Issuer { found: new.issuer.to_string() });
    }
    let mut is_new = true;
    for old in in_force.into_iter().filter(|old| replaces(expected, new, old)) {
        is_not_older(expected, old, new, now)?;
        is_new &= !new.is_copy_of(old);
    }
    Ok(is_new)
}

/// Returns true if the address may have lists of this issuer.  An indirect list carries its own issuer's
/// name.  Each use checks whether that issuer is trusted.
pub(super) fn may_hold(expected: &Expected, list: &RevocationList) -> bool {
    list.scope.as_ref().is_some_and(|scope| scope.indirect) || expected.names(&list.issuer)
}

/// Returns true if `new` takes the place of `old`, which otherwise stays in force beside it.
///
/// An issuer has one list at an address, also after a change of its key.  Authorities of different trust
/// domains that only share a name are different issuers: the list of one does not end the other's.  Of all
/// issuers that do not name the address, there is one list.
pub(super) fn replaces(expected: &Expected, new: &RevocationList, old: &RevocationList) -> bool {
    if new.issuer != old.issuer {
        return !expected.names(&new.issuer) && !expected.names(&old.issuer);
    }
    let (of_new, of_old) = (expected.domains(new), expected.domains(old));
    of_new.is_empty() || of_old.is_empty() || !of_new.is_disjoint(&of_old)
}

/// Returns an error if `new` may not replace `old`.
fn is_not_older(
    expected: &Expected,
    old: &RevocationList,
    new: &RevocationList,
    now: Timestamp,
) -> Result<(), Rejected> {
    let has_expected_key = |list: &RevocationList| !expected.domains(list).is_empty();
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
    Ok(())
}

/// Returns the list that decides on while `new`, which replaces the lists of `old`, is expired already when
/// it arrives: a fresh one of them.  A list that expires later, while it is in force, ends the time of its
/// series: the issuer said until when its newest data is good.
pub(super) fn still_fresh<'l>(
    new: &RevocationList,
    old: impl IntoIterator<Item = &'l Arc<RevocationList>>,
    now: Timestamp,
) -> Option<Arc<RevocationList>> {
    let is_fresh = |list: &RevocationList| {
        list.this_update <= now && list.next_update.is_some_and(|next| now <= next)
    };
    if new.is_delta() || new.next_update.is_none_or(|next| now <= next) {
        return None;
    }
    let mut usable = old.into_iter().filter(|list| {
        let is_earlier = !list.is_delta() && list.this_update <= new.this_update;
        is_earlier && list.is_same_series(new) && is_fresh(list)
    });
    usable.next().cloned()
}
