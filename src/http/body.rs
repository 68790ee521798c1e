//! Bounded reading of request bodies.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};

/// Reasons why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The body is longer than the limit.
    #[error("the request body is longer than {limit} bytes")]
    TooLong {
        /// Limit in bytes.
        limit: usize,
    },
    /// The connection closed, or the framing is invalid.
    #[error("the request body ended early: {0}")]
    Broken(String),
}

/// Reads a complete body of at most `limit` bytes.
///
/// # Errors
/// See [`RequestBodyError`].
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, RequestBodyError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Reject a declared length above the limit before reading.
    if body.size_hint().lower() > limit as u64 {
        return Err(RequestBodyError::TooLong { limit });
    }
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(RequestBodyError::TooLong { limit }),
        Err(error) => Err(RequestBodyError::Broken(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn reads_a_body_up_to_the_limit_and_rejects_a_longer_one() {
        let full = |n| Full::new(Bytes::from(vec![b'x'; n]));
        assert_eq!(read(full(8), 8).await.map(|b| b.len()).ok(), Some(8));
        assert!(matches!(read(full(9), 8).await, Err(RequestBodyError::TooLong { limit: 8 })));
    }
}
