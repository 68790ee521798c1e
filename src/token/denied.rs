//! Reasons why a token request is denied.

use crate::trust::refusal::Refusal;

/// Reason why a token request is denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The client may not use the certificate.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A parameter is missing or does not fit the client.
    #[error("{0}")]
    InvalidRequest(String),
    /// The client may not have the scope, or the resource does not define it.
    #[error("{0}")]
    InvalidScope(String),
    /// The client may not have tokens for the resource (RFC 8707 section 2).
    #[error("{0}")]
    InvalidTarget(String),
}
