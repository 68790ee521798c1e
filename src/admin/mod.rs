//! The private plane for operators and their tools: on a Unix socket and on loopback, or elsewhere with TLS
//! and tokens.
//!
//! | path | response |
//! |---|---|
//! | `GET /livez` | 200 while the process serves |
//! | `GET /readyz` | 200, or 503 with the parts that are not ready |
//! | `GET /metrics` | metrics in the format that `Accept` prefers: OpenMetrics, or the classic text format |
//! | `GET /status.json` | the trust in force, its sources and its revocation lists |
//! | `GET /` | the same as a page for people; see `page` |
//! | `POST /explain` | the form of that page |
//! | `POST …` | an action, such as `/trust/sync` |
//!
//! The first two need no token, because probes have none.  Actions need one on every listener.  On the Unix
//! socket, the permissions of its file replace the token.
//!
//! # Design notes
//! A web page that an operator visits can send requests to loopback.  Such a request contains the
//! page's host or origin, so both are checked.  Only the form of the status page may have an origin, which
//! must be that of the request.  With a token, or if the listener is not on loopback, the
//! host is not checked.

pub mod access;
mod actions;
pub mod answer;
mod copies;
mod expiry;
mod health;
mod page;
mod scrape;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use hyper::body::Bytes;
use hyper::http::request::Parts as Head;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admin::access::{Access, Caller, Denied, Permission, Token};
use crate::admin::actions::Action;
use crate::admin::copies::Copies;
use crate::admin::expiry::Expiry;
use crate::admin::scrape::Format;
use crate::admin::status::Gauges;
use crate::crl;
use crate::http::body::{self, RequestBodyError};
use crate::http::reply::{self, Reply};
use crate::http::serve::RequestBody;
use crate::keyring;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::health::Ready;
use crate::runtime::hosts::Host;
use crate::runtime::live::Live;
use crate::runtime::metrics;
use crate::runtime::random;
use crate::runtime::reload;
use crate::store::Store;
use crate::sync;
use crate::x509::time::Timestamp;

/// Settings of the admin plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on: any with `tls` and `tokens`, otherwise on loopback.
    pub listen: SocketAddr,
    /// Serve TLS with the server's certificate.
    pub tls: bool,
    /// Unix socket for commands on this machine, which need no token there.
    pub socket: Option<PathBuf>,
    /// Accepted tokens.  If the list is empty, actions are possible on the socket only.
    pub tokens: Vec<Token>,
    /// Return status and metrics without a token.
    pub open_reads: bool,
}

/// The parts of the gateway that operators observe and control.
pub struct Parts {
    /// Readiness.
    pub ready: Ready,
    /// Metrics of all parts.
    pub registry: Registry,
    /// The state in force.
    pub live: Live,
    /// The CRL source.
    pub lists: crl::Handle,
    /// The followed directories.
    pub sources: watch::Receiver<Vec<sync::Handle>>,
    /// The rotation of the signing keys.
    pub keys: keyring::Handle,
    /// The configuration.
    pub configuration: reload::Handle,
    /// The store of the gateway's own directory.
    pub store: Option<Store>,
}

/// The admin plane.
pub(crate) struct Admin {
    gate: RwLock<Arc<Gate>>,
    ready: Ready,
    registry: Registry,
    /// Metrics of the process, whose names have no prefix.
    process: Registry,
    gauges: Gauges,
    live: Live,
    lists: crl::Handle,
    sources: watch::Receiver<Vec<sync::Handle>>,
    keys: keyring::Handle,
    configuration: reload::Handle,
    copies: Copies,
    started: Timestamp,
    /// Proves that a form was rendered by this process.
    form_token: String,
}

impl Admin {
    /// An admin plane over `parts`, for the callers that `config` permits.
    pub fn new(config: &Config, parts: Parts) -> Self {
        let Parts { ready, mut registry, live, lists, sources, keys, configuration, store } = parts;
        let gauges = Gauges::register(&mut registry);
        registry.register_collector(Box::new(Expiry { live: live.clone(), keys: keys.clone() }));
        let mut process = Registry::default();
        metrics::process::register(&mut process);
        let started = SystemTime::now().into();
        let gate = RwLock::new(Arc::new(Gate::new(config)));
        let form_token = random::guid();
        Self {
            gate,
            ready,
            registry,
            process,
            gauges,
            live,
            lists,
            sources,
            keys,
            configuration,
            copies: Copies::new(store),
            started,
            form_token,
        }
    }

    /// Permits the callers of `config` from now on.
    pub fn permit(&self, config: &Config) {
        let gate = Arc::new(Gate::new(config));
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
    }

    /// Answers one request of `caller`.
    pub async fn handle(self: Arc<Self>, caller: Caller, request: Request<RequestBody>) -> Reply {
        let (head, incoming) = request.into_parts();
        let path = head.uri.path();
        let gate = Arc::clone(&self.gate.read().unwrap_or_else(PoisonError::into_inner));
        if let Err(reply) = gate.admit(caller, &head) {
            return *reply;
        }
        let limit = match Action::at(path) {
            Some(action) => action.body_limit(),
            None if path == page::EXPLAIN => page::MAX_FORM,
            None => 0,
        };
        match body::read(incoming, limit).await {
            Ok(body) => self.answer(&head, body).await,
            Err(error @ RequestBodyError::TooLong { .. }) => {
                refused(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string())
            }
            Err(error @ RequestBodyError::Broken(_)) => {
                refused(StatusCode::BAD_REQUEST, &error.to_string())
            }
        }
    }

    async fn answer(&self, head: &Head, body: Bytes) -> Reply {
        let (method, path) = (&head.method, head.uri.path());
        if let Some(action) = Action::at(path) {
            return match *method {
                Method::POST => self.perform(action, &body).await,
                _ => reply::method_not_allowed("POST"),
            };
        }
        if page::is_page(path) {
            return self.page(method, path, &body);
        }
        let is_read = *method == Method::GET || *method == Method::HEAD;
        match path {
            "/livez" | "/readyz" | "/metrics" | "/status.json" if !is_read => {
                reply::method_not_allowed("GET, HEAD")
            }
            "/livez" => reply::typed(StatusCode::OK, "text/plain; charset=utf-8", "live\n"),
            "/readyz" => self.readiness_and_warnings(),
            "/metrics" => self.metrics(&head.headers),
            "/status.json" => reply::json(StatusCode::OK, &self.status()),
            _ => refused(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    /// The status of the response of `/readyz`, and its body.
    fn readiness(&self) -> (StatusCode, Value) {
        let missing = self.ready.missing();
        let status = match missing[..] {
            [] => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, json!({ "ready": missing.is_empty(), "missing": missing }))
    }

    fn readiness_and_warnings(&self) -> Reply {
        let (status, mut body) = self.readiness();
        let warnings = self.ready.warnings();
        if !warnings.is_empty() {
            body["warnings"] = json!(warnings);
        }
        let without_list: Vec<_> = self
            .lists
            .status()
            .into_iter()
            .filter(|status| status.list.is_none())
            .map(|status| json!({ "address": status.address, "authorities": status.authorities }))
            .collect();
        if !without_list.is_empty() {
            body["without_list"] = json!(without_list);
        }
        let degraded = self.degraded();
        if !degraded.is_empty() {
            body["degraded"] = json!(degraded);
        }
        reply::json(status, &body)
    }

    /// Returns the metrics as OpenMetrics text.
    ///
    /// # Errors
    /// A metric cannot be encoded.
    pub(crate) fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        self.gauges.update(&self.live.current().trust);
        let mut out = String::new();
        text::encode_registry(&mut out, &self.process)?;
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }

    fn metrics(&self, headers: &HeaderMap) -> Reply {
        let format = Format::accepted(headers);
        match self.metrics_text() {
            Ok(text) => reply::typed(StatusCode::OK, format.media_type(), format.convert(text)),
            Err(_) => reply::empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

/// A response with an error text.
fn refused(status: StatusCode, why: &str) -> Reply {
    reply::json(status, &json!({ "error": why }))
}

/// Decides on a request from its head, before a byte of the body is read.
struct Gate {
    access: Access,
    on_loopback: bool,
}

impl Gate {
    fn new(config: &Config) -> Self {
        let access = Access { tokens: config.tokens.clone(), open_reads: config.open_reads };
        Self { access, on_loopback: config.listen.ip().is_loopback() }
    }

    /// Returns the response to a request that is not permitted.  Requests for actions are audited.
    fn admit(&self, caller: Caller, head: &Head) -> Result<(), Box<Reply>> {
        let refused = |status, why: &str| Box::new(refused(status, why));
        let (path, headers) = (head.uri.path(), &head.headers);
        let is_page = page::is_page(path);
        if headers.contains_key(header::ORIGIN)
            && !(path == page::EXPLAIN && is_own_origin(headers))
        {
            let why = "requests of web pages are refused (Origin header)";
            return Err(refused(StatusCode::FORBIDDEN, why));
        }
        let action = Action::at(path);
        let is_action = action.is_some();
        if action.is_some_and(Action::needs_socket) && caller == Caller::Network {
            let why =
                "the file is one of the gateway's machine: use the Unix socket (admin.socket)";
            return Err(refused(StatusCode::FORBIDDEN, why));
        }
        let need = if is_action { Permission::Operate } else { Permission::Read };
        let admitted = match (caller, path) {
            (Caller::Socket(_), _) | (_, "/livez" | "/readyz") => Ok(None),
            _ => self.access.admit(headers, need, is_page),
        };
        if is_action && head.method == Method::POST {
            audit(caller, path, &admitted);
        }
        let (status, why, challenge) = match admitted {
            Ok(None) if caller == Caller::Network && self.on_loopback => {
                return check_host(head).map_err(|(status, why)| refused(status, why));
            }
            Ok(_) => return Ok(()),
            Err(Denied::NoToken) if self.access.tokens.is_empty() => (
                StatusCode::UNAUTHORIZED,
                "actions need a bearer token, and none is configured (admin.tokens); commands on this \
                 machine can use the Unix socket (admin.socket)",
                "Bearer",
            ),
            Err(Denied::NoToken | Denied::UnknownToken) if is_page => (
                StatusCode::UNAUTHORIZED,
                "a token is required: send it as the password, with any user name",
                "Basic realm=\"anchorgate\", charset=\"UTF-8\"",
            ),
            Err(Denied::NoToken) => {
                (StatusCode::UNAUTHORIZED, "a bearer token is required", "Bearer")
            }
            Err(Denied::UnknownToken) => (
                StatusCode::UNAUTHORIZED,
                "the token is not known",
                "Bearer error=\"invalid_token\"",
            ),
            Err(Denied::Forbidden) => (
                StatusCode::FORBIDDEN,
                "the token does not have the required permission",
                "Bearer error=\"insufficient_scope\"",
            ),
        };
        let mut reply = refused(status, why);
        reply
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static(challenge));
        Err(reply)
    }
}

fn audit(caller: Caller, path: &str, admitted: &Result<Option<&Token>, Denied>) {
    let user = match caller {
        Caller::Socket(user) => Some(format!("uid {user}")),
        Caller::Network => None,
    };
    let token = admitted.ok().flatten().map(|token| &*token.name);
    let outcome = if admitted.is_ok() { Outcome::Admitted } else { Outcome::Refused };
    let record = Record::new(Event::Admin, outcome);
    Record { action: Some(path), actor: user.as_deref().or(token), ..record }.emit();
}

/// True if the Origin header names the host that the request is for.
fn is_own_origin(headers: &HeaderMap) -> bool {
    let value =
        |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let (Some(origin), Some(host)) = (value(header::ORIGIN), value(header::HOST)) else {
        return false;
    };
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    headers.get_all(header::ORIGIN).iter().count() == 1
        && authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Checks that a request names this machine, in its target and in its Host header.
fn check_host(head: &Head) -> Result<(), (StatusCode, &'static str)> {
    let field = head.headers.get(header::HOST).map(|value| value.to_str().unwrap_or_default());
    let target = head.uri.authority().map(Authority::as_str);
    let hosts: Option<Vec<_>> = field.into_iter().chain(target).map(Host::of_authority).collect();
    let Some(hosts) = hosts else {
        return Err((StatusCode::BAD_REQUEST, "the host of the request is not valid"));
    };
    let is_loopback = |host: &Host<'_>| match host {
        Host::Name(name) => name.eq_ignore_ascii_case("localhost"),
        Host::Address(address) => address.is_loopback(),
    };
    match !hosts.is_empty() && hosts.iter().all(is_loopback) {
        true => Ok(()),
        false => Err((
            StatusCode::FORBIDDEN,
            "the host of the request must be this machine (localhost or a loopback address)",
        )),
    }
}

#[cfg(test)]
mod tests;
