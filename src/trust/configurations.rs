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

/// The kind of client that a configuration trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Devices (`mutualTlsOauthConfiguration`), identified by the field that `tlsClientAuthParameter`
    /// names.
    Devices(SubjectField),
    /// Applications (`certificateBasedApplicationConfiguration`).  The client that is assigned to the
    /// configuration, not the configuration, decides which application a certificate identifies.
    Applications,
}

impl Kind {
    /// Returns the name of the identifying field, or `applications`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Devices(field) => field.as_str(),
            Self::Applications => "applications",
        }
    }
}

/// One `mutualTlsOauthConfiguration` or `certificateBasedApplicationConfiguration`.  A chain that is
/// valid for one configuration means nothing for another, least of all for one of the other kind.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Graph's `id`.
    pub id: ConfigurationId,
    /// The trust domain: the directory that sends it, by its name in the settings.  The assembly sets
    /// it.
    pub domain: Arc<str>,
    /// Graph's `displayName`.
    pub display_name: String,
    /// The kind of client that it trusts.
    pub kind: Kind,
    /// Devices that it admits.
    pub devices: Devices,
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

/// All configurations of one kind from one source.
#[derive(Debug, Clone, Default)]
pub struct AnchorSet {
    /// The configurations in force.
    pub configurations: Vec<Configuration>,
    /// Parts that are not in force.
    pub skipped: Vec<Skipped>,
}

impl AnchorSet {
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
