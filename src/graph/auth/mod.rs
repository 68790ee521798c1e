//! Authentication of the gateway to a directory: credentials, and the access tokens they obtain.
//!
//! # Design notes
//! No identity library is used: Microsoft's implements its certificate credential with OpenSSL, and
//! each grant is a single HTTP form.

mod assertion;
mod cloud;
mod credential;
mod error;
mod request;
mod response;

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::graph::auth::request::{certificate_client, request_token};
use crate::http::outbound::ClientSettings;
use crate::runtime::log::Secret;

pub use cloud::Cloud;
pub use credential::{
    AssertionStyle, Credential, INSTANCE_METADATA, ManagedIdentity, TokenEndpoint,
};
pub use error::AuthError;
pub(crate) use response::challenge_claims;

/// Time before its expiry at which a token is renewed.  Half its lifetime, if that is shorter.
const RENEW_EARLY: Duration = Duration::from_secs(300);

/// An access token.
#[derive(Clone)]
pub struct Token {
    /// Value for the `Authorization` header.
    pub secret: Secret,
    /// Position in the sequence of tokens of its source.
    number: u64,
    renew_at: Instant,
    expires: Instant,
}

/// Obtains tokens with a credential and caches the newest one.
pub struct TokenSource {
    credential: Credential,
    http: ClientSettings,
    /// Locked during a token request, so that concurrent callers share its result.
    newest: Mutex<Option<Token>>,
}

impl TokenSource {
    /// Creates a source without a token.  The first use requests one.
    pub fn new(credential: Credential, http: ClientSettings) -> Self {
        Self { credential, http, newest: Mutex::new(None) }
    }

    /// Returns a token that has not expired.
    ///
    /// # Errors
    /// No token is left, and the request for another failed.
    pub async fn token(&self) -> Result<Token, AuthError> {
        let mut newest = self.newest.lock().await;
        let now = Instant::now();
        if let Some(token) = newest.as_ref().filter(|token| now < token.renew_at) {
            return Ok(token.clone());
        }
        match self.request(newest.as_ref(), None).await {
            Ok(token) => Ok(newest.insert(token).clone()),
            // Renewal starts early, so that an outage of the token endpoint is bridged.
            Err(error) => match newest.as_ref().filter(|token| now < token.expires) {
                Some(token) => Ok(token.clone()),
                None => Err(error),
            },
        }
    }

    /// Returns another token than `rejected`, which the directory did not accept.  `claims` are those
    /// that the directory demanded.
    ///
    /// # Errors
    /// The token request failed.
    pub async fn replace(
        &self,
        rejected: &Token,
        claims: Option<&str>,
    ) -> Result<Token, AuthError> {
        let mut newest = self.newest.lock().await;
        if let Some(token) = newest.as_ref().filter(|token| token.number > rejected.number) {
            return Ok(token.clone());
        }
        let token = self.request(newest.as_ref(), claims).await?;
        Ok(newest.insert(token).clone())
    }

    /// Builds an HTTP client that presents the certificate which the tokens are bound to (RFC 8705
    /// section 3).  `None` if they are not bound.
    ///
    /// # Errors
    /// The certificate or its key is not usable.
    pub(crate) async fn bound_client(&self) -> Result<Option<reqwest::Client>, AuthError> {
        match &self.credential {
            Credential::MutualTls { certificate, key, .. } => {
                certificate_client(&self.http, certificate, key).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn request(
        &self,
        previous: Option<&Token>,
        claims: Option<&str>,
    ) -> Result<Token, AuthError> {
        let number = previous.map_or(0, |token| token.number) + 1;
        let now = Instant::now();
        let issued = request_token(&self.credential, &self.http, claims).await?;
        let (secret, lifetime) = (issued.secret, issued.lifetime);
        let early = RENEW_EARLY.min(lifetime / 2);
        Ok(Token { secret, number, renew_at: now + lifetime - early, expires: now + lifetime })
    }
}
