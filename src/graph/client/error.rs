//! Failures of requests to a directory.

use std::time::Duration;

use crate::graph::auth::AuthError;
use crate::graph::wire::WireError;
use crate::http::outbound::ResponseBodyError;
use crate::runtime::text::Cleaned;
use crate::trust::devices::RegistryError;

/// A fetch failed.  No part of it is applied.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No token was obtained.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The connection failed.
    #[error("{0}")]
    Transport(String),
    /// The directory returned an error.
    #[error(
        "{status} {}: {} (request-id {})",
        Cleaned(code),
        Cleaned(message),
        Cleaned(request_id)
    )]
    Status {
        /// HTTP status.
        status: u16,
        /// Graph's error code; empty if the body is not a Graph error.
        code: String,
        /// Graph's error message and details.
        message: String,
        /// Identifies the request to the directory's operator.
        request_id: String,
        /// Shortest pause before the next request.
        retry_after: Option<Duration>,
    },
    /// The response is too large.
    #[error("the response is larger than {limit} bytes")]
    TooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// The list has too many pages.
    #[error("the list has more than {limit} pages")]
    TooManyPages {
        /// Limit on the pages.
        limit: usize,
    },
    /// A page links to a page that was fetched before.
    #[error("the pages of the list form a circle")]
    Circle,
    /// A page links to another origin, which must not get the bearer token.
    #[error("the list continues at {}, which is not the directory's origin", Cleaned(_0))]
    Foreign(String),
    /// The response cannot be interpreted.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The devices exceed a limit.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<ResponseBodyError> for FetchError {
    fn from(error: ResponseBodyError) -> Self {
        match error {
            ResponseBodyError::TooLarge { limit } => Self::TooLarge { limit },
            ResponseBodyError::Transport(why) => Self::Transport(why),
        }
    }
}

impl FetchError {
    /// True if the directory or the token endpoint refused the credential.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Self::Auth(error) => !matches!(error, AuthError::Transport { .. }),
            Self::Status { status, .. } => *status == 401,
            _ => false,
        }
    }

    /// Shortest pause before the next request, if the directory demanded one.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
