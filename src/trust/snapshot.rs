//! Everything that trust decisions need, immutable.

use std::sync::Arc;

use crate::trust::configurations::{AnchorSet, Kind};
use crate::trust::devices::Registries;
use crate::trust::index::Index;
use crate::trust::path::signature::SignatureMemo;
use crate::trust::revocation::addresses_seen::Sightings;
use crate::trust::revocation::{CrlMode, Revocations};
use crate::x509::certificate::Fingerprint;
use crate::x509::name::Name;

/// What the operator demands of paths; the defaults are the strict ones.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    /// An intermediate authority of the directory ends a path, as roots do.
    pub intermediate_anchors: bool,
    /// Refuse paths whose anchor is outside its validity.
    pub anchor_validity: bool,
    /// Refuse anchors that are no certification authorities: without basicConstraints CA, without
    /// keyCertSign where keyUsage is present, without clientAuth where extendedKeyUsage is, or
    /// without a subject.
    pub anchor_constraints: bool,
    /// Refuse leaves without extendedKeyUsage clientAuth.  Otherwise its absence is allowed, and
    /// anyExtendedKeyUsage in its place.
    pub require_client_auth: bool,
    /// `None`: as the revocation policy says of the authority, and where that says nothing, `Require`
    /// for one with a CRL address, else `Off`.  `Some` is for every authority in the path.
    pub crl: Option<CrlMode>,
    /// Authorities without a CRL address are `Require` too.
    pub require_crl: bool,
    /// The user-initial-policy-set (RFC 5280 section 6.1.1 (c)) as OID contents; empty: any policy.
    pub policies: Vec<Box<[u8]>>,
    /// initial-explicit-policy (RFC 5280 section 6.1.1 (f)).
    pub explicit_policy: bool,
    /// initial-policy-mapping-inhibit (RFC 5280 section 6.1.1 (e)).
    pub inhibit_policy_mapping: bool,
    /// initial-any-policy-inhibit (RFC 5280 section 6.1.1 (g)).
    pub inhibit_any_policy: bool,
    /// Certificates in a path, anchor included.
    pub max_path: usize,
    /// Signatures asked for in one decision, remembered ones included.
    pub max_signatures: usize,
    /// Issuers tried for one decision.
    pub max_nodes: usize,
    /// Paths to an anchor that are judged whole for one decision.
    pub max_paths: usize,
    /// Comparisons of a name with a name constraint for one decision.
    pub max_name_comparisons: usize,
}

impl Default for TrustPolicy {
    fn default() -> Self {
        Self {
            intermediate_anchors: false,
            anchor_validity: true,
            anchor_constraints: true,
            require_client_auth: false,
            crl: None,
            require_crl: false,
            policies: Vec::new(),
            explicit_policy: false,
            inhibit_policy_mapping: false,
            inhibit_any_policy: false,
            max_path: 10,
            // A hundred authorities of one name without key identifiers, and a path below them.
            max_signatures: 128,
            max_nodes: 2048,
            max_paths: 256,
            max_name_comparisons: 250_000,
        }
    }
}

/// What one decision is made under.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// The configurations of devices in force, of all sources.
    pub anchors: Arc<AnchorSet>,
    /// The configurations of applications in force, of all sources.  Apart from the others, so that
    /// no search among one kind ever meets the other, whatever their ids.
    pub applications: Arc<AnchorSet>,
    /// The revocation sets in force.
    pub revocations: Arc<Revocations>,
    /// The device registries in force.
    pub devices: Arc<Registries>,
    /// What the operator demands.
    pub policy: Arc<TrustPolicy>,
    /// Signatures that were verified; shared by all generations.
    pub signatures: Arc<SignatureMemo>,
    /// Where certificates themselves say that their lists are; shared by all generations.  `None`:
    /// only the directory says it.
    pub sightings: Option<Arc<Sightings>>,
    index: Arc<Index>,
    application_index: Arc<Index>,
}

impl Snapshot {
    /// A snapshot of these parts.  `signatures` goes from one generation to the next.
    pub fn new(
        generation: u64,
        anchors: Arc<AnchorSet>,
        revocations: Arc<Revocations>,
        policy: Arc<TrustPolicy>,
        signatures: Arc<SignatureMemo>,
    ) -> Self {
        let index = Arc::new(Index::of(&anchors));
        Self { generation, anchors, revocations, policy, signatures, index, ..Self::default() }
    }

    /// Nothing is trusted yet.
    pub fn nothing(policy: Arc<TrustPolicy>) -> Self {
        Self { policy, ..Self::default() }
    }

    /// With a place to note the addresses that certificates name.
    #[must_use]
    pub fn with_sightings(self, sightings: Option<Arc<Sightings>>) -> Self {
        Self { sightings, ..self }
    }

    /// The snapshot that follows this one.  `None` keeps the configurations, and with them their index.
    #[must_use]
    pub fn next(&self, anchors: Option<AnchorSet>, revocations: Arc<Revocations>) -> Self {
        let kept = (Arc::clone(&self.anchors), Arc::clone(&self.index));
        let (anchors, index) = anchors.map_or(kept, |anchors| {
            let index = Index::of(&anchors);
            (Arc::new(anchors), Arc::new(index))
        });
        Self {
            generation: self.generation + 1,
            anchors,
            revocations,
            devices: Arc::clone(&self.devices),
            policy: Arc::clone(&self.policy),
            signatures: Arc::clone(&self.signatures),
            sightings: self.sightings.clone(),
            index,
            applications: Arc::clone(&self.applications),
            application_index: Arc::clone(&self.application_index),
        }
    }

    /// The same with these configurations of applications.
    #[must_use]
    pub fn with_applications(self, applications: AnchorSet) -> Self {
        let application_index = Arc::new(Index::of(&applications));
        Self { applications: Arc::new(applications), application_index, ..self }
    }

    /// The configurations of both kinds, for who fetches lists: to a list its issuer's kind is nothing.
    pub fn every_configuration(&self) -> Arc<AnchorSet> {
        if self.applications.configurations.is_empty() {
            return Arc::clone(&self.anchors);
        }
        let mut all = AnchorSet::clone(&self.anchors);
        all.configurations.extend(self.applications.configurations.iter().cloned());
        Arc::new(all)
    }

    /// What the authority of this name and key needs in a configuration of this kind; `has_address`: a
    /// list of it is published where we look.  An operator's word on all decides before one on a
    /// single authority.
    pub fn crl_mode(
        &self,
        kind: Kind,
        name: &Name,
        key: Fingerprint,
        has_address: bool,
    ) -> CrlMode {
        let told_apart = || self.revocations.policy().of(name, key).mode;
        self.policy.crl.or_else(told_apart).unwrap_or(match kind {
            _ if has_address || self.policy.require_crl => CrlMode::Require,
            Kind::Devices(_) => CrlMode::Off,
            // Graph has no place for a list's address here.  What is known of the same authority by
            // a configuration of devices counts all the same.
            Kind::Applications => CrlMode::IfAvailable,
        })
    }

    /// This snapshot with other device registries.
    #[must_use]
    pub fn with_devices(self, devices: Arc<Registries>) -> Self {
        Self { devices, ..self }
    }

    /// Authorities of configurations of devices by name.
    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Authorities of configurations of applications by name.
    pub(crate) fn application_index(&self) -> &Index {
        &self.application_index
    }
}
