//! Bounded reading of request bodies.

use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Buf, Bytes};
use tokio::time::timeout;

/// Reasons why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
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
/// See [`BodyError`].
pub async fn read<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // Reject a declared length above the limit before reading.
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLong { limit });
    }
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLong { limit }),
        Err(error) => Err(BodyError::Broken(error.to_string())),
    }
}

/// Reads and discards the rest of a body: at most `limit` bytes, for at most `time`.
///
/// If the server responds and closes while the client is still sending, the client may see a connection
/// error in place of the response (RFC 9112 section 9.6).
pub async fn discard<B>(mut body: B, limit: usize, time: Duration)
where
    B: Body + Unpin,
{
    let rest = async {
        let mut left = limit;
        while !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else { return };
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            match left.checked_sub(bytes) {
                Some(fewer) => left = fewer,
                None => return,
            }
        }
    };
    // After `time` the connection closes with unread data.
    let _ = timeout(time, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn reads_a_body_up_to_the_limit_and_rejects_a_longer_one() {
        let full = |n| Full::new(Bytes::from(vec![b'x'; n]));
        assert_eq!(read(full(8), 8).await.map(|b| b.len()).ok(), Some(8));
        assert!(matches!(read(full(9), 8).await, Err(BodyError::TooLong { limit: 8 })));
    }
}
