//! The public listener: authorization server metadata (RFC 8414), the key set (RFC 7517) and the
//! token endpoint for clients without a certificate.

use std::sync::{Arc, PoisonError, RwLock};

use hyper::body::Body;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use serde::Serialize;
use url::Url;

use crate::http::peer::Peer;
use crate::http::reply::{self, Reply};
use crate::oauth::{Config, TOKEN_PATH, TokenEndpoint, address};
use crate::runtime::live::Live;
use crate::token::assertion::AssertionAlgorithm;
use crate::token::{AuthMethod, Grant, SigningKeys, TokenPolicy};

/// Path of the key set.
pub(crate) const JWKS_PATH: &str = "/jwks.json";

/// Serves the documents for verifiers and clients.  Their content follows from settings alone.  No
/// header of a request changes it, in particular not `Host`.
pub struct PublicPlane {
    live: Live,
    config: Config,
    /// The documents of the policy that was in force last.
    documents: RwLock<Arc<Documents>>,
    tokens: Arc<TokenEndpoint>,
}

impl PublicPlane {
    /// Creates the handler of the public listener.
    pub fn new(live: Live, config: &Config, tokens: Arc<TokenEndpoint>) -> Self {
        let documents = Documents::new(&live.current().policy, config);
        let documents = RwLock::new(Arc::new(documents));
        Self { live, config: config.clone(), documents, tokens }
    }

    /// Returns the documents of `policy`.
    fn documents(&self, policy: &Arc<TokenPolicy>) -> Arc<Documents> {
        let documents = Arc::clone(&self.documents.read().unwrap_or_else(PoisonError::into_inner));
        if Arc::ptr_eq(&documents.policy, policy) {
            return documents;
        }
        let documents = Arc::new(Documents::new(policy, &self.config));
        *self.documents.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&documents);
        documents
    }

    /// Answers one request.  The body of a request for a document is ignored.
    pub async fn handle<B>(&self, request: Request<B>, peer: &Peer) -> Reply
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let active = self.live.current();
        let documents = self.documents(&active.policy);
        if documents.has_token_endpoint && self.tokens.is_at(request.uri().path()) {
            return self.tokens.handle_public(request, peer).await;
        }
        documents.answer(&request.into_parts().0, &active.keys)
    }
}

/// Responses that follow from the policy and the settings.
struct Documents {
    policy: Arc<TokenPolicy>,
    /// There are clients that need no certificate.
    has_token_endpoint: bool,
    /// Paths of the metadata.
    paths: Vec<String>,
    metadata: String,
    cache_control: HeaderValue,
}

impl Documents {
    fn new(policy: &Arc<TokenPolicy>, config: &Config) -> Self {
        let mutual = address(&config.token_origin, TOKEN_PATH);
        let public = address(&config.public_origin, TOKEN_PATH);
        let mut methods = vec![AuthMethod::TlsClientAuth.as_str()];
        let mut algorithms = Vec::new();
        if policy.assertion_clients().next().is_some() {
            methods.push(AuthMethod::PrivateKeyJwt.as_str());
            let allowed = AssertionAlgorithm::of(policy.profile()).iter();
            algorithms.extend(allowed.map(|algorithm| algorithm.as_str()));
        }
        let metadata = Metadata {
            issuer: policy.issuer(),
            token_endpoint: if policy.serves_without_certificate() { &public } else { &mutual },
            jwks_uri: &address(&config.public_origin, JWKS_PATH),
            scopes_supported: policy.scopes(),
            response_types_supported: ["none"],
            grant_types_supported: Grant::ALL.map(Grant::as_str),
            token_endpoint_auth_methods_supported: methods,
            token_endpoint_auth_signing_alg_values_supported: algorithms,
            tls_client_certificate_bound_access_tokens: true,
            mtls_endpoint_aliases: Aliases { token_endpoint: &mutual },
        };
        let max_age = format!("public, max-age={}", config.jwks_max_age.as_secs());
        Self {
            policy: Arc::clone(policy),
            has_token_endpoint: policy.serves_without_certificate(),
            paths: metadata_paths(policy.issuer()),
            metadata: serde_json::to_string(&metadata).unwrap_or_default(),
            cache_control: HeaderValue::from_str(&max_age)
                .unwrap_or(HeaderValue::from_static("no-store")),
        }
    }

    fn answer(&self, request: &Parts, keys: &SigningKeys) -> Reply {
        let path = request.uri.path();
        let (media_type, body) = if path == JWKS_PATH {
            ("application/jwk-set+json", keys.jwks().to_string())
        } else if self.paths.iter().any(|p| p == path) {
            ("application/json", self.metadata.clone())
        } else {
            return reply::empty(StatusCode::NOT_FOUND);
        };
        let length = body.len();
        let mut reply = match request.method {
            Method::GET => reply::typed(StatusCode::OK, media_type, body),
            Method::HEAD => reply::typed(StatusCode::OK, media_type, ""),
            Method::OPTIONS => return preflight(),
            _ => return reply::method_not_allowed(METHODS),
        };
        reply.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
        reply.headers_mut().insert(header::CACHE_CONTROL, self.cache_control.clone());
        reply.headers_mut().insert(header::CONTENT_LENGTH, length.into());
        reply
    }
}

/// Methods of the documents.
const METHODS: &str = "GET, HEAD, OPTIONS";
/// Scripts of every origin may read the documents: they are public and the same for everyone.
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");

/// Answers OPTIONS, also as the preflight request of a browser (Fetch standard, section 3.3).
fn preflight() -> Reply {
    let mut reply = reply::empty(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    reply
}

/// Returns the paths of the metadata.  RFC 8414 section 3 inserts the well-known part between host
/// and path of the issuer; OpenID Connect Discovery section 4 appends it to the path.
fn metadata_paths(issuer: &str) -> Vec<String> {
    let path = Url::parse(issuer).map(|url| url.path().trim_end_matches('/').to_owned());
    let path = path.unwrap_or_default();
    let mut paths = vec![
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("/.well-known/openid-configuration{path}"),
        format!("{path}/.well-known/openid-configuration"),
    ];
    paths.dedup();
    paths
}

/// Authorization server metadata (RFC 8414 section 2, RFC 8705 sections 3.3 and 5).
///
/// `response_types_supported` is REQUIRED and must not be empty, although there is no authorization
/// endpoint.  The value `none` (OAuth 2.0 Multiple Response Types section 4) means a response
/// without token or code, and so is the only one that promises nothing.
///
/// `token_endpoint` is the address on the token listener, which is also its alias.  If there are
/// clients that need no certificate, it is the address on the public listener (RFC 8705 section 5).
#[derive(Serialize)]
struct Metadata<'a> {
    issuer: &'a str,
    token_endpoint: &'a str,
    jwks_uri: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    scopes_supported: Vec<&'a str>,
    response_types_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 1],
    token_endpoint_auth_methods_supported: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    token_endpoint_auth_signing_alg_values_supported: Vec<&'static str>,
    tls_client_certificate_bound_access_tokens: bool,
    mtls_endpoint_aliases: Aliases<'a>,
}

#[derive(Serialize)]
struct Aliases<'a> {
    token_endpoint: &'a str,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use hyper::Request;
    use serde_json::{Value, json};

    use super::*;
    use crate::token::keys::tests::signing_key;
    use crate::token::{Algorithm, Resource, Terms};

    fn documents(issuer: &str, scopes: &[&str]) -> Documents {
        let resource = Resource {
            audience: "https://api.example".to_owned(),
            scopes: scopes.iter().map(ToString::to_string).collect(),
            default_scope: Vec::new(),
        };
        let terms = Terms {
            resources: vec![resource],
            lifetime: Duration::from_secs(60),
            signing_algorithm: None,
        };
        let policy = TokenPolicy::new(issuer, Some(terms)).expect("a policy");
        let url = |text: &str| Url::parse(text).expect("a URL");
        let config = Config::new(url("https://mtls.example:8443"), url("https://as.example:8444"));
        Documents::new(&Arc::new(policy), &config)
    }

    async fn request(
        documents: &Documents,
        method: &str,
        path: &str,
        host: &str,
    ) -> (u16, Reply, Vec<u8>) {
        let keys = SigningKeys::new(signing_key(Algorithm::Es256), &[]).expect("keys");
        let request = Request::builder().method(method).uri(path).header("host", host);
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let reply = documents.answer(&parts, &keys);
        let (head, body) = reply.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes().to_vec()).unwrap_or_default();
        (head.status.as_u16(), Reply::from_parts(head, Default::default()), body)
    }

    const WELL_KNOWN: &str = "/.well-known/oauth-authorization-server";

    /// 8414-1, -2, -4 to -6, 8705-6, 8705-17, FAPI-1.
    #[tokio::test]
    async fn metadata_lists_the_supported_features() {
        let documents = documents("https://as.example:8444", &["write", "read"]);
        let (status, reply, body) = request(&documents, "GET", WELL_KNOWN, "as.example:8444").await;
        assert_eq!(
            (status, &reply.headers()["content-type"]),
            (200, &"application/json".parse().expect("a value"))
        );
        let got: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            got,
            json!({
                "issuer": "https://as.example:8444",
                "token_endpoint": "https://mtls.example:8443/oauth2/token",
                "jwks_uri": "https://as.example:8444/jwks.json",
                "scopes_supported": ["read", "write"],
                "response_types_supported": ["none"],
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": ["tls_client_auth"],
                "tls_client_certificate_bound_access_tokens": true,
                "mtls_endpoint_aliases": {"token_endpoint": "https://mtls.example:8443/oauth2/token"},
            })
        );
    }

    /// 8414-3.
    #[tokio::test]
    async fn omits_empty_members() {
        let documents = documents("https://as.example", &[]);
        let (_, _, body) = request(&documents, "GET", WELL_KNOWN, "as.example").await;
        let got: Value = serde_json::from_slice(&body).expect("JSON");
        let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty) || v.is_null();
        assert!(!got.as_object().expect("an object").values().any(empty), "{got}");
    }

    /// 8414-1: the path of the issuer follows the well-known part; 9068-7: both documents are
    /// equal.
    #[tokio::test]
    async fn serves_the_metadata_of_an_issuer_with_a_path() {
        let documents = documents("https://as.example/t/one", &["a"]);
        let (status, _, first) =
            request(&documents, "GET", &format!("{WELL_KNOWN}/t/one"), "x").await;
        assert_eq!(status, 200);
        for path in
            ["/.well-known/openid-configuration/t/one", "/t/one/.well-known/openid-configuration"]
        {
            let (status, _, body) = request(&documents, "GET", path, "x").await;
            assert_eq!((status, &body), (200, &first));
        }
        for path in
            [WELL_KNOWN.to_owned(), format!("{WELL_KNOWN}/t/one/"), format!("{WELL_KNOWN}/t/two")]
        {
            assert_eq!(request(&documents, "GET", &path, "x").await.0, 404, "{path}");
        }
    }

    /// 8414-8: no header changes the response.
    #[tokio::test]
    async fn metadata_does_not_depend_on_the_host() {
        let documents = documents("https://as.example", &["a"]);
        let (_, _, body) = request(&documents, "GET", WELL_KNOWN, "as.example").await;
        let (_, _, other) = request(&documents, "GET", WELL_KNOWN, "evil.example").await;
        assert_eq!(body, other);
    }

    /// JWK-6: the key set has its own media type, and caches may store it.
    #[tokio::test]
    async fn serves_the_key_set() {
        let documents = documents("https://as.example", &["a"]);
        let (status, reply, body) = request(&documents, "GET", JWKS_PATH, "x").await;
        assert_eq!(status, 200);
        assert_eq!(reply.headers()["content-type"], "application/jwk-set+json");
        assert_eq!(reply.headers()["cache-control"], "public, max-age=300");
        let set: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(set["keys"].as_array().map(Vec::len), Some(1));
        let (status, reply, head) = request(&documents, "HEAD", JWKS_PATH, "x").await;
        assert_eq!((status, head.len()), (200, 0));
        assert_eq!(reply.headers()["content-length"], body.len().to_string().as_str());
    }

    #[tokio::test]
    async fn scripts_of_every_origin_may_read_the_documents() {
        let documents = documents("https://as.example", &["a"]);
        for path in [WELL_KNOWN, JWKS_PATH] {
            let (status, reply, _) = request(&documents, "GET", path, "x").await;
            assert_eq!(
                (status, &reply.headers()["access-control-allow-origin"]),
                (200, &ANY_ORIGIN)
            );
            let (status, reply, body) = request(&documents, "OPTIONS", path, "x").await;
            assert_eq!((status, body.len()), (204, 0));
            assert_eq!(reply.headers()["access-control-allow-origin"], "*");
            assert_eq!(reply.headers()["access-control-allow-methods"], "GET, HEAD");
        }
        let (_, reply, _) = request(&documents, "OPTIONS", "/oauth2/token", "x").await;
        assert!(!reply.headers().contains_key("access-control-allow-origin"));
    }

    #[tokio::test]
    async fn allows_only_get_and_head() {
        let documents = documents("https://as.example", &["a"]);
        for method in ["POST", "PUT", "DELETE"] {
            let (status, reply, _) = request(&documents, method, WELL_KNOWN, "x").await;
            assert_eq!(status, 405);
            assert_eq!(reply.headers()["allow"], METHODS);
        }
        assert_eq!(request(&documents, "GET", "/oauth2/token", "x").await.0, 404);
        assert_eq!(request(&documents, "GET", "/", "x").await.0, 404);
    }
}
