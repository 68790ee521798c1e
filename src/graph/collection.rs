//! The collections of a directory that a gateway follows.

use std::sync::Arc;

/// What of a directory is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collection {
    /// `mutualTlsOauthConfigurations`: whose devices are trusted.
    #[default]
    Devices,
    /// `certificateBasedApplicationConfigurations`: whose applications are.
    Applications,
}

impl Collection {
    /// Its path below the directory's root.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Devices => "beta/directory/certificateAuthorities/mutualTlsOauthConfigurations",
            Self::Applications => {
                "beta/directory/certificateAuthorities/certificateBasedApplicationConfigurations"
            }
        }
    }

    /// The query that makes a list of it whole.
    pub const fn query(self) -> Option<&'static str> {
        match self {
            Self::Devices => None,
            // Authorities are a navigation property there.
            Self::Applications => Some("$expand=trustedCertificateAuthorities"),
        }
    }

    /// What the sync with it is called, where that with the devices' is called as the directory is.
    pub(crate) fn name_in(self, source: &Arc<str>) -> Arc<str> {
        match self {
            Self::Devices => Arc::clone(source),
            Self::Applications => format!("{source}/applications").into(),
        }
    }
}
