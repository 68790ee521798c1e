//! Everything that trust decisions need, immutable.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::trust::anchors::AnchorSet;
use crate::domain::trust::revocations::{CrlMode, Revocations};

/// What the operator demands of paths; the defaults are the strict ones.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    /// An intermediate authority of the directory ends a path, as roots do.
    pub intermediate_anchors: bool,
    /// Refuse paths whose anchor is outside its validity.
    pub anchor_validity: bool,
    /// Refuse anchors without basicConstraints CA or without keyCertSign where keyUsage is present.
    pub anchor_constraints: bool,
    /// Refuse leaves without extendedKeyUsage clientAuth (absence is otherwise allowed).
    pub require_client_auth: bool,
    /// `None`: `Require` for an authority with a CRL address, else `Off`.  `Some` is for every
    /// authority in the path.
    pub crl: Option<CrlMode>,
    /// Authorities without a CRL address are `Require` too.
    pub require_crl: bool,
    /// How long past nextUpdate a list still decides.
    pub grace: Duration,
    /// Certificates in a path, anchor included.
    pub max_path: usize,
    /// Signatures checked for one decision.
    pub max_signatures: usize,
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
            max_path: 10,
            max_signatures: 100,
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
    /// What the operator demands.
    pub policy: Arc<TrustPolicy>,
}
