//! Directory: a Graph-compatible API for trust configurations and devices, on a [`Store`].
//!
//! A request passes through: authentication ([`auth`]), path (`paths`) and permission
//! ([`permissions`]), the operation (`configuration_routes`, `application_routes`, `template_routes`,
//! `device_routes`, `delta`), which checks a body completely (`validate`) before it stores anything,
//! and the response (`responses`) or Graph's error (`errors`).
//!
//! # Design notes
//! Graph's configurations have no ETag, so that one of two administrators who read, change and write a
//! list at the same time loses the change.  Here every object has one (`@odata.etag`, `ETag`), and
//! `If-Match` is honoured.  Without it, a PATCH is applied to the current version.
//!
//! A list response has the ETag of the whole collection.  With this tag in `If-None-Match`, a reader
//! gets 304 until something changes.  With `Prefer: wait=N` (RFC 7240), the response waits up to N
//! seconds for a change: gateways receive changes at once in this way, while plain polling also works.

pub mod auth;
pub mod issuers;
pub mod permissions;
pub mod shapes;
pub(crate) mod validate;

mod application_routes;
mod call;
mod configuration_routes;
mod delta;
mod device;
mod device_routes;
mod errors;
mod in_flight;
mod list;
mod metrics;
mod names;
mod object_locks;
mod objects;
mod odata;
mod paths;
mod responses;
mod shared_pages;
mod template_routes;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::Extensions;
use hyper::{Method, Request};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::directory::auth::{Authenticator, StaticToken};
use crate::directory::call::{Call, is_write, preferred_wait, read_body};
use crate::directory::device::Device;
use crate::directory::errors::Fault;
use crate::directory::in_flight::{InFlight, OBJECT, Reserved};
use crate::directory::issuers::Issuer;
use crate::directory::object_locks::ObjectLocks;
use crate::directory::odata::{AllowedOptions, Query};
use crate::directory::paths::Resource;
use crate::directory::permissions::Need;
use crate::directory::responses::{
    Success, accepts_gzip, accepts_json, error_response, insert, success_response,
};
use crate::directory::shared_pages::SharedPages;
use crate::http::listen::MAX_CONNECTIONS;
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::clock;
use crate::runtime::random::{guid, is_guid};
use crate::store::{Database, Store};
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Timeout of a request.  It is shorter than the timeout of the connection, so that the client gets an
/// error response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(28);

pub use metrics::Metrics;

/// Request body of any listener.
type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Returns true if `query`, the part of a URL after `?`, is supported for a list of devices.
pub fn is_device_query(query: &str) -> bool {
    Query::parse::<Device>(query, AllowedOptions::List).is_ok()
}

/// Settings of the directory.
#[derive(Debug, Clone)]
pub struct Config {
    /// Accepted bearer tokens.
    pub tokens: Vec<StaticToken>,
    /// Issuers whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// Objects in a page if the request has no `$top`.
    pub page_size: usize,
    /// Maximum length of a request body in bytes, before and after decompression.
    pub body_limit: usize,
    /// Longest time that a request may wait for a change.
    pub max_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            issuers: Vec::new(),
            page_size: 100,
            body_limit: 1024 * 1024,
            // Shorter than `REQUEST_TIMEOUT`.
            max_wait: Duration::from_secs(25),
        }
    }
}

/// Directory on one store.  Clones share the store.
#[derive(Clone)]
pub struct Directory {
    inner: Arc<Inner>,
    metrics: Metrics,
}

struct Inner {
    config: Config,
    authenticator: Authenticator,
    store: Store,
    locks: Arc<ObjectLocks>,
    stop: CancellationToken,
    in_flight: Arc<InFlight>,
    pages: Arc<SharedPages>,
}

/// A processed request.
struct Processed {
    success: Success,
    /// It had a place among the requests that wait.
    may_wait: bool,
    /// Memory for the response.
    reserved: Option<Reserved>,
}

/// Directory as served by one listener.
#[derive(Clone)]
pub struct Served {
    directory: Directory,
    /// Service root for links, without a slash at the end.
    root: Arc<str>,
    /// Places for requests that wait for a change.  A request without a place does not wait.
    waiters: Arc<Semaphore>,
}

impl Directory {
    /// Creates a directory on `store`.
    pub fn new(config: Config, store: Store) -> Self {
        Self::until(config, store, CancellationToken::new())
    }

    /// Like [`Directory::new`].  After `stop` is signalled, no request waits for a change.
    pub fn until(config: Config, store: Store, stop: CancellationToken) -> Self {
        let authenticator = Authenticator::new(config.tokens.clone(), config.issuers.clone());
        let locks = Arc::new(ObjectLocks::new());
        let in_flight = Arc::new(InFlight::new());
        let pages = Arc::default();
        let inner = Inner { config, authenticator, store, locks, stop, in_flight, pages };
        Self { inner: Arc::new(inner), metrics: Metrics::default() }
    }

    /// Counts requests in `metrics`.
    #[must_use]
    pub(crate) fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Returns an error if `database` is not the one that this directory uses.
    ///
    /// # Errors
    /// The text names both.
    pub fn check(&self, database: Option<&Database>) -> Result<(), String> {
        database.map_or(Ok(()), |database| self.inner.store.check(database))
    }

    /// Uses the contents of the files that new settings name: credentials of the database, and
    /// authorities of issuers' key servers.
    pub(crate) fn use_files(&self, config: &Config, database: Option<&Database>) {
        self.inner.authenticator.use_files(&config.issuers);
        if let Some(database) = database {
            self.inner.store.use_credentials(database);
        }
    }

    /// Returns the API for a listener that clients reach at `public_url` (such as
    /// `https://hub.example:8445`).  Links start with this URL and never with the request's host.
    pub fn at(&self, public_url: &str) -> Served {
        let root = format!("{}/beta", public_url.trim_end_matches('/')).into();
        let waiters = Arc::new(Semaphore::new(MAX_CONNECTIONS / 2));
        Served { directory: self.clone(), root, waiters }
    }
}

impl Served {
    /// Sets the number of requests that may wait for a change at a time.  It is less than the number
    /// of connections, so that waiting requests leave room for others.  The default is for a listener
    /// of plain HTTP.
    #[must_use]
    pub fn with_waiters(self, most: usize) -> Self {
        Self { waiters: Arc::new(Semaphore::new(most)), ..self }
    }

    /// Handles one request.
    ///
    /// A token that is bound to a certificate is accepted if the request's extensions have an
    /// `Arc<Peer>` with this certificate.
    pub async fn handle<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
        const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");
        let now = clock::now();
        let request_id = guid();
        let client_request_id = request
            .headers()
            .get(&CLIENT_REQUEST_ID)
            .and_then(|value| value.to_str().ok())
            .filter(|id| is_guid(id))
            .unwrap_or(&request_id)
            .to_owned();
        let gzip = accepts_gzip(request.headers());
        let method = request.method().clone();
        let request = request.map(|body| body.map_err(std::io::Error::other).boxed_unsync());
        let mut response = match self.process_in_time(request, now).await {
            Ok(Processed { success, may_wait, reserved }) => {
                let wait_applied = may_wait && success.supports_wait();
                let mut response = success_response(success, reserved, gzip);
                if wait_applied {
                    insert(&mut response, HeaderName::from_static("preference-applied"), "wait");
                }
                response
            }
            Err(fault) => {
                if let Fault::Unavailable(why) = &fault {
                    warn!(request.id = %request_id, "directory request failed: {why}");
                }
                let json = fault.body(&request_id, &client_request_id, now);
                error_response(&fault, json.to_string())
            }
        };
        self.directory.metrics.count(&method, response.status());
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

    /// Processes a request with a timeout.  A change is completed and audited even if the client
    /// disconnects or the timeout expires.
    async fn process_in_time(
        &self,
        request: Request<RequestBody>,
        now: Timestamp,
    ) -> Result<Processed, Fault> {
        let timed_out =
            |_| Fault::Unavailable(format!("the request took longer than {REQUEST_TIMEOUT:?}"));
        if !is_write(request.method()) {
            let result = timeout(REQUEST_TIMEOUT, self.process(request, now)).await;
            return result.map_err(timed_out)?;
        }
        let this = self.clone();
        let change = tokio::spawn(async move { this.process(request, now).await });
        let result = timeout(REQUEST_TIMEOUT, change).await.map_err(timed_out)?;
        result.map_err(|error| Fault::Unavailable(error.to_string()))?
    }

    async fn process(
        &self,
        request: Request<RequestBody>,
        now: Timestamp,
    ) -> Result<Processed, Fault> {
        let (head, mut body) = request.into_parts();
        let Inner { config, authenticator, store, locks, stop, in_flight, pages } =
            &*self.directory.inner;
        let authorization = head.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let certificate = client_certificate(&head.extensions);
        let caller = authenticator.caller(authorization, certificate.as_ref()).await?;
        let resource = paths::resolve(head.uri.path())?;
        let need = need(&resource, &head.method);
        caller.require(need).inspect_err(|_| {
            let permission = format!("{need:?}");
            let record = Record::new(Event::Directory, Outcome::Refused);
            Record {
                actor: Some(&caller.name),
                actor_issuer: Some(&caller.issuer),
                permission: Some(&permission),
                ..record
            }
            .emit();
        })?;
        // Checked before the operation: a client that does not accept JSON could not read its result.
        if !(resource.is_count() || head.method == Method::DELETE || accepts_json(&head.headers)) {
            return Err(Fault::NotAcceptable);
        }
        // A body is read and decompressed only for callers that may write.
        let body = if is_write(&head.method) {
            read_body(&head.headers, &mut body, config.body_limit).await?
        } else {
            Bytes::new()
        };
        // Taken after the authorization, so that strangers use no place.
        let prefers_wait = preferred_wait(&head.headers, config.max_wait).is_some();
        let place = if prefers_wait { self.waiters.try_acquire().ok() } else { None };
        let _waits = place.is_some().then(|| self.directory.metrics.wait());
        let call = Call {
            store: store.clone(),
            locks: Arc::clone(locks),
            in_flight: Arc::clone(in_flight),
            pages: Arc::clone(pages),
            reserved: Mutex::default(),
            root: Arc::clone(&self.root),
            page_size: config.page_size.clamp(1, odata::MAX_TOP),
            body_limit: config.body_limit,
            max_wait: if place.is_some() { config.max_wait } else { Duration::ZERO },
            stop: stop.clone(),
            caller,
            method: head.method,
            path: head.uri.path().to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            headers: head.headers,
            body,
            now,
        };
        // A list reserves memory after it has waited for a change.
        if is_write(&call.method) || !resource.is_list() {
            call.reserve(OBJECT).await;
        }
        let success = run(&call, resource).await?;
        Ok(Processed { success, may_wait: place.is_some(), reserved: call.release() })
    }
}

/// Runs the operation of a resource.
async fn run(call: &Call, resource: Resource) -> Result<Success, Fault> {
    match resource {
        Resource::Configurations => configuration_routes::collection(call).await,
        Resource::ConfigurationsCount => configuration_routes::count(call).await,
        Resource::Configuration(id) => configuration_routes::item(call, &id).await,
        Resource::Applications => application_routes::collection(call).await,
        Resource::ApplicationsCount => application_routes::count(call).await,
        Resource::Application(id) => application_routes::item(call, &id).await,
        Resource::Authorities(id) => application_routes::authorities(call, &id).await,
        Resource::AuthoritiesCount(id) => application_routes::count_authorities(call, &id).await,
        Resource::Authority(id, authority) => {
            application_routes::authority(call, &id, &authority).await
        }
        Resource::Templates => template_routes::collection(call).await,
        Resource::TemplatesCount => template_routes::count(call).await,
        Resource::Template(id) => template_routes::item(call, &id).await,
        Resource::CreateDevice(id) => template_routes::create_device(call, &id).await,
        Resource::Instances(id) => template_routes::instances(call, &id).await,
        Resource::InstancesCount(id) => template_routes::count_instances(call, &id).await,
        Resource::Instance(id, device) => template_routes::instance(call, &id, &device).await,
        Resource::Owners(id) => template_routes::owners(call, &id).await,
        Resource::Devices => device_routes::collection(call).await,
        Resource::DevicesCount => device_routes::count(call).await,
        Resource::DevicesDelta => delta::delta(call).await,
        Resource::Device(id) => device_routes::item(call, &id).await,
    }
}

/// Returns the client certificate of the connection.  The handshake has proved possession of its key.
fn client_certificate(extensions: &Extensions) -> Option<Fingerprint> {
    extensions.get::<Arc<Peer>>()?.certificate
}

/// Returns the access that a request needs.
fn need(resource: &Resource, method: &Method) -> Need {
    let read_or = |read, write| if is_write(method) { write } else { read };
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
