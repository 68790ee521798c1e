//! One authenticated API call, and the parts of a request that all operations read.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderName};
use hyper::{HeaderMap, Method};
use serde_json::{Map, Value};
use tokio::sync::MutexGuard;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::directory::errors::Fault;
use crate::directory::in_flight::{InFlight, Reserved};
use crate::directory::object_locks::ObjectLocks;
use crate::directory::permissions::Caller;
use crate::directory::responses::entity_tag;
use crate::directory::shared_pages::SharedPages;
use crate::directory::validate;
use crate::http::body::{self, RequestBodyError};
use crate::http::delta_seconds::delta_seconds;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::store::Store;
use crate::x509::time::Timestamp;

/// Timeout for reading a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Request of an authorized caller, with its complete body.
pub(super) struct Call {
    pub(super) store: Store,
    pub(super) locks: Arc<ObjectLocks>,
    pub(super) in_flight: Arc<InFlight>,
    /// Pages that several requests share.
    pub(super) pages: Arc<SharedPages>,
    /// Memory for the response.
    pub(super) reserved: Mutex<Option<Reserved>>,
    /// Service root for links, without a slash at the end.
    pub(super) root: Arc<str>,
    pub(super) page_size: usize,
    pub(super) body_limit: usize,
    pub(super) max_wait: Duration,
    /// Ends the wait for a change.
    pub(super) stop: CancellationToken,
    pub(super) caller: Arc<Caller>,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) now: Timestamp,
}

impl Call {
    /// Parses the body as a JSON object.
    pub(super) fn object(&self) -> Result<Map<String, Value>, Fault> {
        let media_type = self.header(&header::CONTENT_TYPE).unwrap_or("application/json");
        let essence = media_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if essence != "application/json" && !essence.ends_with("+json") {
            return Err(Fault::Payload(format!("its media type is `{essence}`")));
        }
        validate::object(&self.body)
    }

    /// Waits for the memory of the response.  Call it before what is returned is read.
    pub(super) async fn reserve(&self, bytes: usize) {
        let reserved = self.in_flight.reserve(&self.caller.key(), bytes).await;
        *self.reserved.lock().unwrap_or_else(PoisonError::into_inner) = Some(reserved);
    }

    /// Returns the memory of the response, so that waiting for a change does not keep it.
    pub(super) fn release(&self) -> Option<Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for the lock that serializes changes to the object `id`.
    pub(super) async fn lock(&self, id: &str) -> MutexGuard<'_, ()> {
        self.locks.lock(id).await
    }

    pub(super) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns how long to wait for a change: the client's preference, up to the configured limit.
    pub(super) fn wait(&self) -> Duration {
        preferred_wait(&self.headers, self.max_wait).unwrap_or_default()
    }

    /// Waits for `change` for at most [`Call::wait`], and not while the process stops.  Returns true
    /// if the change occurred.
    pub(super) async fn wait_for(&self, change: impl Future) -> bool {
        tokio::select! {
            changed = timeout(self.wait(), change) => changed.is_ok(),
            () = self.stop.cancelled() => false,
        }
    }

    /// Checks `If-Match`, and returns whether the header is present.
    pub(super) fn check_precondition(&self, version: u64) -> Result<bool, Fault> {
        if !self.headers.contains_key(header::IF_MATCH) {
            return Ok(false);
        }
        // A line that is not text does not match any version.
        let mut lines = self.headers.get_all(header::IF_MATCH).iter();
        let own = entity_tag(version);
        match lines.any(|line| line.to_str().is_ok_and(|tags| tags_match(tags, &own))) {
            true => Ok(true),
            false => Err(Fault::Precondition),
        }
    }

    /// Writes an audit record of a change.
    pub(super) fn audit(&self, action: &'static str, kind: &'static str, id: &str) {
        Record {
            action: Some(action),
            actor: Some(&self.caller.name),
            actor_issuer: Some(&self.caller.issuer),
            object_type: Some(kind),
            object: Some(id),
            ..Record::new(Event::Directory, Outcome::Changed)
        }
        .emit();
    }
}

/// Reads the preference `wait` (RFC 7240 section 4.3), up to `longest`.
pub(super) fn preferred_wait(headers: &HeaderMap, longest: Duration) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| preference.trim().strip_prefix("wait="))
        .and_then(|seconds| delta_seconds(seconds.trim_matches('"')))
        .map(|wait| wait.min(longest))
}

/// Returns true if one of the entity tags of `If-Match` or `If-None-Match` is `own`.
///
/// The comparison is weak (RFC 9110 section 8.8.3.2): a tag identifies the object, not the bytes.
pub(super) fn tags_match(tags: &str, own: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned();
    let own = opaque(own);
    tags.split(',').map(str::trim).any(|tag| tag == "*" || opaque(tag) == own)
}

/// Returns true for the methods that can change an object.  All resources reject methods that Graph
/// does not use.
pub(super) fn is_write(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PATCH | Method::DELETE)
}

/// Reads a body, plain or gzip.  The Go SDK sends compressed bodies.
pub(super) async fn read_body<B>(
    headers: &HeaderMap,
    body: &mut B,
    limit: usize,
) -> Result<Bytes, Fault>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let coding = headers.get(header::CONTENT_ENCODING).map_or("identity", |value| {
        // A value that is not text is not a known coding.
        value.to_str().unwrap_or("?")
    });
    let coding = coding.trim().to_ascii_lowercase();
    if !matches!(&*coding, "identity" | "gzip") {
        return Err(Fault::ContentCoding(format!("Content-Encoding: {coding}")));
    }
    let read = timeout(BODY_TIMEOUT, body::read(body, limit)).await;
    let bytes = read.map_err(|_| Fault::BodyTimeout)?.map_err(|error| match error {
        RequestBodyError::TooLong { limit } => Fault::BodyTooLong(limit),
        RequestBodyError::Broken(why) => Fault::Payload(why),
    })?;
    if coding == "identity" {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    // One byte past the limit distinguishes "exactly full" from "too long".  All members of the stream
    // are read, and trailing garbage is an error, so that nothing that was sent is ignored.
    MultiGzDecoder::new(&bytes[..])
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| Fault::Payload(format!("the gzip stream is damaged: {error}")))?;
    if plain.len() > limit { Err(Fault::BodyTooLong(limit)) } else { Ok(plain.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_as_long_as_the_operator_allows() {
        let longest = Duration::from_secs(25);
        let wait = |prefer: &str| {
            let headers = [(HeaderName::from_static("prefer"), prefer)];
            let value = |(name, value): (HeaderName, &str)| (name, value.parse().expect("a value"));
            preferred_wait(&headers.into_iter().map(value).collect(), longest)
        };
        assert_eq!(wait("respond-async, wait=7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("wait=\"0\""), Some(Duration::ZERO));
        for long in ["26", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(wait(&format!("wait={long}")), Some(longest), "{long}");
        }
        for wrong in ["wait=-1", "wait=1.5", "wait=soon", "wait=", "wait"] {
            assert_eq!(wait(wrong), None, "{wrong}");
        }
    }
}
