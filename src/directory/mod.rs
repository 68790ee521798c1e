//! The directory: a Graph-compatible API for trust configurations and devices, on a store of our own.
//!
//! A request goes: who asks ([`auth`]) → what is meant ([`routes`], [`odata`]) → the operation
//! (`configurations`, `applications`, `templates`, `devices`, `delta`), which checks bodies whole ([`validate`]) before it stores →
//! Graph's answer, or Graph's error ([`errors`]).
//!
//! Graph's configurations have no ETag, so that two administrators who each read, change and write a
//! list lose one of the changes.  Here every object has one (`@odata.etag`, `ETag`), and `If-Match` is
//! honoured when it is sent; without it a PATCH is applied to what is stored at that moment.
//!
//! A list answer carries the ETag of its whole collection.  A reader that sends it back in
//! `If-None-Match` gets 304 while nothing has changed, and with `Prefer: wait=N` (RFC 7240) the answer
//! waits up to N seconds for a change: that is how gateways learn of one at once, while plain polling
//! stays enough.

pub mod auth;
pub mod errors;
pub mod issuers;
pub mod odata;
pub mod routes;
pub mod shapes;
pub mod validate;

mod answers;
mod applications;
mod configurations;
mod delta;
mod device;
mod devices;
mod list;
mod names;
mod object_locks;
mod templates;

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::Extensions;
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request};
use serde_json::{Map, Value};
use tokio::sync::MutexGuard;
use tokio::time::timeout;
use tracing::warn;

use crate::directory::answers::{
    Answer, accepts_gzip, accepts_json, entity_tag, failure, insert, success,
};
use crate::directory::auth::{Authenticator, Caller, Need, StaticToken};
use crate::directory::errors::Fault;
use crate::directory::issuers::Issuer;
use crate::directory::object_locks::Turns;
use crate::directory::routes::Resource;
use crate::http::body::{self, BodyError};
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::random::{guid, is_guid};
use crate::store::Store;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// How long a request may take, and its body: below the time after which a connection is cut off, so that
/// who is late is answered.
const REQUEST_TIME: Duration = Duration::from_secs(28);
const BODY_TIME: Duration = Duration::from_secs(20);
/// What is taken, and thrown away, of a body that is not read, so that its sender gets to see the answer.
const DISCARDED: usize = 8 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Request body of any listener.
type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// How the directory serves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bearer tokens that are accepted.
    pub tokens: Vec<StaticToken>,
    /// Issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// Objects a page when `$top` does not say.
    pub page_size: usize,
    /// Bytes of a request body, before and after decompression.
    pub body_limit: usize,
    /// The longest that a reader may wait for a change.
    pub max_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            issuers: Vec::new(),
            page_size: 100,
            body_limit: 1024 * 1024,
            // Below the time that a request may take in all.
            max_wait: Duration::from_secs(25),
        }
    }
}

/// The directory.  Clones are the same one.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    callers: Authenticator,
    store: Store,
    turns: Turns,
}

/// The directory as one listener serves it.
#[derive(Clone)]
pub struct Served {
    directory: Directory,
    /// The service root that links are made from, without a slash at the end.
    root: Arc<str>,
}

impl Directory {
    /// A directory on `store`.
    pub fn new(config: Config, store: Store) -> Self {
        let callers = Authenticator::new(config.tokens.clone(), config.issuers.clone());
        Self { inner: Arc::new(Inner { config, callers, store, turns: Turns::new() }) }
    }

    /// The API, for a listener that clients reach at `public_url` (such as `https://hub.example:8445`).
    /// Links are made from that, never from what a request says its host is.
    pub fn at(&self, public_url: &str) -> Served {
        let root = format!("{}/beta", public_url.trim_end_matches('/')).into();
        Served { directory: self.clone(), root }
    }
}

impl Served {
    /// Answers one request.  A token that is bound to a certificate is taken when the request has an
    /// `Arc<Peer>` with that certificate among its extensions.
    pub async fn answer<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
        const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");
        let now = Timestamp::from(SystemTime::now());
        let request_id = guid();
        let client_request_id = request
            .headers()
            .get(&CLIENT_REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|id| is_guid(id))
            .unwrap_or(&request_id)
            .to_owned();
        let gzip = accepts_gzip(request.headers());
        let waits = preferred_wait(request.headers()).is_some();
        let result = self.within_time(request.map(|body| body.map_err(std::io::Error::other).boxed_unsync()), now).await;
        let mut response = match result {
            Ok(answer) => {
                let waits = waits && answer.may_wait();
                let mut response = success(answer, gzip);
                if waits {
                    insert(&mut response, HeaderName::from_static("preference-applied"), "wait");
                }
                response
            }
            Err(fault) => {
                if let Fault::Unavailable(why) = &fault {
                    warn!(request.id = %request_id, "the directory cannot answer: {why}");
                }
                let json = fault.body(&request_id, &client_request_id, now);
                failure(&fault, json.to_string())
            }
        };
        let headers = response.headers_mut();
        for (name, value) in [(REQUEST_ID, request_id), (CLIENT_REQUEST_ID, client_request_id)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        headers.insert(HeaderName::from_static("odata-version"), HeaderValue::from_static("4.0"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        response
    }

    /// A change goes on to its end, and into the audit log, whoever goes away meanwhile.
    async fn within_time(&self, request: Request<RequestBody>, now: Timestamp) -> Result<Answer, Fault> {
        let late = |_| Fault::Unavailable(format!("it took more than {REQUEST_TIME:?}"));
        if !writes(request.method()) {
            return timeout(REQUEST_TIME, self.handle(request, now)).await.map_err(late)?;
        }
        let this = self.clone();
        let change = tokio::spawn(async move { this.handle(request, now).await });
        let ended = timeout(REQUEST_TIME, change).await.map_err(late)?;
        ended.map_err(|error| Fault::Unavailable(error.to_string()))?
    }

    async fn handle(&self, request: Request<RequestBody>, now: Timestamp) -> Result<Answer, Fault> {
        let (head, mut body) = request.into_parts();
        // Who waits to be asked for a body has not sent it.
        let waits = head.headers.contains_key(header::EXPECT);
        let result = self.operate(head, &mut body, now).await;
        if !waits && !matches!(result, Err(Fault::Slow)) {
            body::discard(body, DISCARDED, DISCARD_TIME).await;
        }
        result
    }

    async fn operate(&self, head: Parts, body: &mut RequestBody, now: Timestamp) -> Result<Answer, Fault> {
        let Inner { config, callers, store, .. } = &*self.directory.inner;
        let authorization = head.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let certificate = presented(&head.extensions);
        let caller = callers.caller(authorization, certificate.as_ref()).await?;
        let resource = routes::resolve(head.uri.path())?;
        let need = need(&resource, &head.method);
        caller.require(need).inspect_err(|_| {
            let (actor, permission) = (caller.name.to_string(), format!("{need:?}"));
            let record = Record::new(Event::Directory, Outcome::Refused);
            Record { actor: Some(&actor), permission: Some(&permission), ..record }.emit();
        })?;
        // Before anything is done: who takes no JSON would not know what was.
        if !(resource.is_count() || head.method == Method::DELETE || accepts_json(&head.headers)) {
            return Err(Fault::Unacceptable);
        }
        // Only who may write makes us read and inflate a body.
        let body = if writes(&head.method) {
            read_body(&head.headers, body, config.body_limit).await?
        } else {
            Bytes::new()
        };
        let call = Call {
            store: store.clone(),
            directory: self.directory.clone(),
            root: Arc::clone(&self.root),
            page_size: config.page_size.clamp(1, odata::MAX_TOP),
            max_wait: config.max_wait,
            caller,
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            body,
            now,
        };
        match resource {
            Resource::Configurations => configurations::collection(&call).await,
            Resource::ConfigurationsCount => configurations::count(&call).await,
            Resource::Configuration(id) => configurations::one(&call, &id).await,
            Resource::Applications => applications::collection(&call).await,
            Resource::ApplicationsCount => applications::count(&call).await,
            Resource::Application(id) => applications::one(&call, &id).await,
            Resource::Authorities(id) => applications::authorities(&call, &id).await,
            Resource::AuthoritiesCount(id) => applications::count_authorities(&call, &id).await,
            Resource::Authority(id, authority) => {
                applications::authority(&call, &id, &authority).await
            }
            Resource::Templates => templates::collection(&call).await,
            Resource::TemplatesCount => templates::count(&call).await,
            Resource::Template(id) => templates::one(&call, &id).await,
            Resource::CreateDevice(id) => templates::create_device(&call, &id).await,
            Resource::Instances(id) => templates::instances(&call, &id).await,
            Resource::InstancesCount(id) => templates::count_instances(&call, &id).await,
            Resource::Instance(id, device) => templates::instance(&call, &id, &device).await,
            Resource::Owners(id) => templates::owners(&call, &id).await,
            Resource::Devices => devices::collection(&call).await,
            Resource::DevicesCount => devices::count(&call).await,
            Resource::DevicesDelta => delta::delta(&call).await,
            Resource::Device(id) => devices::one(&call, &id).await,
        }
    }
}

/// One request, authenticated and read.
struct Call {
    store: Store,
    directory: Directory,
    root: Arc<str>,
    page_size: usize,
    max_wait: Duration,
    caller: Arc<Caller>,
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
    now: Timestamp,
}

impl Call {
    /// The body as a JSON object.
    fn object(&self) -> Result<Map<String, Value>, Fault> {
        let media_type = self.header(&header::CONTENT_TYPE).unwrap_or("application/json");
        let essence = media_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        if essence != "application/json" && !essence.ends_with("+json") {
            return Err(Fault::Payload(format!("its media type is `{essence}`")));
        }
        validate::object(&self.body)
    }

    /// The turn to change the object `id`.
    async fn turn(&self, id: &str) -> MutexGuard<'_, ()> {
        self.directory.inner.turns.take(id).await
    }

    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How long the reader prefers to wait for a change (RFC 7240 section 4.3).
    fn preferred_wait(&self) -> Option<Duration> {
        preferred_wait(&self.headers)
    }

    /// Refuses when `If-Match` is sent and does not match; gives whether it was sent.
    fn precondition(&self, version: u64) -> Result<bool, Fault> {
        if !self.headers.contains_key(header::IF_MATCH) {
            return Ok(false);
        }
        // A line that cannot be read names no version.
        let mut lines = self.headers.get_all(header::IF_MATCH).iter();
        let own = entity_tag(version);
        match lines.any(|line| line.to_str().is_ok_and(|tags| tags_match(tags, &own))) {
            true => Ok(true),
            false => Err(Fault::Precondition),
        }
    }

    /// One line for what was changed and by whom.
    fn audit(&self, action: &'static str, kind: &'static str, id: &str) {
        let actor = self.caller.name.to_string();
        Record {
            action: Some(action),
            actor: Some(&actor),
            object_type: Some(kind),
            object: Some(id),
            ..Record::new(Event::Directory, Outcome::Changed)
        }
        .emit();
    }
}

fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    preferences
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| preference.trim().strip_prefix("wait="))
        .and_then(|seconds| seconds.trim_matches('"').parse().ok())
        .map(Duration::from_secs)
}

/// True when one of the entity tags of `If-Match` or `If-None-Match` is `own`.  Weak tags count: what is
/// compared is the object, not its bytes.
fn tags_match(tags: &str, own: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned();
    let own = opaque(own);
    tags.split(',').map(str::trim).any(|tag| tag == "*" || opaque(tag) == own)
}

/// The client certificate of the connection, which the handshake has proved the possession of.
fn presented(extensions: &Extensions) -> Option<Fingerprint> {
    let peer = extensions.get::<Arc<Peer>>()?;
    peer.chain.as_ref().ok().map(|chain| chain.leaf().fingerprint)
}

/// True for what can change something; what is none of Graph's methods is refused by all resources.
fn writes(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PATCH | Method::DELETE)
}

fn need(resource: &Resource, method: &Method) -> Need {
    let read_or = |read, write| if writes(method) { write } else { read };
    match resource {
        Resource::Configurations | Resource::ConfigurationsCount | Resource::Configuration(_) => {
            read_or(Need::ReadMutualTls, Need::WriteMutualTls)
        }
        Resource::Applications
        | Resource::ApplicationsCount
        | Resource::Application(_)
        | Resource::Authorities(_)
        | Resource::AuthoritiesCount(_)
        | Resource::Authority(..) => read_or(Need::ReadApplications, Need::WriteApplications),
        Resource::Templates => read_or(Need::ReadTemplates, Need::CreateTemplates),
        Resource::TemplatesCount | Resource::Template(_) | Resource::Owners(_) => {
            read_or(Need::ReadTemplates, Need::DeleteTemplates)
        }
        Resource::CreateDevice(_) => Need::CreateDevices,
        Resource::Instances(_)
        | Resource::InstancesCount(_)
        | Resource::Instance(..)
        | Resource::Devices
        | Resource::DevicesCount
        | Resource::DevicesDelta
        | Resource::Device(_) => read_or(Need::ReadDevices, Need::WriteDevices),
    }
}

/// Reads a body, plain or gzip: the Go stack of the SDKs compresses what it sends.
async fn read_body(headers: &HeaderMap, body: &mut RequestBody, limit: usize) -> Result<Bytes, Fault> {
    let coding = headers.get(header::CONTENT_ENCODING).map_or("identity", |value| {
        // What is not even text is no coding that is known.
        value.to_str().unwrap_or("?")
    });
    let coding = coding.trim().to_ascii_lowercase();
    if !matches!(&*coding, "identity" | "gzip") {
        return Err(Fault::Coding(format!("Content-Encoding: {coding}")));
    }
    let read = timeout(BODY_TIME, body::read(body, limit)).await;
    let bytes = read.map_err(|_| Fault::Slow)?.map_err(|error| match error {
        BodyError::TooLong { limit } => Fault::TooLong(limit),
        BodyError::Broken(why) => Fault::Payload(why),
    })?;
    if coding == "identity" {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    // One byte past the limit tells "exactly full" from "too long".  All members of the stream are read,
    // and what is none is damage: nothing that was sent is left out.
    MultiGzDecoder::new(&bytes[..])
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| Fault::Payload(format!("the gzip stream is damaged: {error}")))?;
    if plain.len() > limit { Err(Fault::TooLong(limit)) } else { Ok(plain.into()) }
}
