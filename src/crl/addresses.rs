//! Which addresses matter: what the directory names, and what certificates and lists name.

use std::sync::Arc;

use tracing::{info, warn};

use crate::crl::address_state::{self, Point};
use crate::crl::source::Source;
use crate::crl::status::Status;
use crate::crl::transport::Location;
use crate::trust::assembly::ListState;
use crate::trust::configurations::AnchorSet;
use crate::trust::revocation::addresses_seen;

impl Source {
    /// Takes up addresses that matter now and drops those that do not.
    pub(super) async fn reconcile(&mut self) {
        let anchors = Arc::clone(&self.anchors.borrow_and_update());
        let sightings = match &mut self.sighted {
            Some(sighted) => sighted.under(&anchors),
            None => Vec::new(),
        };
        let mut wants = address_state::wants(&anchors, &self.config.policy, &sightings);
        if self.sighted.is_some() {
            self.want_deltas(&mut wants);
        }
        let address_state::Wants { addresses: wanted, signers, authorities, unmatched } = wants;
        self.tell_unmatched(&anchors, unmatched);
        let same_signers = self.authorities == authorities;
        self.authorities = authorities;
        self.signers = Arc::new(signers);
        let now = self.now();

        let known = self.points.keys().chain(&self.unfit);
        let gone: Vec<_> = known.filter(|at| !wanted.contains_key(*at)).cloned().collect();
        if !gone.is_empty() {
            self.sweep_soon();
        }
        for address in gone {
            self.points.remove(&address);
            self.unfit.remove(&address);
            self.forget(address).await;
        }
        for (address, wanted) in wanted {
            if let Some(point) = self.points.get_mut(&address) {
                // What failed for want of a signer may succeed now.
                if point.list.is_none() && (!same_signers || point.wanted != wanted) {
                    point.due = now;
                    point.loaded = false;
                    point.again = point.flying;
                }
                point.wanted = wanted;
                continue;
            }
            match Location::parse(&address, self.config.transport.files) {
                Ok(location) => {
                    self.born += 1;
                    let seed = self.config.seed;
                    let mut point = Point::new(&address, location, wanted, seed, self.born, now);
                    // Named again before the last flight there is over: that one brings nothing now.
                    point.flying = self.in_flight.values().any(|(at, _)| *at == address);
                    self.board.put(&address, Status::of(&address, &point));
                    self.points.insert(address, point);
                }
                Err(error) => {
                    let why = error.to_string();
                    if self.unfit.insert(Arc::clone(&address)) {
                        warn!(crl.address = &*address, %error, "the list cannot be fetched");
                    }
                    let status = Status::unfit(&address, &wanted, now, why.clone());
                    self.board.put(&address, status);
                    let state = ListState::Unusable { issuers: wanted.issuers(), why };
                    self.send(address, state).await;
                }
            }
        }
    }

    /// Adds the addresses of deltas that the lists in force name (freshestCRL, RFC 5280 section
    /// 5.2.6).  Their signatures were verified, so it is the issuer who says so.
    fn want_deltas(&self, wants: &mut address_state::Wants) {
        for (address, point) in &self.points {
            let (Some(list), Some(wanted)) = (&point.list, wants.addresses.get(address)) else {
                continue;
            };
            if list.is_delta() {
                continue;
            }
            let namers = wanted.authorities.clone();
            let names = list.freshest.iter().filter_map(|point| {
                point.names.iter().flatten().find_map(addresses_seen::web_address)
            });
            for delta in names.take(addresses_seen::MAX_ADDRESSES) {
                for namer in &namers {
                    wants.add(&delta.into(), namer.clone(), true);
                }
            }
        }
    }

    /// Says once which entries of the settings fit no authority: a typing error would otherwise leave
    /// an authority under rules that nobody meant.
    fn tell_unmatched(&mut self, anchors: &AnchorSet, unmatched: Vec<String>) {
        // Before the directory has answered, nothing is in force yet.
        if anchors.configurations.is_empty() || self.unmatched == unmatched {
            return;
        }
        for entry in &unmatched {
            warn!("revocation.authority: no authority in force is the one of {entry}");
        }
        self.unmatched = unmatched;
    }

    async fn forget(&mut self, address: Arc<str>) {
        info!(crl.address = &*address, "nobody names the address any longer");
        self.board.remove(&address);
        self.metrics.gone(&address);
        self.send(address, ListState::Gone).await;
    }
}
