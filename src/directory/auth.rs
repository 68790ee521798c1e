//! Who may ask what of the directory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::directory::errors::Fault;
use crate::domain::cert::Fingerprint;

/// Graph's permissions for what the directory serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// `MutualTlsOauthConfiguration.Read.All`.
    MutualTlsRead,
    /// `MutualTlsOauthConfiguration.ReadWrite.All`.
    MutualTlsReadWrite,
    /// `AppCertTrustConfiguration.Read.All`.
    ApplicationRead,
    /// `AppCertTrustConfiguration.ReadWrite.All`.
    ApplicationReadWrite,
    /// `Directory.Read.All`.
    DirectoryRead,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 5] = [
        Self::MutualTlsRead,
        Self::MutualTlsReadWrite,
        Self::ApplicationRead,
        Self::ApplicationReadWrite,
        Self::DirectoryRead,
    ];

    /// The name that Graph gives it, in `roles` and `scp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTlsRead => "MutualTlsOauthConfiguration.Read.All",
            Self::MutualTlsReadWrite => "MutualTlsOauthConfiguration.ReadWrite.All",
            Self::ApplicationRead => "AppCertTrustConfiguration.Read.All",
            Self::ApplicationReadWrite => "AppCertTrustConfiguration.ReadWrite.All",
            Self::DirectoryRead => "Directory.Read.All",
        }
    }

    /// The permission of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str().eq_ignore_ascii_case(name))
    }
}

/// What a request needs; any one permission of a list is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// To read mutualTlsOauthConfigurations.
    ReadMutualTls,
    /// To change them.
    WriteMutualTls,
    /// To read certificateBasedApplicationConfigurations.
    ReadApplications,
    /// To change them.
    WriteApplications,
}

impl Need {
    fn any_of(self) -> &'static [Permission] {
        use Permission::*;
        match self {
            Self::ReadMutualTls => &[MutualTlsRead, MutualTlsReadWrite, DirectoryRead],
            Self::WriteMutualTls => &[MutualTlsReadWrite],
            Self::ReadApplications => &[ApplicationRead, ApplicationReadWrite, DirectoryRead],
            Self::WriteApplications => &[ApplicationReadWrite],
        }
    }
}

/// A bearer token that the configuration lists, for machines without an issuer.
#[derive(Debug, Clone)]
pub struct StaticToken {
    /// Who carries it, for the audit log.
    pub name: String,
    /// SHA-256 of the token: the token itself is nowhere in the configuration.
    pub sha256: [u8; 32],
    /// What it may do.
    pub permissions: Vec<Permission>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For the audit log.
    pub name: String,
    permissions: Vec<Permission>,
}

impl Caller {
    /// Refuses what the caller may not do.
    pub fn require(&self, need: Need) -> Result<(), Fault> {
        match need.any_of().iter().any(|p| self.permissions.contains(p)) {
            true => Ok(()),
            false => Err(Fault::Forbidden),
        }
    }
}

/// Knows callers by their bearer tokens.
pub struct Authenticator {
    /// By SHA-256 of the token.  To look up a hash tells by its time nothing about the token.
    tokens: HashMap<[u8; 32], Arc<Caller>>,
}

impl Authenticator {
    /// Knows the callers of `tokens`.
    pub fn new(tokens: Vec<StaticToken>) -> Self {
        let caller = |t: StaticToken| {
            (t.sha256, Arc::new(Caller { name: t.name, permissions: t.permissions }))
        };
        Self { tokens: tokens.into_iter().map(caller).collect() }
    }

    /// The caller of an `Authorization` header.
    pub fn caller(&self, authorization: Option<&str>) -> Result<Arc<Caller>, Fault> {
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| !token.is_empty())
            .ok_or(Fault::Token("Access token is empty."))?;
        let hash = Fingerprint::of(token.as_bytes()).0;
        self.tokens.get(&hash).cloned().ok_or(Fault::Token("Access token is not accepted."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authenticator() -> Authenticator {
        Authenticator::new(vec![StaticToken {
            name: "sync".into(),
            sha256: Fingerprint::of(b"s3cret").0,
            permissions: vec![Permission::MutualTlsRead],
        }])
    }

    #[test]
    fn a_known_token_is_its_caller() {
        let caller = authenticator().caller(Some("bearer s3cret")).expect("a caller");
        assert_eq!(caller.name, "sync");
        assert_eq!(caller.require(Need::ReadMutualTls), Ok(()));
        assert_eq!(caller.require(Need::WriteMutualTls), Err(Fault::Forbidden));
        assert_eq!(caller.require(Need::ReadApplications), Err(Fault::Forbidden));
    }

    #[test]
    fn anything_else_is_refused() {
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic s3cret")] {
            let got = authenticator().caller(header).err();
            assert_eq!(got, Some(Fault::Token("Access token is empty.")), "{header:?}");
        }
        for header in ["Bearer s3cres", "Bearer s3cret x", "Bearer S3CRET"] {
            let got = authenticator().caller(Some(header)).err();
            assert_eq!(got, Some(Fault::Token("Access token is not accepted.")), "{header}");
        }
    }

    #[test]
    fn permissions_have_graphs_names() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(permission.as_str()), Some(permission));
        }
        assert_eq!(Permission::parse("MutualTlsOauthConfiguration.Write"), None);
    }
}
