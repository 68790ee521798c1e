//! The set of addresses to fetch from: those that the directory names, and those that certificates and
//! lists name.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use crate::crl::address_state::AddressState;
use crate::crl::list_key;
use crate::crl::source::Source;
use crate::crl::status::Status;
use crate::crl::targets::Targets;
use crate::crl::transport::Location;
use crate::runtime::text::Cleaned;
use crate::trust::assembly::ListState;
use crate::trust::configurations::AllConfigurations;
use crate::trust::revocation::ListPolicy;
use crate::trust::revocation::addresses_seen::{self, PointAddresses};

impl Source {
    /// Adds the addresses that are named now and removes the others.
    pub(super) async fn reconcile(&mut self) {
        let (generation, configurations) = {
            let in_force = self.in_force.borrow_and_update();
            if let Some(lists) = &in_force.lists {
                self.config.policy = ListPolicy::clone(lists);
            }
            (in_force.generation, in_force.configurations.clone())
        };
        let seen = match &mut self.seen {
            Some(seen) => seen.under(&configurations),
            None => Vec::new(),
        };
        let mut targets = Targets::of(&configurations, &self.config.policy, &seen);
        if self.seen.is_some() {
            self.add_deltas(&mut targets);
        }
        let Targets { addresses: expected, signers, authorities, unmatched, .. } = targets;
        self.warn_about_unmatched(&configurations, unmatched);
        let same_signers = self.authorities == authorities;
        self.authorities = authorities;
        self.signers = Arc::new(signers);
        let now = self.now();

        let known = self.addresses.keys().chain(&self.unusable);
        let gone: Vec<_> =
            known.filter(|address| !expected.contains_key(*address)).cloned().collect();
        if !gone.is_empty() {
            self.sweep_soon();
        }
        for address in gone {
            self.addresses.remove(&address);
            self.unusable.remove(&address);
            self.remove(address).await;
        }
        for (address, expected) in expected {
            if let Some(state) = self.addresses.get_mut(&address) {
                // A fetch that failed because the signer was missing may succeed now.
                if state.list.is_none() && (!same_signers || state.expected != expected) {
                    state.next_fetch = now;
                    state.loaded = false;
                    state.fetch_again = state.is_fetching;
                }
                state.expected = expected;
                continue;
            }
            match Location::parse(list_key::address(&address), self.config.transport.files) {
                Ok(location) => {
                    self.last_id += 1;
                    let (seed, id) = (self.config.seed, self.last_id);
                    let mut state = AddressState::new(&address, location, expected, seed, id, now);
                    // The address was removed and added again while a fetch was running.  The result of
                    // that fetch is discarded.
                    state.is_fetching = self.running.values().any(|(of, _)| *of == address);
                    self.statuses.put(&address, Status::of(&address, &state));
                    self.addresses.insert(address, state);
                }
                Err(error) => {
                    let why = error.to_string();
                    if self.unusable.insert(Arc::clone(&address)) {
                        let address = Cleaned(list_key::address(&address));
                        warn!(crl.address = %address, error = %Cleaned(&error), "CRL address not usable");
                    }
                    let status = Status::unusable(&address, &expected, now, why.clone());
                    self.statuses.put(&address, status);
                    let state = ListState::Unusable { issuers: expected.issuers(), why };
                    self.send(address, state, Instant::now()).await;
                }
            }
        }
        self.generation = generation;
        self.report_progress();
    }

    /// Adds the addresses of deltas that the lists in force name (freshestCRL, RFC 5280 section
    /// 5.2.6).  The signatures of these lists were verified, so the addresses come from the issuer.
    fn add_deltas(&self, targets: &mut Targets) {
        for (address, state) in &self.addresses {
            let (Some(list), Some(expected)) = (&state.list, targets.addresses.get(address)) else {
                continue;
            };
            if list.is_delta() {
                continue;
            }
            let (referrers, groups) = (expected.authorities.clone(), expected.groups.clone());
            let points = list.freshest.iter().filter_map(PointAddresses::of);
            for point in points.take(addresses_seen::MAX_ADDRESSES) {
                for (referrer, group) in
                    referrers.iter().flat_map(|r| groups.iter().map(move |group| (r, group)))
                {
                    targets.add_point(&point, group, referrer.clone(), true);
                }
            }
        }
    }

    /// Warns once about settings that match no authority.  A typing error would otherwise leave an
    /// authority under rules that the operator did not intend.
    fn warn_about_unmatched(&mut self, configurations: &AllConfigurations, unmatched: Vec<String>) {
        // Before the first response of the directory there is nothing to match.
        if configurations.is_empty() || self.unmatched == unmatched {
            return;
        }
        for entry in &unmatched {
            warn!("revocation.authority: {entry} matches no authority in force");
        }
        self.unmatched = unmatched;
    }

    async fn remove(&mut self, address: Arc<str>) {
        let named = Cleaned(list_key::address(&address));
        info!(crl.address = %named, "CRL address removed: it is no longer named");
        self.statuses.remove(&address);
        self.metrics.remove(&address);
        self.send(address, ListState::Gone, Instant::now()).await;
    }
}
