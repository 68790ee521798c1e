//! What is refused, and how the wire says it: the one place that maps decisions to RFC 6749.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde::Serialize;

use crate::http::reply::{self, Reply};
use crate::token::assertion::AssertionError;
use crate::token::{AuthMethod, Denied};
use crate::trust::refusal::Refusal;

/// Why a request gets no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OauthError {
    /// The request is malformed; the text names the rule.
    #[error("{0}")]
    InvalidRequest(Cow<'static, str>),
    /// The body is longer than the limit.
    #[error("the request body is longer than {limit} bytes")]
    TooLong {
        /// In bytes.
        limit: usize,
    },
    /// The certificate is refused, or not good for the client.
    #[error(transparent)]
    InvalidClient(#[from] Refusal),
    /// The client's assertion is not acceptable.
    #[error("{0}")]
    InvalidAssertion(AssertionError),
    /// The grant type is not offered.
    #[error("the grant types are: client_credentials")]
    UnsupportedGrantType,
    /// The scope is malformed, unknown or more than the client may have.
    #[error("{0}")]
    InvalidScope(Cow<'static, str>),
    /// The resource is none the client may have tokens for.
    #[error("{0}")]
    InvalidTarget(Cow<'static, str>),
    /// The fault is ours.
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
    /// The value of `error` (RFC 6749 section 5.2, RFC 8707 section 2).
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) | Self::TooLong { .. } => "invalid_request",
            Self::InvalidClient(_) | Self::InvalidAssertion(_) => "invalid_client",
            Self::UnsupportedGrantType => "unsupported_grant_type",
            Self::InvalidScope(_) => "invalid_scope",
            Self::InvalidTarget(_) => "invalid_target",
            Self::Server(_) => "server_error",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InvalidClient(_) | Self::InvalidAssertion(_) => StatusCode::UNAUTHORIZED,
            Self::Server(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The answer.  The refusal of a certificate is told only where `report` is set: it says things
    /// about our trust that help a stranger more than a device.
    pub fn reply(&self, report: bool) -> Reply {
        let refusal = match self {
            Self::InvalidClient(refusal) => Some(refusal),
            _ => None,
        };
        let description = match self {
            Self::InvalidClient(_) => Cow::from("client authentication failed"),
            Self::Server(_) => Cow::from("the token could not be made"),
            other => Cow::from(other.to_string()),
        };
        let told = refusal.filter(|_| report);
        let mut reply = reply::json(
            self.status(),
            &Body {
                error: self.code(),
                error_description: describable(&description),
                refusal: told.map(|refusal| refusal.code.as_str()),
                detail: told.map(|refusal| &refusal.detail[..]),
            },
        );
        // RFC 9110 section 15.5.2 wants a challenge; no registered scheme means "a TLS client
        // certificate" or "an assertion", so this is the name of the method in our metadata.
        let method = match self {
            Self::InvalidClient(_) => Some(AuthMethod::TlsClientAuth),
            Self::InvalidAssertion(_) => Some(AuthMethod::PrivateKeyJwt),
            _ => None,
        };
        if let Some(method) = method {
            let challenge = HeaderValue::from_static(method.as_str());
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
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

/// The characters that RFC 6749 section 5.2 allows in `error_description`; others become `'`.
fn describable(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, ' '..='!' | '#'..='[' | ']'..='~') { c } else { '\'' })
        .collect()
}

/// No cache keeps an answer of the token endpoint (RFC 6749 section 5.1).
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
        /// 6749-17: only the allowed characters.
        #[test]
        fn a_description_has_only_allowed_characters(text in any::<String>()) {
            let out = describable(&text);
            prop_assert!(out.bytes().all(|b| matches!(b, 0x20..=0x21 | 0x23..=0x5b | 0x5d..=0x7e)));
            prop_assert_eq!(out.chars().count(), text.chars().count());
        }
    }

    /// 6749-15, 8705-4: each refusal is one of the errors of section 5.2, with its status.
    #[test]
    fn refusals_have_their_rfc_6749_code_and_status() {
        let refusal = Refusal::new(Code::CertificateRevoked, "serial 01");
        for (error, code, status) in [
            (OauthError::InvalidRequest("x".into()), "invalid_request", 400),
            (OauthError::TooLong { limit: 1 }, "invalid_request", 413),
            (OauthError::InvalidClient(refusal), "invalid_client", 401),
            (OauthError::InvalidAssertion(AssertionError::Replayed), "invalid_client", 401),
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
