//! The OAuth endpoints.
//!
//! [`endpoint`] serves the token listener, where peers present a certificate.  [`metadata`] serves
//! the public listener, which requests no certificate: the documents, and the token endpoint for
//! clients that authenticate with assertions.  Decisions depend only on a request and the published
//! state, so they are tested without sockets.

pub mod endpoint;
pub mod error;
pub mod metadata;
pub mod metrics;
pub mod rates;
pub mod request;

mod issued_tokens;
mod parameters;
mod replay;

pub use endpoint::TokenEndpoint;
pub use metadata::PublicPlane;
pub use metrics::Metrics;

use std::time::Duration;

use url::Url;

use crate::oauth::rates::RateLimits;

/// Path of the token endpoint.
pub(crate) const TOKEN_PATH: &str = "/oauth2/token";

/// Settings of the token listener and the public listener.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the token listener for clients, without a path: `https://mtls.example:8443`.
    pub token_origin: Url,
    /// Address of the public listener for clients, without a path.
    pub public_origin: Url,
    /// `token.client_auth = "report"`: responses contain the refusal.
    pub report: bool,
    /// Time for which verifiers may cache the key set.
    pub jwks_max_age: Duration,
    /// Rate limits of token requests.
    pub rate_limits: RateLimits,
}

/// Returns the URL of `path` at `origin`.
fn address(origin: &Url, path: &str) -> String {
    let mut url = origin.clone();
    url.set_path(path);
    url.to_string()
}

impl Config {
    /// Creates settings with default values for everything else.
    pub fn new(token_origin: Url, public_origin: Url) -> Self {
        Self {
            token_origin,
            public_origin,
            report: false,
            jwks_max_age: Duration::from_secs(300),
            rate_limits: RateLimits::default(),
        }
    }
}
