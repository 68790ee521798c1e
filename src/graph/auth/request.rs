//! Token requests: one function for each credential.

use std::path::Path;
use std::time::{Duration, SystemTime};

use reqwest::{Client, RequestBuilder};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use crate::graph::auth::assertion::client_assertion;
use crate::graph::auth::credential::{AssertionStyle, Credential, ManagedIdentity, TokenEndpoint};
use crate::graph::auth::error::AuthError;
use crate::graph::auth::response::{IssuedToken, send};
use crate::http::outbound::{ClientSettings, ProxyChoice};
use crate::runtime::files::read_bounded_async;
use crate::runtime::log::Secret;
use crate::x509::time::Timestamp;

/// Largest file of a credential, in bytes.
const MAX_FILE: u64 = 256 * 1024;
/// Lifetime of a fixed token: it is never renewed.
const STATIC_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Requests one token.  `claims` are those that the directory demanded (continuous access evaluation).
pub(super) async fn request_token(
    credential: &Credential,
    http: &ClientSettings,
    claims: Option<&str>,
) -> Result<IssuedToken, AuthError> {
    let requests = Requests { http, claims };
    let request = match credential {
        Credential::Static(secret) => {
            return Ok(IssuedToken { secret: secret.clone(), lifetime: STATIC_LIFETIME });
        }
        Credential::ClientSecret { endpoint, secret } => {
            requests.client_secret(endpoint, secret)?
        }
        Credential::ClientCertificate { endpoint, certificate, key, style, send_chain } => {
            requests.client_certificate(endpoint, certificate, key, *style, *send_chain).await?
        }
        Credential::WorkloadIdentity { endpoint, token_file } => {
            requests.workload_identity(endpoint, token_file).await?
        }
        Credential::InstanceMetadata { url, resource, identity } => {
            requests.instance_metadata(url, resource, identity)?
        }
        Credential::AppService { url, header, resource, identity } => {
            requests.app_service(url, header, resource, identity)?
        }
        Credential::MutualTls { endpoint, certificate, key } => {
            requests.mutual_tls(endpoint, certificate, key).await?
        }
    };
    send(request).await
}

/// Builds an HTTP client that authenticates with a certificate.  The files are read each time because
/// they are renewed while the process runs.
pub(super) async fn certificate_client(
    http: &ClientSettings,
    certificate: &Path,
    key: &Path,
) -> Result<Client, AuthError> {
    let unreadable = |path: &Path, error: pem::Error| {
        AuthError::Credential(format!("{}: {error}", path.display()))
    };
    let chain = CertificateDer::pem_slice_iter(&read_file(certificate).await?)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(certificate, error))?;
    let private = PrivateKeyDer::from_pem_slice(&read_file(key).await?)
        .map_err(|error| unreadable(key, error))?;
    Ok(http.client_as(chain, private)?)
}

/// Builds token requests.
struct Requests<'a> {
    http: &'a ClientSettings,
    claims: Option<&'a str>,
}

impl Requests<'_> {
    fn client_secret(
        &self,
        endpoint: &TokenEndpoint,
        secret: &Secret,
    ) -> Result<RequestBuilder, AuthError> {
        self.grant(endpoint, &[("client_secret", secret.expose())])
    }

    async fn client_certificate(
        &self,
        endpoint: &TokenEndpoint,
        certificate: &Path,
        key: &Path,
        style: AssertionStyle,
        send_chain: bool,
    ) -> Result<RequestBuilder, AuthError> {
        let (chain, key) = (read_file(certificate).await?, read_file(key).await?);
        let now = Timestamp::from(SystemTime::now());
        let jwt = client_assertion(endpoint, &chain, &key, style, send_chain, now)?;
        self.assertion(endpoint, &jwt)
    }

    async fn workload_identity(
        &self,
        endpoint: &TokenEndpoint,
        token_file: &Path,
    ) -> Result<RequestBuilder, AuthError> {
        let jwt = String::from_utf8(read_file(token_file).await?).map_err(|_| {
            AuthError::Credential(format!("{}: not UTF-8 text", token_file.display()))
        })?;
        self.assertion(endpoint, &Secret::new(jwt.trim()))
    }

    fn instance_metadata(
        &self,
        url: &Url,
        resource: &str,
        identity: &ManagedIdentity,
    ) -> Result<RequestBuilder, AuthError> {
        let selectors = ["client_id", "object_id", "msi_res_id"];
        let url = managed_identity_url(url, "2018-02-01", resource, identity, selectors);
        Ok(self.direct()?.get(url).header("Metadata", "true"))
    }

    fn app_service(
        &self,
        url: &Url,
        header: &Secret,
        resource: &str,
        identity: &ManagedIdentity,
    ) -> Result<RequestBuilder, AuthError> {
        let selectors = ["client_id", "principal_id", "mi_res_id"];
        let url = managed_identity_url(url, "2019-08-01", resource, identity, selectors);
        Ok(self.direct()?.get(url).header("X-IDENTITY-HEADER", header.expose()))
    }

    /// Anchorgate's own token endpoint does not use `claims`.
    async fn mutual_tls(
        &self,
        endpoint: &TokenEndpoint,
        certificate: &Path,
        key: &Path,
    ) -> Result<RequestBuilder, AuthError> {
        let http = certificate_client(self.http, certificate, key).await?;
        Ok(http.post(endpoint.url.clone()).form(&client_credentials(endpoint)))
    }

    /// Requests a token with a client assertion (RFC 7523 section 2.2).
    fn assertion(
        &self,
        endpoint: &TokenEndpoint,
        jwt: &Secret,
    ) -> Result<RequestBuilder, AuthError> {
        const BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        self.grant(
            endpoint,
            &[("client_assertion_type", BEARER), ("client_assertion", jwt.expose())],
        )
    }

    /// Requests a token by the client credentials grant; `proof` authenticates the client.
    fn grant(
        &self,
        endpoint: &TokenEndpoint,
        proof: &[(&str, &str)],
    ) -> Result<RequestBuilder, AuthError> {
        let mut form = client_credentials(endpoint).to_vec();
        form.extend(self.claims.map(|claims| ("claims", claims)));
        form.extend(proof);
        Ok(self.http.client()?.post(endpoint.url.clone()).form(&form))
    }

    /// Builds an HTTP client without a proxy, for addresses of the machine's own network.
    fn direct(&self) -> Result<Client, AuthError> {
        let settings = ClientSettings { proxy: ProxyChoice::Direct, ..self.http.clone() };
        Ok(settings.client()?)
    }
}

/// Form fields of the client credentials grant (RFC 6749 section 4.4.2).
fn client_credentials(endpoint: &TokenEndpoint) -> [(&str, &str); 3] {
    [
        ("grant_type", "client_credentials"),
        ("client_id", &endpoint.client_id),
        ("scope", &endpoint.scope),
    ]
}

/// Builds the token URL of a managed identity.  `selectors` are the endpoint's parameter names for the
/// client, object and resource id.
fn managed_identity_url(
    url: &Url,
    version: &str,
    resource: &str,
    identity: &ManagedIdentity,
    selectors: [&str; 3],
) -> Url {
    let mut url = url.clone();
    let [client_id, object_id, resource_id] = selectors;
    let selected = match identity {
        ManagedIdentity::System => None,
        ManagedIdentity::ClientId(id) => Some((client_id, id)),
        ManagedIdentity::ObjectId(id) => Some((object_id, id)),
        ManagedIdentity::ResourceId(id) => Some((resource_id, id)),
    };
    url.query_pairs_mut()
        .append_pair("api-version", version)
        .append_pair("resource", resource)
        .extend_pairs(selected);
    url
}

async fn read_file(path: &Path) -> Result<Vec<u8>, AuthError> {
    let read = read_bounded_async(path, MAX_FILE).await;
    read.map_err(|error| AuthError::Credential(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::auth::credential::INSTANCE_METADATA;

    #[test]
    fn builds_the_url_of_a_managed_identity() {
        let url = Url::parse(INSTANCE_METADATA).expect("a URL");
        let query = |identity| {
            let selectors = ["client_id", "object_id", "msi_res_id"];
            let graph = "https://graph.microsoft.com";
            let url = managed_identity_url(&url, "2018-02-01", graph, &identity, selectors);
            url.query().map(str::to_owned).expect("a query")
        };
        let common = "api-version=2018-02-01&resource=https%3A%2F%2Fgraph.microsoft.com";
        assert_eq!(query(ManagedIdentity::System), common);
        for (identity, selected) in [
            (ManagedIdentity::ClientId("a b".into()), "client_id=a+b"),
            (ManagedIdentity::ObjectId("o".into()), "object_id=o"),
            (ManagedIdentity::ResourceId("/r".into()), "msi_res_id=%2Fr"),
        ] {
            assert_eq!(query(identity), format!("{common}&{selected}"));
        }
    }
}
