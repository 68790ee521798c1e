//! The state of one address: the list in force, and the time of the next fetch.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::crl::schedule::{self, FetchSummary, Times, Timing};
use crate::crl::targets::Expected;
use crate::crl::transport::{Location, Validators};
use crate::x509::certificate::Fingerprint;
use crate::x509::crl::RevocationList;
use crate::x509::time::Timestamp;

/// An address and its state.
pub(super) struct AddressState {
    /// The address that returned a list last; before that, the address itself.
    pub(super) location: Location,
    pub(super) expected: Expected,
    /// Distinguishes this state from an earlier one of the same address.
    pub(super) id: u64,
    pub(super) list: Option<Arc<RevocationList>>,
    /// Reason why the delta in force amends no complete list.
    pub(super) unused: Option<String>,
    /// List that decides while `list`, which had expired when it arrived, does not.
    pub(super) earlier: Option<Arc<RevocationList>>,
    pub(super) validators: Validators,
    pub(super) fetched: Option<Timestamp>,
    pub(super) from_disk: bool,
    /// A copy of the list in force is on disk.
    pub(super) has_copy: bool,
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
            list: None,
            unused: None,
            earlier: None,
            validators: Validators::default(),
            fetched: None,
            from_disk: false,
            has_copy: false,
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

    /// True once a fetch from the network has ended.
    pub(super) fn was_fetched(&self) -> bool {
        self.fetches > 0
    }

    /// True once there is a list or an error to report.
    pub(super) fn was_attempted(&self) -> bool {
        self.list.is_some() || self.last_error.is_some()
    }

    /// The version of the list in force, for a conditional request.  `None` if the complete list must be
    /// sent.
    pub(super) fn known_version(&self, force_full: bool) -> Option<Validators> {
        (self.list.is_some() && !force_full).then(|| self.validators.clone())
    }

    /// True if the next fetch must return the list in force again, to write a copy to disk.  A list can
    /// be large and a disk full for a long time, so this is limited to one attempt per
    /// `timing.max_unconditional`.
    pub(super) fn needs_copy(&mut self, now: Timestamp, timing: &Timing) -> bool {
        let is_time =
            self.bypass_caches || now.since(self.copy_attempted) >= timing.max_unconditional;
        let needs_copy = self.list.is_some() && !self.has_copy && is_time;
        if needs_copy {
            self.copy_attempted = now;
        }
        needs_copy
    }

    pub(super) fn succeeded(&mut self, now: Timestamp, max_age: Option<Duration>, timing: &Timing) {
        self.last_error = None;
        self.fetched = Some(now);
        self.from_disk = false;
        let times = self.list.as_deref().map(Times::from);
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
            times: self.list.as_deref().map(Times::from),
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
