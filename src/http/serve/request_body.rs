//! The body of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::http::serve::activity::Activity;
use crate::http::serve::{LINGER_BYTES, LINGER_TIME, Protocol};

/// The body of a request.
///
/// On HTTP/2, the rest of a body that is dropped early is discarded within the bounds of closing.
/// Otherwise h2 would reset the stream, and clients that are still sending lose the response.
pub struct RequestBody {
    /// `None` only after it was dropped.
    body: Option<Incoming>,
    activity: Arc<Activity>,
    /// It has not arrived completely, and is counted as such.
    is_receiving: bool,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, activity: &Arc<Activity>) -> Self {
        let is_receiving = !body.is_end_stream();
        if is_receiving {
            activity.receiving.fetch_add(1, Ordering::Relaxed);
        }
        Self { body: Some(body), activity: Arc::clone(activity), is_receiving }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.is_receiving) {
            self.activity.receiving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if frame.is_none() || self.is_end_stream() {
            self.activity.unread.store(false, Ordering::Relaxed);
            self.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.end();
        if self.activity.protocol == Protocol::Http2
            && let Some(body) = self.body.take()
            && !body.is_end_stream()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(LINGER_TIME, discard(body)));
        }
    }
}

/// Reads and drops at most [`LINGER_BYTES`] of a body.
async fn discard(mut body: Incoming) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(fewer) => left = fewer,
            None => return,
        }
    }
}
