//! The bounds of a conversation, and how HTTP clients are made, for the directory and for who issues its tokens.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use reqwest::{Identity, redirect};

use crate::graph::auth::AuthError;

/// Bounds of one conversation.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Pages of a list.
    pub pages: usize,
    /// Bytes of a page, after decompression.
    pub page_bytes: usize,
    /// Bytes of all pages.
    pub total_bytes: usize,
    /// Objects that are asked for one by one because the list shortens them.
    pub single_gets: usize,
    /// Further tries of a request that the directory puts off (429, 503, 504).
    pub retries: u32,
    /// The longest that a request is put off within one fetch; what is put off longer ends the fetch.
    pub longest_pause: Duration,
    /// To connect.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// One request and its answer.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pages: 200,
            page_bytes: 16 * 1024 * 1024,
            total_bytes: 256 * 1024 * 1024,
            single_gets: 500,
            retries: 3,
            longest_pause: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            request: Duration::from_secs(60),
        }
    }
}

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
