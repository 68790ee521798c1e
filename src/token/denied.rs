//! Why a token request is not granted.

use crate::trust::refusal::Refusal;

/// Why a request is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The certificate is not good for that client.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A parameter is missing.
    #[error("{0}")]
    InvalidRequest(String),
    /// The scope is more than the client may have, or means nothing to the resource.
    #[error("{0}")]
    InvalidScope(String),
    /// The resource is none that the client may have tokens for (RFC 8707 section 2).
    #[error("{0}")]
    InvalidTarget(String),
}
