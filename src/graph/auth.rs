//! How a gateway proves to a directory who it is: credentials, and the access tokens they give.
//!
//! # Why not a library
//! Microsoft's own has its certificate credential on OpenSSL; the grants are one form each.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::{Identity, RequestBuilder};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::domain::time::Timestamp;
use crate::graph::client::{HttpSettings, chain, read_limited};
use crate::runtime::log::Secret;
use crate::runtime::random::guid;

/// Tokens are renewed this long before they end, or at half their life if that is shorter.
const RENEW_EARLY: Duration = Duration::from_secs(300);
/// The life of a token whose answer does not say.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);
/// Bytes of a token answer.
const MAX_ANSWER: usize = 256 * 1024;
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

/// How a client assertion is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssertionStyle {
    /// PS256 and `x5t#S256`.
    #[default]
    Ps256,
    /// RS256 and `x5t` (SHA-1), for set-ups that know nothing newer.
    Rs256,
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
    http: HttpSettings,
    /// Held while a token is asked for: that is what makes it one flight.
    last: Mutex<Option<Token>>,
}

impl TokenSource {
    /// Tokens by this credential.
    pub fn new(credential: Credential, http: HttpSettings) -> Self {
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
                self.http.client(Some(identity)).map(Some)
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
                let http = self.http.without_proxy().client(None)?;
                let names = ["client_id", "object_id", "msi_res_id"];
                let request = http
                    .get(managed(url, "2018-02-01", resource, identity, names))
                    .header("Metadata", "true");
                (url, request)
            }
            Credential::AppService { url, header, resource, identity } => {
                let http = self.http.without_proxy().client(None)?;
                let names = ["client_id", "principal_id", "mi_res_id"];
                let request = http
                    .get(managed(url, "2019-08-01", resource, identity, names))
                    .header("X-IDENTITY-HEADER", header.expose());
                (url, request)
            }
            Credential::MutualTls { endpoint, certificate, key } => {
                let identity = identity(certificate, key).await?;
                let http = self.http.client(Some(identity))?;
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
        Ok(self.http.client(None)?.post(endpoint.url.clone()).form(&form))
    }
}

/// A client certificate and its key, as the files have them now: both are renewed while we run.
async fn identity(certificate: &PathBuf, key: &PathBuf) -> Result<Identity, AuthError> {
    let mut pem = read_file(certificate).await?;
    pem.push(b'\n');
    pem.extend(read_file(key).await?);
    Identity::from_pem(&pem).map_err(|error| {
        AuthError::Credential(format!("{}: {}", certificate.display(), chain(&error)))
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

/// A JWT that proves the possession of the certificate's key (RFC 7523 section 3).
fn client_assertion(
    endpoint: &TokenEndpoint,
    chain: &[u8],
    key: &[u8],
    style: AssertionStyle,
    send_chain: bool,
    now: Timestamp,
) -> Result<Secret, AuthError> {
    let bad = |why: &str| AuthError::Credential(why.into());
    let certificates = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| bad("the certificate file is not PEM"))?;
    let leaf =
        certificates.first().ok_or_else(|| bad("the certificate file has no certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("the key file has no PEM key"))?;
    let key = match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(bad("the key is not RSA: client assertions are signed by RSA keys")),
    };
    let key = key.map_err(|e| bad(&format!("the key is not an RSA key that can sign: {e}")))?;
    let thumbprint = |algorithm| URL_SAFE_NO_PAD.encode(digest::digest(algorithm, leaf).as_ref());
    let mut header = match style {
        AssertionStyle::Ps256 => {
            json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint(&digest::SHA256)})
        }
        AssertionStyle::Rs256 => {
            let x5t = thumbprint(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            json!({"alg": "RS256", "typ": "JWT", "x5t": x5t})
        }
    };
    if send_chain {
        header["x5c"] = certificates.iter().map(|c| STANDARD.encode(c)).collect();
    }
    let payload = json!({
        "aud": endpoint.url.as_str(), "iss": endpoint.client_id, "sub": endpoint.client_id,
        "iat": now.0, "nbf": now.0, "exp": now.0 + 600, "jti": guid(),
    });
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let mut jwt = format!("{}.{}", part(&header), part(&payload));
    let mut signature = vec![0; key.public_modulus_len()];
    let padding: &dyn aws_lc_rs::signature::RsaEncoding = match style {
        AssertionStyle::Ps256 => &RSA_PSS_SHA256,
        AssertionStyle::Rs256 => &RSA_PKCS1_SHA256,
    };
    key.sign(padding, &SystemRandom::new(), jwt.as_bytes(), &mut signature)
        .map_err(|_| bad("the key does not sign"))?;
    jwt.push('.');
    URL_SAFE_NO_PAD.encode_string(&signature, &mut jwt);
    Ok(Secret::new(jwt))
}

async fn send(url: &Url, request: RequestBuilder) -> Result<(Secret, Duration), AuthError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let transport = |why: String| AuthError::Transport { host: host.clone(), why };
    let response = request
        .header("Accept", "application/json")
        .header("client-request-id", guid())
        .send()
        .await
        .map_err(|error| transport(chain(&error)))?;
    let status = response.status().as_u16();
    let body = read_limited(response, MAX_ANSWER).await.map_err(|e| transport(e.to_string()))?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if status != 200 {
        let text = |name: &str| answer[name].as_str().unwrap_or_default();
        let why = format!("{} {}", text("error"), text("error_description"));
        let why = why.trim().chars().filter(|c| !c.is_control()).take(300).collect();
        return Err(AuthError::Refused { host, status, why });
    }
    read_token(&answer, Timestamp::from(SystemTime::now()))
        .ok_or_else(|| transport("its answer has no usable access_token".into()))
}

/// The token of an answer, and how long it lives.  Managed identities write their numbers as strings,
/// and some only say when the token ends.
fn read_token(answer: &Value, now: Timestamp) -> Option<(Secret, Duration)> {
    let token = answer["access_token"].as_str()?;
    // What is no header value cannot be sent; what is not bearer we would send wrongly.
    let sendable = !token.is_empty() && token.bytes().all(|b| (0x21..0x7f).contains(&b));
    let kind = answer["token_type"].as_str().unwrap_or("Bearer");
    if !sendable || !kind.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let number = |name: &str| match &answer[name] {
        Value::String(text) => text.trim().parse::<i64>().ok(),
        value => value.as_i64(),
    };
    let life = number("expires_in")
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .or_else(|| number("expires_on").map(|at| Timestamp(at).since(now)))
        .unwrap_or(UNKNOWN_LIFE);
    // A year is more than any; beyond it arithmetic on instants could overflow.
    Some((Secret::new(token), life.min(Duration::from_secs(365 * 86_400))))
}

/// The claims that a directory asks for in a 401 (continuous access evaluation), decoded.
pub fn challenge_claims(www_authenticate: &str) -> Option<String> {
    if !www_authenticate.contains("insufficient_claims") {
        return None;
    }
    let after = www_authenticate.split("claims=\"").nth(1)?;
    let encoded = after.split('"').next()?.trim_end_matches('=');
    let bytes = URL_SAFE_NO_PAD
        .decode(encoded)
        .or_else(|_| base64::engine::general_purpose::STANDARD_NO_PAD.decode(encoded))
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Microsoft's clouds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// The one that everybody means.
    Global,
    /// US government, level 4.
    UsGov,
    /// US government, level 5 (DoD).
    Dod,
    /// China, by 21Vianet.
    China,
}

impl Cloud {
    /// The cloud of that name: `global`, `usgov`, `dod` or `china`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "global" => Some(Self::Global),
            "usgov" => Some(Self::UsGov),
            "dod" => Some(Self::Dod),
            "china" => Some(Self::China),
            _ => None,
        }
    }

    /// Graph's root and the authority for tokens.
    pub fn hosts(self) -> (&'static str, &'static str) {
        match self {
            Self::Global => ("https://graph.microsoft.com", "https://login.microsoftonline.com"),
            Self::UsGov => ("https://graph.microsoft.us", "https://login.microsoftonline.us"),
            Self::Dod => ("https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
            Self::China => {
                ("https://microsoftgraph.chinacloudapi.cn", "https://login.chinacloudapi.cn")
            }
        }
    }

    /// Only the global cloud has mutualTlsOauthConfigurations.
    pub fn has_mutual_tls(self) -> bool {
        self == Self::Global
    }

    /// The token endpoint of a tenant and the scope of Graph, for a client.
    pub fn endpoint(self, tenant: &str, client_id: &str) -> Option<TokenEndpoint> {
        let (graph, authority) = self.hosts();
        let mut url = Url::parse(authority).ok()?;
        url.path_segments_mut().ok()?.clear().extend([tenant, "oauth2", "v2.0", "token"]);
        Some(TokenEndpoint { url, client_id: client_id.into(), scope: format!("{graph}/.default") })
    }
}

/// Shared by everybody who asks this source.
pub type Tokens = Arc<TokenSource>;

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{
        KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    };
    use proptest::prelude::*;

    fn endpoint() -> TokenEndpoint {
        Cloud::Global.endpoint("contoso.example", "app-1").expect("an endpoint")
    }

    #[test]
    fn a_cloud_has_its_endpoint() {
        let endpoint = endpoint();
        assert_eq!(
            endpoint.url.as_str(),
            "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token"
        );
        assert_eq!(endpoint.scope, "https://graph.microsoft.com/.default");
        let hostile = Cloud::Global.endpoint("../x?y", "app").expect("an endpoint");
        assert_eq!(hostile.url.path(), "/..%2Fx%3Fy/oauth2/v2.0/token");
    }

    #[test]
    fn an_assertion_is_signed_by_the_certificates_key() {
        let key = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let public = key.public_key().as_ref().to_vec();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = key.as_der().expect("PKCS#8");
        let pem = |label: &str, der: &[u8]| {
            let body = STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
        };
        let (chain, key) = (pem("CERTIFICATE", b"leaf"), pem("PRIVATE KEY", pkcs8.as_ref()));
        for style in [AssertionStyle::Ps256, AssertionStyle::Rs256] {
            let jwt = client_assertion(&endpoint(), &chain, &key, style, true, Timestamp(1000))
                .expect("an assertion");
            let parts: Vec<&str> = jwt.expose().split('.').collect();
            let json = |part: &str| -> Value {
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64"))
                    .expect("JSON")
            };
            let (header, payload) = (json(parts[0]), json(parts[1]));
            assert_eq!(header["x5c"], json!([STANDARD.encode(b"leaf")]));
            assert_eq!(
                (&payload["aud"], &payload["exp"]),
                (&json!(endpoint().url.as_str()), &json!(1600))
            );
            assert_eq!((&payload["iss"], &payload["sub"]), (&json!("app-1"), &json!("app-1")));
            let (algorithm, member, length) = match style {
                AssertionStyle::Ps256 => (&RSA_PSS_2048_8192_SHA256, "x5t#S256", 43),
                AssertionStyle::Rs256 => (&RSA_PKCS1_2048_8192_SHA256, "x5t", 27),
            };
            assert_eq!(header[member].as_str().map(str::len), Some(length));
            let signature = URL_SAFE_NO_PAD.decode(parts[2]).expect("base64");
            let signed = format!("{}.{}", parts[0], parts[1]);
            UnparsedPublicKey::new(algorithm, &public)
                .verify(signed.as_bytes(), &signature)
                .expect("a good signature");
        }
        for (chain, key) in [(&b""[..], &key[..]), (&chain, b"none"), (&chain, &chain)] {
            let style = AssertionStyle::Ps256;
            assert!(client_assertion(&endpoint(), chain, key, style, false, Timestamp(0)).is_err());
        }
    }

    #[test]
    fn answers_of_every_kind_are_read() {
        let life = |answer: Value| {
            read_token(&answer, Timestamp(1_000))
                .map(|(token, life)| (token.expose().to_owned(), life.as_secs()))
        };
        let token = |seconds| Some(("t".to_owned(), seconds));
        assert_eq!(life(json!({"access_token": "t", "expires_in": 3599})), token(3599));
        assert_eq!(life(json!({"access_token": "t", "expires_in": "3599"})), token(3599));
        assert_eq!(life(json!({"access_token": "t", "expires_on": "1060"})), token(60));
        assert_eq!(life(json!({"access_token": "t"})), token(300));
        assert_eq!(life(json!({"access_token": "t", "token_type": "bearer"})), token(300));
        for bad in [
            json!(null),
            json!({}),
            json!({"access_token": ""}),
            json!({"access_token": "a\nb"}),
            json!({"access_token": "t", "token_type": "DPoP"}),
        ] {
            assert_eq!(life(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn a_challenge_gives_its_claims() {
        let header = r#"Bearer realm="", error="insufficient_claims", claims="eyJhIjoxfQ==""#;
        assert_eq!(challenge_claims(header).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(challenge_claims(r#"Bearer claims="eyJhIjoxfQ==""#), None);
    }

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

    proptest! {
        #[test]
        fn no_challenge_makes_it_panic(header in "(Bearer |insufficient_claims|claims=\"|[\"a-zA-Z=]){0,12}") {
            let _ = challenge_claims(&header);
        }
    }
}
