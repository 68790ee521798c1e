//! Configurations and their authorities, as a directory sends them.

use std::fmt;
use std::sync::Arc;

use crate::trust::subject::SubjectField;
use crate::x509::certificate::Certificate;

/// Stable identity of a configuration: its Graph `id`, prefixed by the source if there are several.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConfigurationId(pub Arc<str>);

impl ConfigurationId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ConfigurationId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for ConfigurationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Devices that a configuration admits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Devices {
    /// Any certificate under its anchors.
    #[default]
    Any,
    /// Only subject IDs of enabled devices in the registry of this source.
    Registered(Arc<str>),
}

/// One `certificateAuthority` of a configuration.
#[derive(Debug, Clone)]
pub struct Authority {
    /// The authority's certificate.
    pub certificate: Arc<Certificate>,
    /// A root is an anchor; an intermediate is path material.
    pub is_root: bool,
    /// `certificateRevocationListUrl`.
    pub crl_url: Option<Arc<str>>,
    /// `deltaCertificateRevocationListUrl`.
    pub delta_crl_url: Option<Arc<str>>,
}

/// The kind of client that a configuration trusts: [`Device`] or [`Application`].
pub trait Kind: fmt::Debug + Clone + PartialEq + Send + Sync + 'static {
    /// A certificate identifies its device by the configuration that it is valid for.
    const IDENTIFIES_DEVICES: bool;

    /// Returns the name of the identifying field, or `applications`.
    fn as_str(&self) -> &'static str;
}

/// Devices (`mutualTlsOauthConfiguration`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The field that `tlsClientAuthParameter` names: it identifies the device.
    pub subject_field: SubjectField,
    /// Devices that are admitted.
    pub devices: Devices,
}

/// Applications (`certificateBasedApplicationConfiguration`).  The client that is assigned to the
/// configuration, not the configuration, decides which application a certificate identifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Application;

impl Kind for Device {
    const IDENTIFIES_DEVICES: bool = true;

    fn as_str(&self) -> &'static str {
        self.subject_field.as_str()
    }
}

impl Kind for Application {
    const IDENTIFIES_DEVICES: bool = false;

    fn as_str(&self) -> &'static str {
        "applications"
    }
}

/// One configuration.  A chain that is valid for one configuration means nothing for another, least of
/// all for one of the other kind.
#[derive(Debug, Clone)]
pub struct Configuration<K> {
    /// Graph's `id`.
    pub id: ConfigurationId,
    /// The trust domain: the directory that sends it, by its name in the settings.  The assembly makes
    /// sure of it.
    pub domain: Arc<str>,
    /// Graph's `displayName`.
    pub display_name: String,
    /// The kind of client that it trusts.
    pub kind: K,
    /// Roots and intermediates, in the directory's order.
    pub authorities: Vec<Authority>,
}

/// A part of a directory's response that is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The configuration it belongs to.
    pub configuration: ConfigurationId,
    /// Reason, with the configuration or certificate and the rule.
    pub why: String,
}

/// Configurations of one kind.  Copies share the configurations.
#[derive(Debug, Clone)]
pub struct Configurations<K> {
    /// The configurations in force.
    pub configurations: Vec<Arc<Configuration<K>>>,
    /// Parts that are not in force.
    pub skipped: Vec<Skipped>,
}

impl<K> Default for Configurations<K> {
    fn default() -> Self {
        Self { configurations: Vec::new(), skipped: Vec::new() }
    }
}

impl<K> FromIterator<Configuration<K>> for Configurations<K> {
    fn from_iter<I: IntoIterator<Item = Configuration<K>>>(configurations: I) -> Self {
        let configurations = configurations.into_iter().map(Arc::new).collect();
        Self { configurations, skipped: Vec::new() }
    }
}

impl<K> Configurations<K> {
    /// Returns every authority of every configuration.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.configurations.iter().flat_map(|configuration| &configuration.authorities)
    }

    /// Returns every authority with its trust domain.
    pub fn authorities_by_domain(&self) -> impl Iterator<Item = (&Arc<str>, &Authority)> {
        self.configurations.iter().flat_map(|configuration| {
            configuration.authorities.iter().map(|authority| (&configuration.domain, authority))
        })
    }
}

/// The configurations of both kinds.  The CRL source needs both and does not distinguish them.
#[derive(Debug, Clone, Default)]
pub struct AllConfigurations {
    /// Those of devices.
    pub devices: Arc<Configurations<Device>>,
    /// Those of applications.
    pub applications: Arc<Configurations<Application>>,
}

impl AllConfigurations {
    /// Returns true if there are no configurations.
    pub fn is_empty(&self) -> bool {
        self.devices.configurations.is_empty() && self.applications.configurations.is_empty()
    }

    /// Returns every authority with its trust domain.
    pub fn authorities_by_domain(&self) -> impl Iterator<Item = (&Arc<str>, &Authority)> {
        self.devices.authorities_by_domain().chain(self.applications.authorities_by_domain())
    }
}

impl From<Arc<Configurations<Device>>> for AllConfigurations {
    fn from(devices: Arc<Configurations<Device>>) -> Self {
        Self { devices, ..Self::default() }
    }
}

impl From<Arc<Configurations<Application>>> for AllConfigurations {
    fn from(applications: Arc<Configurations<Application>>) -> Self {
        Self { applications, ..Self::default() }
    }
}
