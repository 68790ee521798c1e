//! The set of addresses to fetch from: those that the directory names, and those that certificates and
//! lists name.

use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use crate::crl::address_state::AddressState;
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
            let state = self.addresses.remove(&address);
            self.unusable.remove(&address);
            self.remove(address).await;
            for list in state.iter().flat_map(AddressState::in_force) {
                self.note_unused_deltas(&list.issuer);
            }
        }
        for (address, expected) in expected {
            if let Some(state) = self.addresses.get_mut(&address) {
                let is_changed = state.expected != expected;
                if is_changed || !same_signers {
                    state.expect(expected, now);
                }
                if is_changed {
                    self.apply_expected(&address).await;
                }
                continue;
            }
            match Location::parse(&address, self.config.transport.files) {
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
                        warn!(crl.address = %Cleaned(&address), error = %Cleaned(&error), "CRL address not usable");
                    }
                    let status = Status::unusable(&address, &expected, now, why.clone());
                    self.statuses.put(&address, vec![status]);
                    let state = ListState::Unusable { issuers: expected.issuers(), why };
                    self.send(address, vec![state], Instant::now()).await;
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
            let Some(expected) = targets.addresses.get(address) else { continue };
            let (expected, mut points) = (expected.clone(), Vec::new());
            for list in state.in_force().filter(|list| !list.is_delta()) {
                let of_list = list.freshest.iter().filter_map(PointAddresses::of);
                let of_list = of_list.take(addresses_seen::MAX_ADDRESSES);
                points.extend(of_list.map(|point| (point, &list.issuer)));
            }
            for (point, issuer) in points {
                // An indirect list may be of an issuer that does not name the address.
                let of_others = !expected.names(issuer);
                let referrers = expected.authorities.iter();
                for referrer in referrers.filter(|r| of_others || r.name == *issuer) {
                    for group in &expected.groups {
                        targets.add_point(&point, group, referrer.clone(), true);
                    }
                }
            }
        }
    }

    /// Ends the lists of issuers that do not name the address any more.
    async fn apply_expected(&mut self, address: &Arc<str>) {
        let Some(state) = self.addresses.get_mut(address) else { return };
        let dropped = state.drop_unnamed();
        self.statuses.put(address, Status::of(address, state));
        if dropped.is_empty() {
            return;
        }
        self.metrics.in_force(address, state);
        let lists = state.states();
        self.sweep_soon();
        self.send(Arc::clone(address), lists, Instant::now()).await;
        for issuer in dropped {
            self.note_unused_deltas(&issuer);
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
        info!(crl.address = %Cleaned(&address), "CRL address removed: it is no longer named");
        self.statuses.remove(&address);
        self.metrics.remove(&address);
        self.send(address, Vec::new(), Instant::now()).await;
    }
}
