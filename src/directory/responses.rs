//! HTTP responses of the directory, and the request headers that select their form.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::directory::in_flight::Reserved;
use crate::http::reply::Reply;

/// Successful result of an operation.
pub(super) enum Success {
    /// 200 with an object and its version.
    Object(Map<String, Value>, u64),
    /// 200 with a list and its entity tag.
    List(Map<String, Value>, String),
    /// 200 with an encoded list and its entity tag.
    Page(Encoded, String),
    /// 200 with changes, which have no entity tag.
    Changes(Map<String, Value>),
    /// 201 with the new object and its version.
    Created(Map<String, Value>, u64),
    /// 200 with a number as text.
    Number(u64),
    /// 204.
    NoContent,
    /// 304: the list still has this entity tag.
    Unchanged(String),
}

impl Success {
    /// Returns true if the request can have waited for a change.
    pub(super) fn supports_wait(&self) -> bool {
        matches!(self, Self::List(..) | Self::Page(..) | Self::Changes(_) | Self::Unchanged(_))
    }
}

/// Body of a response, with its memory.
#[derive(Debug, Clone)]
pub(super) struct Encoded {
    pub(super) body: Bytes,
    pub(super) is_compressed: bool,
}

impl Encoded {
    /// Encodes `object`, compressed if the client accepts `gzip` and it is long enough.
    pub(super) fn new(object: Map<String, Value>, reserved: Option<Reserved>, gzip: bool) -> Self {
        let json = Value::Object(object).to_string();
        let compressed =
            (gzip && json.len() >= MIN_COMPRESSED).then(|| compress(json.as_bytes())).flatten();
        let is_compressed = compressed.is_some();
        let body: Bytes = compressed.unwrap_or_else(|| json.into_bytes()).into();
        let body = match reserved {
            Some(reserved) => reserved.hold(body),
            None => body,
        };
        Self { body, is_compressed }
    }

    fn response(self, status: StatusCode) -> Reply {
        let mut response = reply(status, Some(JSON), self.body);
        if self.is_compressed {
            insert(&mut response, header::CONTENT_ENCODING, "gzip");
        }
        response
    }
}

pub(super) fn entity_tag(version: u64) -> String {
    format!("W/\"{version}\"")
}

pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok()).any(|value| {
        value.split(',').any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"))
                && !parts.any(is_zero_weight)
        })
    })
}

/// Returns false if the client sent `Accept` without a range that includes JSON.
pub(super) fn accepts_json(headers: &HeaderMap) -> bool {
    let includes_json = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default().to_ascii_lowercase();
        matches!(&*range, "application/json" | "application/*" | "*/*" | "")
            && !parts.any(is_zero_weight)
    };
    let mut lines = headers.get_all(header::ACCEPT).iter().peekable();
    lines.peek().is_none()
        || lines.any(|line| line.to_str().is_ok_and(|ranges| ranges.split(',').any(includes_json)))
}

/// Returns true for a weight of zero, which excludes a range (RFC 9110 section 12.4.2).
fn is_zero_weight(parameter: &str) -> bool {
    matches!(parameter, "q=0" | "q=0." | "q=0.0" | "q=0.00" | "q=0.000")
}

const JSON: &str = "application/json;odata.metadata=minimal;odata.streaming=true;\
                    IEEE754Compatible=false;charset=utf-8";

/// Returns the response.  It keeps its part of `reserved` until it was sent.
pub(super) fn success_response(success: Success, reserved: Option<Reserved>, gzip: bool) -> Reply {
    let (status, object, tag) = match success {
        Success::Object(object, version) => (StatusCode::OK, object, Some(entity_tag(version))),
        Success::List(object, tag) => (StatusCode::OK, object, Some(tag)),
        Success::Page(page, tag) => {
            let mut response = page.response(StatusCode::OK);
            insert(&mut response, header::ETAG, &tag);
            return response;
        }
        Success::Changes(object) => (StatusCode::OK, object, None),
        Success::Created(object, version) => {
            (StatusCode::CREATED, object, Some(entity_tag(version)))
        }
        Success::Number(number) => {
            return reply(StatusCode::OK, Some("text/plain"), number.to_string().into());
        }
        Success::NoContent => return reply(StatusCode::NO_CONTENT, None, Bytes::new()),
        Success::Unchanged(tag) => {
            let mut response = reply(StatusCode::NOT_MODIFIED, None, Bytes::new());
            insert(&mut response, header::ETAG, &tag);
            return response;
        }
    };
    let location = (status == StatusCode::CREATED)
        .then(|| object.get("@odata.id").and_then(Value::as_str).map(str::to_owned))
        .flatten();
    let mut response = Encoded::new(object, reserved, gzip).response(status);
    if let Some(tag) = tag {
        insert(&mut response, header::ETAG, &tag);
    }
    if let Some(location) = location {
        insert(&mut response, header::LOCATION, &location);
    }
    response
}

/// Minimum length in bytes of a compressed response: below it, gzip costs more than it saves.
const MIN_COMPRESSED: usize = 1024;

fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

const CHALLENGE: &str = "Bearer realm=\"anchorgate directory\"";

pub(super) fn error_response(fault: &Fault, json: String) -> Reply {
    let mut response = reply(fault.status(), Some(JSON), json.into());
    match fault {
        // Without a token, the challenge has no error code (RFC 6750 section 3.1).
        Fault::Anonymous => insert(&mut response, header::WWW_AUTHENTICATE, CHALLENGE),
        Fault::Token(_) => {
            let challenge = format!("{CHALLENGE}, error=\"invalid_token\"");
            insert(&mut response, header::WWW_AUTHENTICATE, &challenge);
        }
        Fault::MethodNotAllowed(allow) => insert(&mut response, header::ALLOW, allow),
        Fault::SyncState(restart) => insert(&mut response, header::LOCATION, restart),
        Fault::Unavailable(_) | Fault::ReadOnly(_) => {
            insert(&mut response, header::RETRY_AFTER, "5");
        }
        _ => {}
    }
    response
}

fn reply(status: StatusCode, media_type: Option<&'static str>, body: Bytes) -> Reply {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    if let Some(media_type) = media_type {
        insert(&mut response, header::CONTENT_TYPE, media_type);
    }
    response
}

pub(super) fn insert(response: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
