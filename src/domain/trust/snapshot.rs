//! Everything that trust decisions need, immutable.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::trust::anchors::AnchorSet;
use crate::domain::trust::devices::Registries;
use crate::domain::trust::path::index::Index;
use crate::domain::trust::path::signature::SignatureMemo;
use crate::domain::trust::revocations::{CrlMode, Revocations};

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
    /// `None`: `Require` for an authority with a CRL address, else `Off`.  `Some` is for every
    /// authority in the path.
    pub crl: Option<CrlMode>,
    /// Authorities without a CRL address are `Require` too.
    pub require_crl: bool,
    /// How long past nextUpdate a list still decides.
    pub grace: Duration,
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
            grace: Duration::ZERO,
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
    /// The configurations in force, of all sources.
    pub anchors: Arc<AnchorSet>,
    /// The revocation sets in force.
    pub revocations: Arc<Revocations>,
    /// The device registries in force.
    pub devices: Arc<Registries>,
    /// What the operator demands.
    pub policy: Arc<TrustPolicy>,
    /// Signatures that were verified; shared by all generations.
    pub signatures: Arc<SignatureMemo>,
    index: Arc<Index>,
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
        let devices = Arc::default();
        Self { generation, anchors, revocations, devices, policy, signatures, index }
    }

    /// Nothing is trusted yet.
    pub fn nothing(policy: Arc<TrustPolicy>) -> Self {
        Self { policy, ..Self::default() }
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
            index,
        }
    }

    /// This snapshot with other device registries.
    #[must_use]
    pub fn with_devices(self, devices: Arc<Registries>) -> Self {
        Self { devices, ..self }
    }

    /// Authorities by name.
    pub fn index(&self) -> &Index {
        &self.index
    }
}
