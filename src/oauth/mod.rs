//! Rank 4: the OAuth planes.
//!
//! [`endpoint`] answers on the token listener, where each peer has shown a certificate; [`metadata`]
//! on the public one, where none is asked for, and with it the endpoint again, for clients that
//! authenticate by assertions.  Both are functions of a request and of what is in
//! force, so they are tested without a socket.

pub mod endpoint;
pub mod error;
pub mod metadata;
pub mod metrics;
pub mod request;

pub use endpoint::TokenEndpoint;
pub use metadata::PublicPlane;
pub use metrics::Metrics;

use std::time::Duration;

use url::Url;

/// The token endpoint's path.
pub const TOKEN_PATH: &str = "/oauth2/token";

/// Settings of both planes.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients reach the token listener, without a path: `https://mtls.example:8443`.
    pub token_origin: Url,
    /// Where the public listener is reached, without a path.
    pub public_origin: Url,
    /// The tenant in Entra ID's token path that is served; `None` serves any, since a path decides
    /// nothing about trust.
    pub tenant: Option<String>,
    /// `token.client_auth = "report"`: answers say which refusal it was.
    pub report: bool,
    /// How long a verifier may keep the key set.
    pub jwks_max_age: Duration,
}

/// The address of `path` at `origin`.
fn address(origin: &Url, path: &str) -> String {
    let mut url = origin.clone();
    url.set_path(path);
    url.to_string()
}

impl Config {
    /// Settings with defaults for all that has one.
    pub fn new(token_origin: Url, public_origin: Url) -> Self {
        Self {
            token_origin,
            public_origin,
            tenant: None,
            report: false,
            jwks_max_age: Duration::from_secs(300),
        }
    }
}
