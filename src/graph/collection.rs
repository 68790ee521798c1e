//! The collections of configurations that a gateway follows.

use std::sync::Arc;

/// A collection of configurations in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collection {
    /// `mutualTlsOauthConfigurations`: which devices are trusted.
    #[default]
    MutualTlsOauth,
    /// `certificateBasedApplicationConfigurations`: which applications are trusted.
    CertificateBasedApplication,
}

impl Collection {
    /// Path below the root of a directory.
    pub const fn path(self) -> &'static str {
        match self {
            Self::MutualTlsOauth => {
                "beta/directory/certificateAuthorities/mutualTlsOauthConfigurations"
            }
            Self::CertificateBasedApplication => {
                "beta/directory/certificateAuthorities/certificateBasedApplicationConfigurations"
            }
        }
    }

    /// Query that makes the list contain the authorities.
    pub(crate) const fn query(self) -> Option<&'static str> {
        match self {
            Self::MutualTlsOauth => None,
            // The authorities are a navigation property.
            Self::CertificateBasedApplication => Some("$expand=trustedCertificateAuthorities"),
        }
    }

    /// Type of its objects.
    pub(crate) const fn object_type(self) -> &'static str {
        match self {
            Self::MutualTlsOauth => "mutualTlsOauthConfiguration",
            Self::CertificateBasedApplication => "certificateBasedApplicationConfiguration",
        }
    }

    /// Name of the follower of this collection of the directory `source`.
    pub(crate) fn follower_name(self, source: &Arc<str>) -> Arc<str> {
        match self {
            Self::MutualTlsOauth => Arc::clone(source),
            Self::CertificateBasedApplication => format!("{source}/applications").into(),
        }
    }
}
