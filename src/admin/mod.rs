//! The private plane for operators and their tools: on loopback, or elsewhere with TLS and tokens.
//!
//! | path | response |
//! |---|---|
//! | `GET /livez` | 200 while the process serves |
//! | `GET /readyz` | 200, or 503 with the parts that are not ready |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /status.json` | the trust in force, its sources and its revocation lists |
//! | `POST …` | an action, such as `/trust/sync` |
//!
//! The first two need no token, because probes have none.
//!
//! # Design notes
//! A web page that an operator visits can send requests to loopback.  Such a request contains the
//! page's host or origin, so both headers are checked.  With a token, or if the listener is not on
//! loopback, the host is not checked.

pub mod access;
mod actions;
pub mod answer;
mod status;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use hyper::body::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::watch;

use crate::admin::access::{Access, Denied, Permission, Token};
use crate::admin::actions::Action;
use crate::admin::status::Gauges;
use crate::crl;
use crate::http::body::{self, BodyError};
use crate::http::reply::{self, Reply};
use crate::http::serve::RequestBody;
use crate::keyring;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::health::Ready;
use crate::runtime::live::Live;
use crate::runtime::reload;
use crate::sync;
use crate::x509::time::Timestamp;

/// Settings of the admin plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on: any with `tls` and `tokens`, otherwise on loopback.
    pub listen: SocketAddr,
    /// Serve TLS with the server's certificate.
    pub tls: bool,
    /// Accepted tokens.  If the list is empty, every client that reaches the listener may act.
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
}

/// The admin plane.
pub struct Admin {
    gate: RwLock<Arc<Gate>>,
    ready: Ready,
    registry: Registry,
    gauges: Gauges,
    live: Live,
    lists: crl::Handle,
    sources: watch::Receiver<Vec<sync::Handle>>,
    keys: keyring::Handle,
    configuration: reload::Handle,
    started: Timestamp,
}

impl Admin {
    /// An admin plane over `parts`, for the callers that `config` permits.
    pub fn new(config: &Config, parts: Parts) -> Self {
        let Parts { ready, mut registry, live, lists, sources, keys, configuration } = parts;
        let gauges = Gauges::register(&mut registry);
        let started = SystemTime::now().into();
        let gate = RwLock::new(Arc::new(Gate::new(config)));
        Self { gate, ready, registry, gauges, live, lists, sources, keys, configuration, started }
    }

    /// Permits the callers of `config` from now on.
    pub fn permit(&self, config: &Config) {
        let gate = Arc::new(Gate::new(config));
        *self.gate.write().unwrap_or_else(PoisonError::into_inner) = gate;
    }

    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<RequestBody>) -> Reply {
        let (head, incoming) = request.into_parts();
        let (method, path) = (&head.method, head.uri.path());
        let gate = Arc::clone(&self.gate.read().unwrap_or_else(PoisonError::into_inner));
        if let Err(reply) = gate.admit(method, path, &head.headers) {
            return *reply;
        }
        let limit = Action::at(path).map_or(0, Action::body_limit);
        match body::read(incoming, limit).await {
            Ok(body) => self.answer(method, path, body).await,
            Err(error @ BodyError::TooLong { .. }) => {
                refused(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string())
            }
            Err(error @ BodyError::Broken(_)) => {
                refused(StatusCode::BAD_REQUEST, &error.to_string())
            }
        }
    }

    async fn answer(&self, method: &Method, path: &str, body: Bytes) -> Reply {
        if let Some(action) = Action::at(path) {
            return match *method {
                Method::POST => self.perform(action, &body).await,
                _ => reply::method_not_allowed("POST"),
            };
        }
        let is_read = *method == Method::GET || *method == Method::HEAD;
        match path {
            "/livez" | "/readyz" | "/metrics" | "/status.json" if !is_read => {
                reply::method_not_allowed("GET, HEAD")
            }
            "/livez" => reply::typed(StatusCode::OK, "text/plain; charset=utf-8", "live\n"),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            "/status.json" => reply::json(StatusCode::OK, &self.status()),
            _ => refused(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    fn readiness(&self) -> Reply {
        let missing = self.ready.missing();
        let status = match missing[..] {
            [] => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut body = json!({ "ready": missing.is_empty(), "missing": missing });
        let warnings = self.ready.warnings();
        if !warnings.is_empty() {
            body["warnings"] = json!(warnings);
        }
        reply::json(status, &body)
    }

    fn metrics(&self) -> Reply {
        self.gauges.update(&self.live.current().trust);
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                reply::typed(StatusCode::OK, kind, out)
            }
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
    fn admit(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Box<Reply>> {
        let refused = |status, why: &str| Box::new(refused(status, why));
        if headers.contains_key(header::ORIGIN) {
            let why = "requests of web pages are refused (Origin header)";
            return Err(refused(StatusCode::FORBIDDEN, why));
        }
        let is_action = Action::at(path).is_some();
        let need = if is_action { Permission::Operate } else { Permission::Read };
        let admitted = match path {
            "/livez" | "/readyz" => Ok(None),
            _ => self.access.admit(headers, need),
        };
        if is_action && *method == Method::POST {
            let caller = admitted.ok().flatten().map(|token| &*token.name);
            let outcome = if admitted.is_ok() { Outcome::Admitted } else { Outcome::Refused };
            let record = Record::new(Event::Admin, outcome);
            Record { action: Some(path), actor: caller, ..record }.emit();
        }
        let (status, why, challenge) = match admitted {
            Ok(None) if self.on_loopback && !names_loopback(headers) => {
                let why =
                    "the Host header must name this machine (localhost or a loopback address)";
                return Err(refused(StatusCode::FORBIDDEN, why));
            }
            Ok(_) => return Ok(()),
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

/// True if the Host header names this machine.
fn names_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
