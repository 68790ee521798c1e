//! Applies the results of fetches to the state of their address.

use std::sync::Arc;

use tracing::{error, info, warn};

use crate::crl::Config;
use crate::crl::address_state::{AddressState, HeldList};
use crate::crl::copies::LoadedCopy;
use crate::crl::fetch::{FetchFailure, FetchResult};
use crate::crl::metrics::{Metrics, Outcome as FetchOutcome};
use crate::crl::replacement::{self, Rejected};
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::text::Cleaned;
use crate::trust::assembly::ListState;
use crate::x509::crl::RevocationList;
use crate::x509::time::Timestamp;

/// Applies the result of a fetch to the state of its address.  Returns the update for the publisher.
pub(super) fn apply(
    address: &str,
    state: &mut AddressState,
    result: FetchResult,
    now: Timestamp,
    config: &Config,
    metrics: &Metrics,
) -> Option<Vec<ListState>> {
    match result {
        FetchResult::Loaded(found) => {
            state.loaded = true;
            let is_first = state.lists.is_empty();
            let mut changed = false;
            for LoadedCopy { list, metadata, key } in found {
                let accepted = replacement::accept(
                    &state.expected,
                    state.in_force(),
                    &list,
                    Timestamp(i64::MAX),
                );
                // A list that was fetched meanwhile may be newer than the copy.
                if accepted != Ok(true) {
                    continue;
                }
                info!(crl.address = %Cleaned(address), crl.entries = list.entries(), "CRL loaded from disk");
                metrics.tolerated.count("list", &list.issuer, &list.tolerated);
                if is_first {
                    state.validators = metadata.validators;
                    state.fetched = Some(Timestamp(metadata.fetched));
                    state.from_disk = true;
                }
                take_replaced(state, &list, false);
                state.lists.push(HeldList::new(list, Some(key)));
                changed = true;
            }
            changed.then(|| state.states())
        }
        FetchResult::Unchanged { location, validators, max_age, copied } => {
            metrics.fetched(address, FetchOutcome::Unchanged);
            if let Some(saved) = copied {
                let held = state.lists.iter_mut().find(|held| held.list.is_copy_of(&saved.list));
                held.into_iter().for_each(|held| held.copy = Some(Arc::clone(&saved.key)));
            }
            state.location = location;
            state.validators = validators;
            state.succeeded(now, max_age, &config.timing);
            None
        }
        // Its issuer stopped to name the address during the fetch.
        FetchResult::New { list, .. } if !replacement::may_hold(&state.expected, &list) => {
            let failure = Rejected::Issuer { found: list.issuer.to_string() }.into();
            apply_failure(address, state, failure, now, config, metrics)
        }
        FetchResult::New {
            list,
            location,
            validators,
            max_age,
            copy,
            accept_rollback,
            received: _,
        } => {
            metrics.fetched(address, FetchOutcome::New);
            metrics.tolerated.count("list", &list.issuer, &list.tolerated);
            state.location = location;
            state.validators = validators;
            put_in_force(address, state, HeldList::new(list, copy), accept_rollback, now);
            state.succeeded(now, max_age, &config.timing);
            Some(state.states())
        }
        FetchResult::Failed(failure) => {
            apply_failure(address, state, failure, now, config, metrics)
        }
    }
}

/// Puts a fetched list in the place of the ones that it replaces.
fn put_in_force(
    address: &str,
    state: &mut AddressState,
    mut new: HeldList,
    accept_rollback: bool,
    now: Timestamp,
) {
    let list = &new.list;
    info!(
        crl.address = %Cleaned(address),
        crl.number = list.number.map(tracing::field::display),
        crl.entries = list.entries(),
        "CRL updated"
    );
    let replaced = take_replaced(state, list, accept_rollback);
    if let Some(old) = replaced.iter().find(|old| old.list.this_update > now) {
        audit_set_aside(address, &old.list, list, now);
    }
    let old = replaced.iter().flat_map(|old| [Some(&old.list), old.earlier.as_ref()]).flatten();
    new.earlier = replacement::still_fresh(list, old, now);
    if let Some(earlier) = &new.earlier {
        warn!(
            crl.address = %Cleaned(address),
            "CRL had expired when it arrived: its entries count, and the list of {} decides until its \
             nextUpdate",
            earlier.this_update
        );
    }
    state.lists.push(new);
}

/// Removes the lists that `new` replaces from the state, and returns them.  An operator who accepts a
/// rollback also ends the list of an issuer that does not name the address.
fn take_replaced(
    state: &mut AddressState,
    new: &RevocationList,
    accept_rollback: bool,
) -> Vec<HeldList> {
    let expected = &state.expected;
    let is_replaced = |held: &mut HeldList| {
        replacement::replaces(expected, new, &held.list)
            || (accept_rollback && !expected.names(&held.list.issuer))
    };
    state.lists.extract_if(.., is_replaced).collect()
}

/// Records that a present list replaces one of the future, which a clock that ran ahead had accepted.
fn audit_set_aside(address: &str, old: &RevocationList, new: &RevocationList, now: Timestamp) {
    let detail = format!(
        "the list of {} is set aside because its thisUpdate is in the future (now: {now}); the list of \
         {} is in force",
        old.this_update, new.this_update
    );
    Record {
        action: Some("change"),
        detail: Some(&detail),
        object_type: Some("certificateRevocationList"),
        object: Some(address),
        ..Record::new(Event::Trust, Outcome::Changed)
    }
    .emit();
}

/// Applies a failed fetch.  Without a list, an unusable one is an update too.
fn apply_failure(
    address: &str,
    state: &mut AddressState,
    failure: FetchFailure,
    now: Timestamp,
    config: &Config,
    metrics: &Metrics,
) -> Option<Vec<ListState>> {
    let outcome = match &failure {
        FetchFailure::Fetch(_) | FetchFailure::Aborted => FetchOutcome::Unreachable,
        FetchFailure::List(_) | FetchFailure::Rejected(_) => FetchOutcome::Refused,
    };
    metrics.fetched(address, outcome);
    let why = failure.to_string();
    match &failure {
        // A certificate can name the address of another issuer's list.
        FetchFailure::Rejected(_) if state.lists.is_empty() => {
            warn!(
                crl.address = %Cleaned(address),
                error = %Cleaned(&why),
                "CRL rejected; the address has no list in force"
            );
        }
        FetchFailure::Rejected(_) => {
            error!(
                crl.address = %Cleaned(address),
                error = %Cleaned(&why),
                "CRL rejected; the old list stays in force"
            );
        }
        _ => {
            warn!(crl.address = %Cleaned(address), error = %Cleaned(&why), "CRL not fetched");
        }
    }
    let unusable = (outcome == FetchOutcome::Refused && state.lists.is_empty()).then(|| {
        let issuers = state.expected.issuers();
        vec![ListState::Unusable { issuers, why: format!("{address}: {why}") }]
    });
    let retry_after = match failure {
        FetchFailure::Fetch(error) => error.retry_after(),
        _ => None,
    };
    state.failed(now, why, retry_after, &config.timing);
    unusable
}
