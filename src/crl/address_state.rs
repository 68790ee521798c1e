//! The state of one address: the lists in force, and the time of the next fetch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::crl::replacement;
use crate::crl::schedule::{self, FetchSummary, Times, Timing};
use crate::crl::targets::{Expected, Referrer};
use crate::crl::transport::{Location, Validators};
use crate::trust::assembly::ListState;
use crate::x509::certificate::Fingerprint;
use crate::x509::crl::RevocationList;
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

/// A list in force.
pub(super) struct HeldList {
    pub(super) list: Arc<RevocationList>,
    /// List that decides while `list`, which had expired when it arrived, does not.
    pub(super) earlier: Option<Arc<RevocationList>>,
    /// Key of the copy of `list` on disk.
    pub(super) copy: Option<Arc<str>>,
    /// Reason why the list, a delta, amends no complete list.
    pub(super) unused: Option<String>,
}

impl HeldList {
    pub(super) fn new(list: Arc<RevocationList>, copy: Option<Arc<str>>) -> Self {
        Self { list, earlier: None, copy, unused: None }
    }

    fn state(&self) -> ListState {
        let newest = Arc::clone(&self.list);
        match self.earlier.clone() {
            None => ListState::InForce(newest),
            Some(earlier) => ListState::Expired { newest, earlier },
        }
    }
}

/// An address and its state.
pub(super) struct AddressState {
    /// The address that returned a list last; before that, the address itself.
    pub(super) location: Location,
    pub(super) expected: Expected,
    /// Distinguishes this state from an earlier one of the same address.
    pub(super) id: u64,
    /// The lists in force, of each issuer one.  The one that arrived last is the last.
    pub(super) lists: Vec<HeldList>,
    /// Version of the last response.
    pub(super) validators: Validators,
    pub(super) fetched: Option<Timestamp>,
    pub(super) from_disk: bool,
    /// Time of the last attempt to write a copy.
    copy_attempted: Timestamp,
    pub(super) last_error: Option<(Timestamp, String)>,
    /// The disk was read.
    pub(super) loaded: bool,
    /// A fetch (or load) is running.  There is at most one at a time.
    pub(super) is_fetching: bool,
    /// A refresh was requested while a fetch was running.  The result of that fetch may be too old, so
    /// another one follows it.
    pub(super) fetch_again: bool,
    /// The next fetch bypasses caches, because an operator requested it.
    pub(super) bypass_caches: bool,
    /// The next fetch replaces the list in force even if the new list is older.
    pub(super) accept_rollback: bool,
    pub(super) next_fetch: Timestamp,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// Time at which `next_fetch` was computed.
    scheduled: Timestamp,
    fruitless: u32,
    fetches: u64,
    seed: u64,
}

impl AddressState {
    pub(super) fn new(
        address: &str,
        location: Location,
        expected: Expected,
        seed: u64,
        id: u64,
        now: Timestamp,
    ) -> Self {
        let Fingerprint(digest) = Fingerprint::of(address.as_bytes());
        let own_seed = digest.iter().take(8).fold(0u64, |n, &b| (n << 8) | u64::from(b));
        Self {
            location,
            expected,
            id,
            lists: Vec::new(),
            validators: Validators::default(),
            fetched: None,
            from_disk: false,
            copy_attempted: now,
            last_error: None,
            loaded: false,
            is_fetching: false,
            fetch_again: false,
            bypass_caches: false,
            accept_rollback: false,
            next_fetch: now,
            waiting: Vec::new(),
            scheduled: now,
            fruitless: 0,
            fetches: 0,
            seed: seed ^ own_seed,
        }
    }

    /// Locations to fetch from, in this order: the one that returned a list last, then the others.
    pub(super) fn locations(&self, address: &str, files: bool) -> Vec<Location> {
        let others = self.expected.usable_alternatives().iter().map(|a| &**a);
        let named = std::iter::once(address).chain(others);
        let mut locations: Vec<Location> = Vec::new();
        for location in named.filter_map(|address| Location::parse(address, files).ok()) {
            if !locations.contains(&location) {
                locations.push(location);
            }
        }
        // The address that returned a list last comes first for as long as it is named.
        match locations.iter().position(|location| *location == self.location) {
            Some(place) => locations[..=place].rotate_right(1),
            None if locations.is_empty() => locations.push(self.location.clone()),
            None => {}
        }
        locations
    }

    /// True if the next fetch is due.  After the clock was set back, waiting for `next_fetch` would take
    /// too long, so a time before `scheduled` counts as due.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.next_fetch <= now || now < self.scheduled
    }

    /// True once there is a list or an error to report.
    pub(super) fn was_attempted(&self) -> bool {
        !self.lists.is_empty() || self.last_error.is_some()
    }

    /// The state of each list in force, for the publisher.
    pub(super) fn states(&self) -> Vec<ListState> {
        self.lists.iter().map(HeldList::state).collect()
    }

    pub(super) fn in_force(&self) -> impl Iterator<Item = &Arc<RevocationList>> {
        self.lists.iter().map(|held| &held.list)
    }

    /// True if a list of an authority of this name is in force.
    pub(super) fn has_list_of(&self, issuer: &Name) -> bool {
        self.in_force().any(|list| list.issuer == *issuer)
    }

    /// Sets the authorities that name the address.  If one of them has no list yet, reads the disk and
    /// fetches at once: a fetch that failed because the signer was missing may succeed now.
    pub(super) fn expect(&mut self, expected: Expected, now: Timestamp) {
        let is_missing = |authority: &Referrer| {
            !self.expected.authorities.contains(authority) && !self.has_list_of(&authority.name)
        };
        if self.lists.is_empty() || expected.authorities.iter().any(is_missing) {
            self.next_fetch = now;
            self.loaded = false;
            self.fetch_again = self.is_fetching;
            // An unchanged list may have replaced one of this authority before.
            self.validators = Validators::default();
        }
        self.expected = expected;
    }

    /// Removes the lists that the address no longer may have.  Returns the names of their issuers.
    pub(super) fn drop_unnamed(&mut self) -> Vec<Name> {
        let is_unnamed = |held: &mut HeldList| !replacement::may_hold(&self.expected, &held.list);
        self.lists.extract_if(.., is_unnamed).map(|held| held.list.issuer.clone()).collect()
    }

    /// The version of the list in force, for a conditional request.  `None` if the complete list must be
    /// sent.
    pub(super) fn known_version(&self, force_full: bool) -> Option<Validators> {
        (!self.lists.is_empty() && !force_full).then(|| self.validators.clone())
    }

    /// True if the next fetch must return the list in force again, to write a copy to disk.  A list can
    /// be large and a disk full for a long time, so this is limited to one attempt per
    /// `timing.max_unconditional`.
    pub(super) fn needs_copy(&mut self, now: Timestamp, timing: &Timing) -> bool {
        let is_time =
            self.bypass_caches || now.since(self.copy_attempted) >= timing.max_unconditional;
        let needs_copy = self.lists.iter().any(|held| held.copy.is_none()) && is_time;
        if needs_copy {
            self.copy_attempted = now;
        }
        needs_copy
    }

    pub(super) fn succeeded(&mut self, now: Timestamp, max_age: Option<Duration>, timing: &Timing) {
        self.last_error = None;
        self.fetched = Some(now);
        self.from_disk = false;
        let times = self.times();
        let overdue = times.is_some_and(|times| schedule::is_overdue(&times, now));
        self.fruitless = if overdue { self.fruitless.saturating_add(1) } else { 0 };
        self.schedule(now, max_age, None, timing);
    }

    /// Records a failure.  `retry_after` is the pause that the server asked for.
    pub(super) fn failed(
        &mut self,
        now: Timestamp,
        why: String,
        retry_after: Option<Duration>,
        timing: &Timing,
    ) {
        self.last_error = Some((now, why));
        self.fruitless = self.fruitless.saturating_add(1);
        self.schedule(now, None, retry_after, timing);
    }

    /// The times of the list that arrived last.
    fn times(&self) -> Option<Times> {
        self.lists.last().map(|held| Times::from(&*held.list))
    }

    fn schedule(
        &mut self,
        now: Timestamp,
        max_age: Option<Duration>,
        retry_after: Option<Duration>,
        timing: &Timing,
    ) {
        self.fetches += 1;
        self.scheduled = now;
        let summary = FetchSummary {
            now,
            times: self.times(),
            max_age,
            fruitless: self.fruitless,
            retry_after,
            is_file: matches!(self.location, Location::File(_)),
            is_conditional: !self.validators.is_empty(),
            seed: self.seed.wrapping_add(self.fetches),
        };
        self.next_fetch = schedule::next_fetch(timing, &summary);
    }
}
