//! The snapshot: everything that a decision needs, immutable.

use std::sync::Arc;

use crate::trust::configurations::{AllConfigurations, Application, Configurations, Device};
use crate::trust::devices::Registries;
use crate::trust::index::Index;
use crate::trust::path::signature::SignatureMemo;
use crate::trust::revocation::addresses_seen::ObserveAddresses;
use crate::trust::revocation::{CrlMode, Revocations};
use crate::x509::certificate::Fingerprint;
use crate::x509::name::Name;

/// Rules for paths that the operator sets.  The defaults are the strict ones.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    /// An intermediate authority of the directory ends a path, as roots do.
    pub intermediate_anchors: bool,
    /// Refuse paths whose anchor is outside its validity.
    pub anchor_validity: bool,
    /// Refuse anchors that are not certification authorities: without basicConstraints CA, without
    /// keyCertSign where keyUsage is present, without clientAuth where extendedKeyUsage is, or
    /// without a subject.
    pub anchor_constraints: bool,
    /// Refuse leaves without extendedKeyUsage clientAuth.  Otherwise its absence is allowed, and
    /// anyExtendedKeyUsage in its place.
    pub require_client_auth: bool,
    /// Seconds before notBefore from which a leaf is accepted, for devices and authorities whose clock
    /// runs ahead.
    pub not_before_tolerance: i64,
    /// The mode of every authority in the path.  `None`: the revocation policy's mode for the
    /// authority; without one, `Require` for an authority with a CRL address, else `IfAvailable`.
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
    /// Signatures needed in one decision and trust domain, remembered ones included.
    pub max_signatures: usize,
    /// Signatures that do not verify in one decision and trust domain.  Those of one certificate
    /// under the directory's own authorities count once, because the directory chose their number.
    pub max_failed_signatures: usize,
    /// Cost of the verifications with keys that only the peer presents, in one decision and trust domain.
    /// The unit is a verification with ECDSA P-256.
    pub max_presented_cost: usize,
    /// Issuers tried in one decision and trust domain.
    pub max_nodes: usize,
    /// Complete paths to an anchor that are validated in one decision and trust domain.
    pub max_paths: usize,
    /// Comparisons of a name with a name constraint in one decision and trust domain.
    pub max_name_comparisons: usize,
}

impl Default for TrustPolicy {
    fn default() -> Self {
        Self {
            intermediate_anchors: false,
            anchor_validity: true,
            anchor_constraints: true,
            require_client_auth: false,
            not_before_tolerance: 0,
            crl: None,
            require_crl: false,
            policies: Vec::new(),
            explicit_policy: false,
            inhibit_policy_mapping: false,
            inhibit_any_policy: false,
            max_path: 10,
            // A hundred authorities of one name without key identifiers, and a path below them.
            max_signatures: 128,
            max_failed_signatures: 8,
            max_presented_cost: 12,
            max_nodes: 1024,
            max_paths: 256,
            max_name_comparisons: 250_000,
        }
    }
}

/// The state that one decision uses.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows with every publication.
    pub generation: u64,
    /// The configurations of devices in force, of all sources.
    pub device_configurations: Arc<Configurations<Device>>,
    /// The configurations of applications in force, of all sources.
    pub applications: Arc<Configurations<Application>>,
    /// The revocation sets in force.
    pub revocations: Arc<Revocations>,
    /// The device registries in force.
    pub devices: Arc<Registries>,
    /// Rules for paths.
    pub policy: Arc<TrustPolicy>,
    /// Verified signatures; shared by all generations.
    pub signatures: Arc<SignatureMemo>,
    /// Records the addresses that certificates name; shared by all generations.  `None` if only the
    /// directory's addresses count.
    pub address_observer: Option<Arc<dyn ObserveAddresses>>,
    index: Arc<Index>,
    application_index: Arc<Index>,
}

impl Snapshot {
    /// Makes a snapshot.  `signatures` passes from one generation to the next.
    pub fn new(
        generation: u64,
        device_configurations: Arc<Configurations<Device>>,
        revocations: Arc<Revocations>,
        policy: Arc<TrustPolicy>,
        signatures: Arc<SignatureMemo>,
    ) -> Self {
        let index = Arc::new(Index::of(&device_configurations));
        Self {
            generation,
            device_configurations,
            revocations,
            policy,
            signatures,
            index,
            ..Self::default()
        }
    }

    /// Makes a snapshot that trusts nothing.
    pub fn nothing(policy: Arc<TrustPolicy>) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Sets the record of addresses that certificates name.
    #[must_use]
    pub fn with_address_observer(
        self,
        address_observer: Option<Arc<dyn ObserveAddresses>>,
    ) -> Self {
        Self { address_observer, ..self }
    }

    /// Makes the following snapshot.  `None` keeps the configurations and their index.
    #[must_use]
    pub fn next(
        &self,
        device_configurations: Option<Configurations<Device>>,
        revocations: Arc<Revocations>,
    ) -> Self {
        let kept = (Arc::clone(&self.device_configurations), Arc::clone(&self.index));
        let (device_configurations, index) =
            device_configurations.map_or(kept, |device_configurations| {
                let index = Index::of(&device_configurations);
                (Arc::new(device_configurations), Arc::new(index))
            });
        Self {
            generation: self.generation + 1,
            device_configurations,
            revocations,
            devices: Arc::clone(&self.devices),
            policy: Arc::clone(&self.policy),
            signatures: Arc::clone(&self.signatures),
            address_observer: self.address_observer.clone(),
            index,
            applications: Arc::clone(&self.applications),
            application_index: Arc::clone(&self.application_index),
        }
    }

    /// Replaces the configurations of applications.
    #[must_use]
    pub fn with_applications(self, applications: Configurations<Application>) -> Self {
        let application_index = Arc::new(Index::of(&applications));
        Self { applications: Arc::new(applications), application_index, ..self }
    }

    /// Returns device and application configurations together.
    pub(crate) fn every_configuration(&self) -> AllConfigurations {
        AllConfigurations {
            devices: Arc::clone(&self.device_configurations),
            applications: Arc::clone(&self.applications),
        }
    }

    /// Returns the mode for the authority of this name and key in a trust domain.  `has_address` is
    /// true if an address of its list is known.  The operator's setting for all authorities takes
    /// precedence over that for a single one.
    ///
    /// Only the operator switches checks off.  Without an address, a list that another configuration
    /// brings for the same name and key still counts.
    pub(crate) fn crl_mode(
        &self,
        domain: &str,
        name: &Name,
        key: Fingerprint,
        has_address: bool,
    ) -> CrlMode {
        let configured = || self.revocations.policy().of(domain, name, key).mode;
        self.policy.crl.or_else(configured).unwrap_or(if has_address || self.policy.require_crl {
            CrlMode::Require
        } else {
            CrlMode::IfAvailable
        })
    }

    /// Replaces the device registries.
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
