//! Settings of each kind of credential.

use std::path::{Path, PathBuf};

use url::Url;

use crate::runtime::log::Secret;

/// Token address of the instance metadata service.
pub const INSTANCE_METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// Token endpoint, with the client and the scope of the token requests.
#[derive(Debug, Clone)]
pub struct TokenEndpoint {
    /// URL of the endpoint.
    pub url: Url,
    /// `client_id` of the requests.
    pub client_id: String,
    /// `scope` of the requests, such as `https://graph.microsoft.com/.default`.
    pub scope: String,
}

/// Selects one of the managed identities of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManagedIdentity {
    /// The system-assigned identity.
    System,
    /// The user-assigned identity with this client id.
    ClientId(String),
    /// The user-assigned identity with this object id.
    ObjectId(String),
    /// The user-assigned identity with this resource id.
    ResourceId(String),
}

/// Signature algorithm and key identification of a client assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssertionStyle {
    /// PS256 and `x5t#S256`.
    #[default]
    Ps256,
    /// RS256 and `x5t` (SHA-1), for token endpoints without PS256.
    Rs256,
}

/// A method to obtain access tokens.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A fixed access token.
    Static(Secret),
    /// A client secret (RFC 6749 section 4.4).
    ClientSecret {
        /// Token endpoint.
        endpoint: TokenEndpoint,
        /// The secret.
        secret: Secret,
    },
    /// A client assertion signed with the key of a certificate (RFC 7523).
    ClientCertificate {
        /// Token endpoint.
        endpoint: TokenEndpoint,
        /// PEM file of the certificate and its issuers.
        certificate: PathBuf,
        /// PEM file of its RSA key.
        key: PathBuf,
        /// Signature algorithm.
        style: AssertionStyle,
        /// Send the certificates in the assertion (`x5c`), for registrations by subject and issuer.
        send_chain: bool,
    },
    /// A client assertion that a platform renews in a file (workload identity federation).
    WorkloadIdentity {
        /// Token endpoint.
        endpoint: TokenEndpoint,
        /// File of the assertion.  It is read for every token.
        token_file: PathBuf,
    },
    /// The instance metadata service of an Azure virtual machine.
    InstanceMetadata {
        /// Token address, usually [`INSTANCE_METADATA`].
        url: Url,
        /// Resource that the token is for, such as `https://graph.microsoft.com`.
        resource: String,
        /// Identity that the token is issued to.
        identity: ManagedIdentity,
    },
    /// The managed identity of Azure App Service.
    AppService {
        /// `IDENTITY_ENDPOINT`.
        url: Url,
        /// `IDENTITY_HEADER`.
        header: Secret,
        /// Resource that the token is for.
        resource: String,
        /// Identity that the token is issued to.
        identity: ManagedIdentity,
    },
    /// A client certificate in the handshake with the token endpoint of another anchorgate.
    MutualTls {
        /// Token endpoint.
        endpoint: TokenEndpoint,
        /// PEM file of the certificate and its issuers.
        certificate: PathBuf,
        /// PEM file of its key.
        key: PathBuf,
    },
}

impl Credential {
    /// Returns the file of the private key.
    pub fn key_file(&self) -> Option<&Path> {
        match self {
            Self::ClientCertificate { key, .. } | Self::MutualTls { key, .. } => Some(key),
            Self::Static(_)
            | Self::ClientSecret { .. }
            | Self::WorkloadIdentity { .. }
            | Self::InstanceMetadata { .. }
            | Self::AppService { .. } => None,
        }
    }

    /// Returns the tenant in the path of Entra ID's token endpoint, `/{tenant}/oauth2/v2.0/token`.
    pub fn tenant(&self) -> Option<String> {
        let endpoint = match self {
            Self::ClientSecret { endpoint, .. }
            | Self::ClientCertificate { endpoint, .. }
            | Self::WorkloadIdentity { endpoint, .. }
            | Self::MutualTls { endpoint, .. } => endpoint,
            Self::Static(_) | Self::InstanceMetadata { .. } | Self::AppService { .. } => {
                return None;
            }
        };
        let segments: Vec<&str> = endpoint.url.path_segments()?.collect();
        match segments[..] {
            [tenant, "oauth2", "v2.0", "token"] if !tenant.is_empty() => Some(tenant.to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_has_the_tenant_of_its_token_endpoint() {
        let tenant = |path: &str| {
            let url = Url::parse(&format!("https://login.example{path}")).expect("a URL");
            let endpoint = TokenEndpoint { url, client_id: "c".into(), scope: "s".into() };
            Credential::ClientSecret { endpoint, secret: Secret::new("x") }.tenant()
        };
        assert_eq!(
            tenant("/contoso.example/oauth2/v2.0/token").as_deref(),
            Some("contoso.example")
        );
        for other in ["/oauth2/token", "//oauth2/v2.0/token", "/a/b/oauth2/v2.0/token", "/"] {
            assert_eq!(tenant(other), None, "{other}");
        }
        assert_eq!(Credential::Static(Secret::new("x")).tenant(), None);
    }
}
