//! How HTTP clients are made, for the directory and for who issues its tokens.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use reqwest::{Identity, redirect};

use crate::graph::auth::AuthError;

/// How HTTP clients are made.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// PEM of the only authorities that servers may have; the system's when `None`.
    pub ca_bundle: Option<Vec<u8>>,
    /// Use the proxy that the environment names.
    pub proxy: bool,
    /// To connect.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// One request and its answer.
    pub request: Duration,
}

impl HttpSettings {
    /// The same, past any proxy.
    pub fn without_proxy(&self) -> Self {
        Self { proxy: false, ..self.clone() }
    }

    /// A client; with a certificate of its own, if given.
    ///
    /// # Errors
    /// Authorities or a certificate that cannot be used.
    pub fn client(&self, identity: Option<Identity>) -> Result<reqwest::Client, AuthError> {
        let failed = |error: reqwest::Error| AuthError::Credential(chain(&error));
        let mut builder = reqwest::Client::builder()
            // A redirect could lead a bearer token astray; Graph has none.
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect)
            .read_timeout(self.read)
            .timeout(self.request)
            .user_agent(concat!("anchorgate/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &self.ca_bundle {
            let bundle = reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?;
            builder = builder.tls_certs_only(bundle);
        }
        if !self.proxy {
            builder = builder.no_proxy();
        }
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        builder.build().map_err(failed)
    }
}

/// An error with what it comes from: reqwest's own text leaves the cause out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
