//! Bounded reading of request bodies.

use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Buf, Bytes};
use tokio::time::timeout;

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

/// Takes what is left of a body and throws it away, at most `limit` bytes of it, for at most `time`.
///
/// A refusal that is made before the body has come ends the connection under its sender, who then meets
/// an error of the connection where the answer would have told why (RFC 9112 section 9.6).
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
    // What is later than that is not waited for.
    let _ = timeout(time, rest).await;
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
