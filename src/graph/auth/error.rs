//! Failures to obtain a token.

use crate::http::outbound::ClientError;

/// A token could not be obtained.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuthError {
    /// A setting or a file of the credential is not usable.
    #[error("credential: {0}")]
    Credential(String),
    /// The connection to the token endpoint failed.
    #[error("token endpoint {host}: {why}")]
    Transport {
        /// Host of the token endpoint.
        host: String,
        /// Error and its causes.
        why: String,
    },
    /// The token endpoint returned an error.
    #[error("token endpoint {host}: {status}: {why}")]
    Refused {
        /// Host of the token endpoint.
        host: String,
        /// HTTP status.
        status: u16,
        /// `error` and `error_description` of the response.
        why: String,
    },
}

impl From<ClientError> for AuthError {
    fn from(error: ClientError) -> Self {
        Self::Credential(error.to_string())
    }
}
