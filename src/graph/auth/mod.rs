//! How a gateway proves to a directory who it is: credentials, and the access tokens they give.
//!
//! # Why not a library
//! Microsoft's own has its certificate credential on OpenSSL; the grants are one form each.

mod answer;
mod assertion;
mod cloud;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::{Identity, RequestBuilder};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::graph::auth::answer::{UNKNOWN_LIFE, send};
use crate::graph::auth::assertion::client_assertion;
use crate::http::outbound::{ClientError, ClientSettings, ProxyChoice, explain};
use crate::runtime::log::Secret;
use crate::x509::time::Timestamp;

pub use answer::challenge_claims;
pub use assertion::AssertionStyle;
pub use cloud::Cloud;

/// Tokens are renewed this long before they end, or at half their life if that is shorter.
const RENEW_EARLY: Duration = Duration::from_secs(300);
/// Bytes of a credential's file.
const MAX_FILE: u64 = 256 * 1024;

/// Where and for what a token is asked.
#[derive(Debug, Clone)]
pub struct TokenEndpoint {
    /// The token endpoint.
    pub url: Url,
    /// Who asks.
    pub client_id: String,
    /// For what, such as `https://graph.microsoft.com/.default`.
    pub scope: String,
}

/// Which of several managed identities is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManagedIdentity {
    /// The system-assigned one.
    System,
    /// The user-assigned one with this client id.
    ClientId(String),
    /// The user-assigned one with this object id.
    ObjectId(String),
    /// The user-assigned one with this resource id.
    ResourceId(String),
}

/// A way to an access token.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A token that somebody else made.
    Static(Secret),
    /// A secret of the client (RFC 6749 section 4.4).
    ClientSecret {
        /// Where.
        endpoint: TokenEndpoint,
        /// The secret.
        secret: Secret,
    },
    /// A client assertion signed with the key of a certificate (RFC 7523).
    ClientCertificate {
        /// Where.
        endpoint: TokenEndpoint,
        /// The certificate and what it was issued by, PEM.
        certificate: PathBuf,
        /// Its RSA key, PEM.
        key: PathBuf,
        /// How the assertion is signed.
        style: AssertionStyle,
        /// Send the certificates along (`x5c`), for registrations by subject and issuer.
        send_chain: bool,
    },
    /// An assertion that a platform puts into a file and renews (workload identity federation).
    WorkloadIdentity {
        /// Where.
        endpoint: TokenEndpoint,
        /// The file; read for every token.
        token_file: PathBuf,
    },
    /// The instance metadata service of an Azure virtual machine.
    InstanceMetadata {
        /// Its address, `http://169.254.169.254/metadata/identity/oauth2/token` unless moved.
        url: Url,
        /// For what, such as `https://graph.microsoft.com`.
        resource: String,
        /// As whom.
        identity: ManagedIdentity,
    },
    /// The managed identity of Azure App Service.
    AppService {
        /// `IDENTITY_ENDPOINT`.
        url: Url,
        /// `IDENTITY_HEADER`.
        header: Secret,
        /// For what.
        resource: String,
        /// As whom.
        identity: ManagedIdentity,
    },
    /// A client certificate in the handshake, at the token endpoint of another anchorgate.
    MutualTls {
        /// Where.
        endpoint: TokenEndpoint,
        /// The certificate and what it was issued by, PEM.
        certificate: PathBuf,
        /// Its key, PEM.
        key: PathBuf,
    },
}

/// The instance metadata service's token address.
pub const INSTANCE_METADATA: &str = "http://169.254.169.254/metadata/identity/oauth2/token";

/// Why there is no token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthError {
    /// A file of the credential cannot be used.
    #[error("credential: {0}")]
    Credential(String),
    /// The token endpoint was not reached, or broke off.
    #[error("token endpoint {host}: {why}")]
    Transport {
        /// Its host.
        host: String,
        /// What happened.
        why: String,
    },
    /// It answered with an error.
    #[error("token endpoint {host}: {status}: {why}")]
    Refused {
        /// Its host.
        host: String,
        /// HTTP status.
        status: u16,
        /// The error and its description.
        why: String,
    },
}

impl From<ClientError> for AuthError {
    fn from(error: ClientError) -> Self {
        Self::Credential(error.to_string())
    }
}

/// An access token.
#[derive(Clone)]
pub struct Token {
    /// To be sent.
    pub secret: Secret,
    /// Which of the tokens so far it is.
    pub number: u64,
    renew_at: Instant,
    expires: Instant,
}

/// Gets tokens, keeps the last one, and lets all who need a new one wait for the same request.
pub struct TokenSource {
    credential: Credential,
    http: ClientSettings,
    /// Held while a token is asked for: that is what makes it one flight.
    last: Mutex<Option<Token>>,
}

impl TokenSource {
    /// Tokens by this credential.
    pub fn new(credential: Credential, http: ClientSettings) -> Self {
        Self { credential, http, last: Mutex::new(None) }
    }

    /// A token with some life left.
    pub async fn token(&self) -> Result<Token, AuthError> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(token) = last.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.clone());
        }
        match self.acquire(&last, None).await {
            Ok(token) => Ok(last.insert(token).clone()),
            // Renewal is early so that a dead token endpoint has time to come back.
            Err(error) => match last.as_ref().filter(|token| now < token.expires) {
                Some(token) => Ok(token.clone()),
                None => Err(error),
            },
        }
    }

    /// Another token than `refused`, which the directory did not take; with the claims that it asked
    /// for, if it did.
    pub async fn other_than(
        &self,
        refused: &Token,
        claims: Option<&str>,
    ) -> Result<Token, AuthError> {
        let mut last = self.last.lock().await;
        if let Some(token) = last.as_ref().filter(|token| token.number > refused.number) {
            return Ok(token.clone());
        }
        let token = self.acquire(&last, claims).await?;
        Ok(last.insert(token).clone())
    }

    /// An HTTP client that presents what tokens are bound to: the certificate that they were got with
    /// (RFC 8705 section 3).  `None` where tokens are not bound.
    pub async fn bound_client(&self) -> Result<Option<reqwest::Client>, AuthError> {
        match &self.credential {
            Credential::MutualTls { certificate, key, .. } => {
                let identity = identity(certificate, key).await?;
                Ok(Some(self.http.client_as(&identity)?))
            }
            _ => Ok(None),
        }
    }

    async fn acquire(
        &self,
        last: &Option<Token>,
        claims: Option<&str>,
    ) -> Result<Token, AuthError> {
        let number = last.as_ref().map_or(0, |token| token.number) + 1;
        let now = Instant::now();
        if let Credential::Static(secret) = &self.credential {
            let never = now + Duration::from_secs(10 * 365 * 86_400);
            return Ok(Token { secret: secret.clone(), number, renew_at: never, expires: never });
        }
        let (secret, life) = self.request(claims).await?;
        let early = RENEW_EARLY.min(life / 2);
        Ok(Token { secret, number, renew_at: now + life - early, expires: now + life })
    }

    /// A client past any proxy, for addresses of the machine's own network.
    fn direct(&self) -> Result<reqwest::Client, AuthError> {
        let settings = ClientSettings { proxy: ProxyChoice::Direct, ..self.http.clone() };
        Ok(settings.client()?)
    }

    async fn request(&self, claims: Option<&str>) -> Result<(Secret, Duration), AuthError> {
        const BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let assertion = |endpoint: &TokenEndpoint, jwt: Secret| {
            self.grant(
                endpoint,
                claims,
                &[("client_assertion_type", BEARER), ("client_assertion", jwt.expose())],
            )
        };
        let (url, request) = match &self.credential {
            Credential::Static(secret) => return Ok((secret.clone(), UNKNOWN_LIFE)),
            Credential::ClientSecret { endpoint, secret } => (
                &endpoint.url,
                self.grant(endpoint, claims, &[("client_secret", secret.expose())])?,
            ),
            Credential::ClientCertificate { endpoint, certificate, key, style, send_chain } => {
                let (chain, key) = (read_file(certificate).await?, read_file(key).await?);
                let now = Timestamp::from(SystemTime::now());
                let jwt = client_assertion(endpoint, &chain, &key, *style, *send_chain, now)?;
                (&endpoint.url, assertion(endpoint, jwt)?)
            }
            Credential::WorkloadIdentity { endpoint, token_file } => {
                let jwt = read_file(token_file).await?;
                let jwt = String::from_utf8(jwt).map_err(|_| {
                    AuthError::Credential(format!("{}: not text", token_file.display()))
                })?;
                (&endpoint.url, assertion(endpoint, Secret::new(jwt.trim()))?)
            }
            Credential::InstanceMetadata { url, resource, identity } => {
                let http = self.direct()?;
                let names = ["client_id", "object_id", "msi_res_id"];
                let request = http
                    .get(managed(url, "2018-02-01", resource, identity, names))
                    .header("Metadata", "true");
                (url, request)
            }
            Credential::AppService { url, header, resource, identity } => {
                let http = self.direct()?;
                let names = ["client_id", "principal_id", "mi_res_id"];
                let request = http
                    .get(managed(url, "2019-08-01", resource, identity, names))
                    .header("X-IDENTITY-HEADER", header.expose());
                (url, request)
            }
            Credential::MutualTls { endpoint, certificate, key } => {
                let identity = identity(certificate, key).await?;
                let http = self.http.client_as(&identity)?;
                let form = [
                    ("grant_type", "client_credentials"),
                    ("client_id", &endpoint.client_id),
                    ("scope", &endpoint.scope),
                ];
                (&endpoint.url, http.post(endpoint.url.clone()).form(&form))
            }
        };
        send(url, request).await
    }

    fn grant(
        &self,
        endpoint: &TokenEndpoint,
        claims: Option<&str>,
        proof: &[(&str, &str)],
    ) -> Result<RequestBuilder, AuthError> {
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &endpoint.client_id),
            ("scope", &endpoint.scope),
        ];
        form.extend(claims.map(|claims| ("claims", claims)));
        form.extend(proof);
        Ok(self.http.client()?.post(endpoint.url.clone()).form(&form))
    }
}

/// A client certificate and its key, as the files have them now: both are renewed while we run.
async fn identity(certificate: &PathBuf, key: &PathBuf) -> Result<Identity, AuthError> {
    let mut pem = read_file(certificate).await?;
    pem.push(b'\n');
    pem.extend(read_file(key).await?);
    Identity::from_pem(&pem).map_err(|error| {
        AuthError::Credential(format!("{}: {}", certificate.display(), explain(&error)))
    })
}

async fn read_file(path: &PathBuf) -> Result<Vec<u8>, AuthError> {
    let failed = |why: String| AuthError::Credential(format!("{}: {why}", path.display()));
    let length = tokio::fs::metadata(path).await.map_err(|e| failed(e.to_string()))?.len();
    if length > MAX_FILE {
        return Err(failed(format!("{length} bytes; at most {MAX_FILE} are read")));
    }
    tokio::fs::read(path).await.map_err(|e| failed(e.to_string()))
}

fn managed(
    url: &Url,
    version: &str,
    resource: &str,
    identity: &ManagedIdentity,
    [client_id, object_id, resource_id]: [&str; 3],
) -> Url {
    let mut url = url.clone();
    let mut query = url.query_pairs_mut();
    query.append_pair("api-version", version).append_pair("resource", resource);
    match identity {
        ManagedIdentity::System => {}
        ManagedIdentity::ClientId(id) => drop(query.append_pair(client_id, id)),
        ManagedIdentity::ObjectId(id) => drop(query.append_pair(object_id, id)),
        ManagedIdentity::ResourceId(id) => drop(query.append_pair(resource_id, id)),
    }
    drop(query);
    url
}

/// Shared by everybody who asks this source.
pub type Tokens = Arc<TokenSource>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_identities_are_asked_for_in_their_way() {
        let url = Url::parse(INSTANCE_METADATA).expect("a URL");
        let names = ["client_id", "object_id", "msi_res_id"];
        let id = ManagedIdentity::ClientId("a b".into());
        let asked = managed(&url, "2018-02-01", "https://graph.microsoft.com", &id, names);
        assert_eq!(
            asked.query(),
            Some("api-version=2018-02-01&resource=https%3A%2F%2Fgraph.microsoft.com&client_id=a+b")
        );
    }
}
