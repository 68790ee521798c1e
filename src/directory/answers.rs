//! Answers and errors as they go over HTTP.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value};

use crate::directory::errors::Fault;
use crate::http::reply::Reply;

/// What is answered when all went well.
pub(super) enum Answer {
    /// 200 with an object.
    Object(Map<String, Value>, u64),
    /// 200 with a list, and its entity tag.
    List(Map<String, Value>, String),
    /// 200 with changes, which have no version of their own.
    Changes(Map<String, Value>),
    /// 201 with the new object.
    Created(Map<String, Value>, u64),
    /// 200 with a number.
    Number(u64),
    /// 204.
    Done,
    /// 304: the list still has that entity tag.
    Unchanged(String),
}

impl Answer {
    /// True for what a reader can have waited for.
    pub(super) fn may_wait(&self) -> bool {
        matches!(self, Self::List(..) | Self::Changes(_) | Self::Unchanged(_))
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
                && !parts.any(is_never)
        })
    })
}

/// False for a reader that says what it takes, and takes no JSON.
pub(super) fn accepts_json(headers: &HeaderMap) -> bool {
    let takes = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default().to_ascii_lowercase();
        matches!(&*range, "application/json" | "application/*" | "*/*" | "") && !parts.any(is_never)
    };
    let mut lines = headers.get_all(header::ACCEPT).iter().peekable();
    lines.peek().is_none()
        || lines.any(|line| line.to_str().is_ok_and(|ranges| ranges.split(',').any(takes)))
}

/// The weight that excludes (RFC 9110 section 12.4.2).
fn is_never(parameter: &str) -> bool {
    matches!(parameter, "q=0" | "q=0." | "q=0.0" | "q=0.00" | "q=0.000")
}

const JSON: &str = "application/json;odata.metadata=minimal;odata.streaming=true;\
                    IEEE754Compatible=false;charset=utf-8";

pub(super) fn success(answer: Answer, gzip: bool) -> Reply {
    let (status, object, tag) = match answer {
        Answer::Object(object, version) => (StatusCode::OK, object, Some(entity_tag(version))),
        Answer::List(object, tag) => (StatusCode::OK, object, Some(tag)),
        Answer::Changes(object) => (StatusCode::OK, object, None),
        Answer::Created(object, version) => {
            (StatusCode::CREATED, object, Some(entity_tag(version)))
        }
        Answer::Number(number) => {
            return reply(StatusCode::OK, Some("text/plain"), number.to_string().into());
        }
        Answer::Done => return reply(StatusCode::NO_CONTENT, None, Bytes::new()),
        Answer::Unchanged(tag) => {
            let mut response = reply(StatusCode::NOT_MODIFIED, None, Bytes::new());
            insert(&mut response, header::ETAG, &tag);
            return response;
        }
    };
    let location = (status == StatusCode::CREATED)
        .then(|| object.get("@odata.id").and_then(Value::as_str).map(str::to_owned))
        .flatten();
    let json = Value::Object(object).to_string();
    let packed = (gzip && json.len() >= WORTH_PACKING).then(|| pack(json.as_bytes())).flatten();
    let mut response = match packed {
        Some(packed) => {
            let mut response = reply(status, Some(JSON), packed.into());
            insert(&mut response, header::CONTENT_ENCODING, "gzip");
            response
        }
        None => reply(status, Some(JSON), json.into()),
    };
    if let Some(tag) = tag {
        insert(&mut response, header::ETAG, &tag);
    }
    if let Some(location) = location {
        insert(&mut response, header::LOCATION, &location);
    }
    response
}

/// Bytes below which gzip saves less than it costs.
const WORTH_PACKING: usize = 1024;

fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

const CHALLENGE: &str = "Bearer realm=\"anchorgate directory\"";

pub(super) fn failure(fault: &Fault, json: String) -> Reply {
    let mut response = reply(fault.status(), Some(JSON), json.into());
    match fault {
        // A request without a token has done nothing wrong yet (RFC 6750 section 3.1).
        Fault::Anonymous => insert(&mut response, header::WWW_AUTHENTICATE, CHALLENGE),
        Fault::Token(_) => {
            let challenge = format!("{CHALLENGE}, error=\"invalid_token\"");
            insert(&mut response, header::WWW_AUTHENTICATE, &challenge);
        }
        Fault::Method(allow) => insert(&mut response, header::ALLOW, allow),
        Fault::SyncState(anew) => insert(&mut response, header::LOCATION, anew),
        Fault::Unavailable(_) => insert(&mut response, header::RETRY_AFTER, "5"),
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
