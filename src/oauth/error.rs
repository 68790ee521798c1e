//! Errors of the token endpoint and their responses.  This is the only place that maps decisions to
//! the error codes of RFC 6749.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::Serialize;

use crate::http::reply::{self, Reply};
use crate::token::assertion::AssertionError;
use crate::token::{AuthMethod, Denied};
use crate::trust::refusal::Refusal;

/// Reason why a request is answered without a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OauthError {
    /// The request is malformed.  The text names the rule.
    #[error("{0}")]
    InvalidRequest(Cow<'static, str>),
    /// The body is longer than the limit.
    #[error("the request body is longer than {limit} bytes")]
    TooLong {
        /// Allowed length in bytes.
        limit: usize,
    },
    /// The certificate is refused, or the client may not use it.
    #[error(transparent)]
    InvalidClient(#[from] Refusal),
    /// The client's assertion is not acceptable.
    #[error("{0}")]
    InvalidAssertion(AssertionError),
    /// The client authenticated with an Authorization header.
    #[error("an Authorization header is not supported as client authentication")]
    AuthorizationHeader,
    /// The grant type is not supported.
    #[error("grant_type is not supported; use client_credentials")]
    UnsupportedGrantType,
    /// The scope is malformed or unknown, or the client may not have it.
    #[error("{0}")]
    InvalidScope(Cow<'static, str>),
    /// The client may not have tokens for the resource.
    #[error("{0}")]
    InvalidTarget(Cow<'static, str>),
    /// A rate limit refuses the request for now.
    #[error("{refusal}")]
    RateLimited {
        /// The refusal, with the limit.
        refusal: Refusal,
        /// Seconds after which the client may try again.
        retry_after: u64,
    },
    /// An internal error.
    #[error("{0}")]
    Server(String),
}

impl From<AssertionError> for OauthError {
    fn from(error: AssertionError) -> Self {
        match error {
            AssertionError::Refused(refusal) => Self::InvalidClient(refusal),
            other => Self::InvalidAssertion(other),
        }
    }
}

impl From<Denied> for OauthError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Refused(refusal) => Self::InvalidClient(refusal),
            Denied::InvalidRequest(why) => Self::InvalidRequest(why.into()),
            Denied::InvalidScope(why) => Self::InvalidScope(why.into()),
            Denied::InvalidTarget(why) => Self::InvalidTarget(why.into()),
        }
    }
}

impl OauthError {
    /// Returns the value of `error` (RFC 6749 section 5.2, RFC 8707 section 2).
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) | Self::TooLong { .. } => "invalid_request",
            Self::InvalidClient(_) | Self::InvalidAssertion(_) | Self::AuthorizationHeader => {
                "invalid_client"
            }
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope(_) => "invalid_scope",
            Self::InvalidTarget(_) => "invalid_target",
            Self::RateLimited { .. } => "temporarily_unavailable",
            Self::Server(_) => "server_error",
        }
    }

    /// Returns the refusal with its stable code, if the error is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::InvalidClient(refusal) | Self::RateLimited { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidClient(_) | Self::InvalidAssertion(_) | Self::AuthorizationHeader => {
                StatusCode::UNAUTHORIZED
            }
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Server(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Creates the response.  It contains the refusal of a certificate only if `report` is set,
    /// because the refusal discloses details of the trust configuration.
    pub fn reply(&self, report: bool) -> Reply {
        let refusal = self.refusal();
        let description = match self {
            Self::InvalidClient(_) => Cow::from("client authentication failed"),
            Self::Server(_) => Cow::from("internal error; the token was not issued"),
            Self::RateLimited { refusal, .. } => Cow::from(&refusal.detail[..]),
            other => Cow::from(other.to_string()),
        };
        let reported = refusal.filter(|_| report);
        let mut reply = reply::json(
            self.status(),
            &Body {
                error: self.code(),
                error_description: escape_description(&description),
                refusal: reported.map(|refusal| refusal.code.as_str()),
                detail: reported.map(|refusal| &refusal.detail[..]),
            },
        );
        // RFC 9110 section 15.5.2 requires a challenge.  No registered scheme means "TLS client
        // certificate" or "assertion", so the challenge is the name of the method in the metadata.
        let challenge = match self {
            Self::InvalidClient(_) => Some(AuthMethod::TlsClientAuth.as_str()),
            Self::InvalidAssertion(_) => Some(AuthMethod::PrivateKeyJwt.as_str()),
            // The scheme that the client used (RFC 6749 section 5.2), with the error for clients that
            // read the challenge instead of the body.
            Self::AuthorizationHeader => Some(r#"Basic realm="token", error="invalid_client""#),
            _ => None,
        };
        if let Some(challenge) = challenge {
            let challenge = HeaderValue::from_static(challenge);
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Self::RateLimited { retry_after, .. } = self {
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
        }
        no_store(&mut reply);
        reply
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'static str,
    error_description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

/// Replaces every character that RFC 6749 section 5.2 does not allow in `error_description` with
/// `'`.
fn escape_description(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, ' '..='!' | '#'..='[' | ']'..='~') { c } else { '\'' })
        .collect()
}

/// Returns the error of a malformed request.
pub(super) fn invalid<T>(why: impl Into<Cow<'static, str>>) -> Result<T, OauthError> {
    Err(OauthError::InvalidRequest(why.into()))
}

/// Forbids caches to store a response of the token endpoint (RFC 6749 section 5.1).
pub(super) fn no_store(reply: &mut Reply) {
    let headers = reply.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trust::refusal::Code;

    proptest! {
        /// 6749-17.
        #[test]
        fn a_description_has_only_allowed_characters(text in any::<String>()) {
            let out = escape_description(&text);
            prop_assert!(out.bytes().all(|b| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e)));
            prop_assert_eq!(out.chars().count(), text.chars().count());
        }
    }

    /// 6749-15, 8705-4: every error is one of section 5.2, with its status.
    #[test]
    fn errors_have_the_code_and_status_of_rfc_6749() {
        let refusal = Refusal::new(Code::CertificateRevoked, "serial 01");
        for (error, code, status) in [
            (OauthError::InvalidRequest("x".into()), "invalid_request", 400),
            (OauthError::TooLong { limit: 1 }, "invalid_request", 413),
            (OauthError::InvalidClient(refusal), "invalid_client", 401),
            (OauthError::InvalidAssertion(AssertionError::Replayed), "invalid_client", 401),
            (OauthError::AuthorizationHeader, "invalid_client", 401),
            (OauthError::UnsupportedGrantType, "unsupported_grant_type", 400),
            (OauthError::InvalidScope("x".into()), "invalid_scope", 400),
            (OauthError::InvalidTarget("x".into()), "invalid_target", 400),
            (OauthError::Server("x".into()), "server_error", 500),
        ] {
            let reply = error.reply(false);
            assert_eq!(error.code(), code);
            assert_eq!(reply.status().as_u16(), status);
            assert_eq!(reply.headers()["cache-control"], "no-store");
            assert_eq!(reply.headers()["pragma"], "no-cache");
            assert_eq!(reply.headers().contains_key("www-authenticate"), status == 401);
        }
    }
}
