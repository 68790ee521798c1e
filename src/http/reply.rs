//! Responses that all planes build in the same way.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// A complete response.
pub type Reply = Response<Full<Bytes>>;

/// Returns a response with a JSON body.
pub fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    match serde_json::to_vec(body) {
        Ok(bytes) => typed(status, "application/json", bytes),
        // Only maps with keys other than strings fail, and no response contains one.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// Returns a response with a body of the given media type.
pub fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply
}

/// Returns a response without a body.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = status;
    reply
}

/// Returns 405 with the allowed methods (RFC 9110 section 15.5.6).
pub(crate) fn method_not_allowed(allow: &'static str) -> Reply {
    let mut reply = empty(StatusCode::METHOD_NOT_ALLOWED);
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    reply
}
