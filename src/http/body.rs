//! Bounded reading of request bodies.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Longer than the limit.
    #[error("the request body is longer than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The peer went away or broke the framing.
    #[error("the request body ended early: {0}")]
    Broken(String),
}

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// A longer one, or one that breaks off.
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // A declared length above the limit is refused before a byte is read.
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLong { limit });
    }
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLong { limit }),
        Err(error) => Err(BodyError::Broken(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn exactly_full_is_read_and_one_more_is_not() {
        let full = |n| Full::new(Bytes::from(vec![b'x'; n]));
        assert_eq!(read(full(8), 8).await.map(|b| b.len()).ok(), Some(8));
        assert!(matches!(read(full(9), 8).await, Err(BodyError::TooLong { limit: 8 })));
    }
}
