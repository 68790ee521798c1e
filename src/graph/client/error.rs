//! Why a conversation brings nothing.

use std::time::Duration;

use crate::graph::auth::AuthError;
use crate::graph::wire::WireError;
use crate::http::outbound::BodyError;
use crate::trust::devices::RegistryError;

/// Why there is no answer to use.  Nothing of a fetch that failed is applied.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No token.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The directory was not reached, or broke off.
    #[error("{0}")]
    Transport(String),
    /// It answered with an error.
    #[error("{status} {code}: {message} (request-id {request_id})")]
    Status {
        /// HTTP status.
        status: u16,
        /// Graph's code, empty where the body is none of Graph's.
        code: String,
        /// Graph's sentence, and the details that it adds.
        message: String,
        /// To be quoted to the directory's operator.
        request_id: String,
        /// Not to be asked again before.
        retry_after: Option<Duration>,
    },
    /// It answered with more than is read.
    #[error("an answer of more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The list does not end.
    #[error("the list has more than {limit} pages")]
    TooManyPages {
        /// The limit.
        limit: usize,
    },
    /// The list leads to a page that it had already.
    #[error("the list runs in a circle")]
    Circle,
    /// The list leads elsewhere; a bearer token is not sent there.
    #[error("the list goes on at {0}, which is not the directory's origin")]
    Foreign(String),
    /// The answer is not understood.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The devices are more than are kept.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl From<BodyError> for FetchError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => Self::TooLarge { limit },
            BodyError::Transport(why) => Self::Transport(why),
        }
    }
}

impl FetchError {
    /// Not to be asked again before.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
