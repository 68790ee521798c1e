//! Configurations and their authorities, as the directory states them.

use std::fmt;
use std::sync::Arc;

use crate::trust::subject::SubjectField;
use crate::x509::certificate::Certificate;

/// A configuration's stable identity: its Graph `id`, prefixed by the source where there are several.
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

/// Which devices a configuration admits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Devices {
    /// Any certificate under its anchors.
    #[default]
    Any,
    /// Only subject IDs that the device registry of this source has, enabled.
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

/// For whom a configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Devices (`mutualTlsOauthConfiguration`), told apart by this field: `tlsClientAuthParameter`.
    Devices(SubjectField),
    /// Applications (`certificateBasedApplicationConfiguration`).  Which of them a certificate is for
    /// is not the configuration's to say, but the client's that is assigned to it.
    Applications,
}

impl Kind {
    /// What tells its members apart, in a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Devices(field) => field.as_str(),
            Self::Applications => "applications",
        }
    }
}

/// One `mutualTlsOauthConfiguration` or `certificateBasedApplicationConfiguration`: a trust domain.  A
/// chain that is good for one configuration is nothing for another, least of all for one of the other
/// kind.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Graph's `id`.
    pub id: ConfigurationId,
    /// Graph's `displayName`.
    pub display_name: String,
    /// For whom it is.
    pub kind: Kind,
    /// Which devices are admitted.
    pub devices: Devices,
    /// Roots and intermediates, in the directory's order.
    pub authorities: Vec<Authority>,
}

/// Something of a directory's answer that is not in force, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The configuration it belongs to.
    pub configuration: ConfigurationId,
    /// Names the configuration or certificate and the rule.
    pub why: String,
}

/// All configurations of one source that are of one kind.
#[derive(Debug, Clone, Default)]
pub struct AnchorSet {
    /// The configurations in force.
    pub configurations: Vec<Configuration>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
}

impl AnchorSet {
    /// Every authority of every configuration.
    pub fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.configurations.iter().flat_map(|configuration| &configuration.authorities)
    }
}
