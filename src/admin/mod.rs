//! Rank 4: the private plane, for operators and their tools: on loopback, or with TLS and tokens
//! anywhere.
//!
//! | path | what |
//! |---|---|
//! | `GET /livez` | 200 while the process serves |
//! | `GET /readyz` | 200, or 503 with what is missing |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /status.json` | what is in force, from where, since when |
//! | `POST …` | the actions that the composition root adds, such as `/trust/sync` |
//!
//! The first two are open to whoever reaches the listener: what probes them has no token.
//!
//! # Why the Host and Origin checks
//! A web page that an operator visits can send requests to loopback.  Such a request names the page's
//! host or carries its origin; neither is ours.  With a token, or where the listener is not on
//! loopback, the host says nothing.

pub mod access;
pub mod answer;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};

use crate::admin::access::{Access, Denied, Permission, Token};
use crate::http::body::{self, BodyError};
use crate::http::reply::{self, Reply};
use crate::runtime::health::Ready;
use crate::runtime::audit::{Event, Outcome, Record};

/// Bytes of an action's body: a chain of 64 KiB as PEM in JSON fits.
const MAX_BODY: usize = 256 * 1024;

/// Bytes of the body of an action on a directory's whole answer.
pub const MAX_LARGE_BODY: usize = 16 * 1024 * 1024;

/// Where the admin plane listens, and to whom.
#[derive(Debug, Clone)]
pub struct Config {
    /// An address: any with `tls` and `tokens`, otherwise on loopback.
    pub listen: SocketAddr,
    /// Serve with the server's certificate.
    pub tls: bool,
    /// Who may act; none: whoever reaches the listener.
    pub tokens: Vec<Token>,
    /// Status and metrics are told without a token.
    pub open_reads: bool,
}

/// Tells one part's status, as a JSON value.
pub type StatusOf = Box<dyn Fn() -> Value + Send + Sync>;

/// Does something that an operator asked for; the body is the request's.
pub type Action = Box<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// An action and where it is asked for.
struct Act {
    path: &'static str,
    /// Bytes of its body.
    limit: usize,
    action: Action,
}

/// The admin plane.
pub struct Admin {
    access: Access,
    on_loopback: bool,
    ready: Ready,
    registry: Registry,
    parts: Vec<(&'static str, StatusOf)>,
    actions: Vec<Act>,
    before_metrics: Vec<Box<dyn Fn() + Send + Sync>>,
}

impl Admin {
    /// A plane that tells readiness and metrics, to those whom `config` lets ask.
    pub fn new(config: &Config, ready: Ready, registry: Registry) -> Self {
        let access = Access { tokens: config.tokens.clone(), open_reads: config.open_reads };
        Self {
            access,
            on_loopback: config.listen.ip().is_loopback(),
            ready,
            registry,
            parts: vec![],
            actions: vec![],
            before_metrics: vec![],
        }
    }

    /// Adds a part to the status.
    #[must_use]
    pub fn with_status(
        mut self,
        name: &'static str,
        status: impl Fn() -> Value + Send + Sync + 'static,
    ) -> Self {
        self.parts.push((name, Box::new(status)));
        self
    }

    /// Adds an action, asked for by `POST path`.
    #[must_use]
    pub fn with_action<F>(
        self,
        path: &'static str,
        action: impl Fn(Bytes) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        self.with_sized_action(path, MAX_BODY, action)
    }

    /// Adds an action with a body of at most `limit` bytes.
    #[must_use]
    pub fn with_sized_action<F>(
        mut self,
        path: &'static str,
        limit: usize,
        action: impl Fn(Bytes) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let action: Action = Box::new(move |body| Box::pin(action(body)));
        self.actions.push(Act { path, limit, action });
        self
    }

    /// Adds what brings gauges up to date before they are read.
    #[must_use]
    pub fn with_gauges(mut self, update: impl Fn() + Send + Sync + 'static) -> Self {
        self.before_metrics.push(Box::new(update));
        self
    }

    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let (head, incoming) = request.into_parts();
        let (method, path) = (&head.method, head.uri.path());
        if let Err(reply) = self.admit(method, path, &head.headers) {
            return *reply;
        }
        let limit = self.act(path).map_or(0, |act| act.limit);
        match body::read(incoming, limit).await {
            Ok(body) => self.answer(method, path, body).await,
            Err(error @ BodyError::TooLong { .. }) => {
                let error = json!({ "error": error.to_string() });
                reply::json(StatusCode::PAYLOAD_TOO_LARGE, &error)
            }
            Err(error @ BodyError::Broken(_)) => {
                reply::json(StatusCode::BAD_REQUEST, &json!({ "error": error.to_string() }))
            }
        }
    }

    /// Refuses who may not ask, before a byte of the body is read.
    fn admit(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Box<Reply>> {
        let refused = |status, why: &str| Box::new(reply::json(status, &json!({ "error": why })));
        if headers.contains_key(header::ORIGIN) {
            return Err(refused(StatusCode::FORBIDDEN, "web pages may not ask"));
        }
        let is_action = self.act(path).is_some();
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
                let why = "only clients on this machine, not web pages, may ask";
                return Err(refused(StatusCode::FORBIDDEN, why));
            }
            Ok(_) => return Ok(()),
            Err(Denied::NoToken) => (StatusCode::UNAUTHORIZED, "a token is needed", "Bearer"),
            Err(Denied::UnknownToken) => (
                StatusCode::UNAUTHORIZED,
                "the token is not known",
                "Bearer error=\"invalid_token\"",
            ),
            Err(Denied::Forbidden) => (
                StatusCode::FORBIDDEN,
                "the token is not good for this",
                "Bearer error=\"insufficient_scope\"",
            ),
        };
        let mut reply = refused(status, why);
        reply
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static(challenge));
        Err(reply)
    }

    fn act(&self, path: &str) -> Option<&Act> {
        self.actions.iter().find(|act| act.path == path)
    }

    async fn answer(&self, method: &Method, path: &str, body: Bytes) -> Reply {
        if let Some(act) = self.act(path) {
            return match *method {
                Method::POST => (act.action)(body).await,
                _ => reply::method_not_allowed("POST"),
            };
        }
        let read = *method == Method::GET || *method == Method::HEAD;
        match path {
            "/livez" | "/readyz" | "/metrics" | "/status.json" if !read => {
                reply::method_not_allowed("GET, HEAD")
            }
            "/livez" => reply::typed(StatusCode::OK, "text/plain; charset=utf-8", "live\n"),
            "/readyz" => self.readiness(),
            "/metrics" => self.metrics(),
            "/status.json" => reply::json(StatusCode::OK, &self.status()),
            _ => reply::json(StatusCode::NOT_FOUND, &json!({ "error": "no such path" })),
        }
    }

    fn readiness(&self) -> Reply {
        let missing = self.ready.missing();
        let status = match missing[..] {
            [] => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        reply::json(status, &json!({ "ready": missing.is_empty(), "missing": missing }))
    }

    fn metrics(&self) -> Reply {
        for update in &self.before_metrics {
            update();
        }
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                reply::typed(StatusCode::OK, kind, out)
            }
            Err(_) => reply::empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn status(&self) -> Value {
        let mut status = Map::new();
        status.insert("version".into(), env!("CARGO_PKG_VERSION").into());
        status.insert("missing".into(), json!(self.ready.missing()));
        for (name, part) in &self.parts {
            status.insert((*name).into(), part());
        }
        Value::Object(status)
    }
}

/// True for a request that names this machine.
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
mod tests {
    use super::*;
    use crate::x509::certificate::Fingerprint;
    use http_body_util::BodyExt;

    fn config(listen: &str, tokens: &[&str]) -> Config {
        let token = |name: &&str| Token {
            name: (*name).to_owned(),
            sha256: Fingerprint::of(name.as_bytes()).0,
            permissions: vec![Permission::Operate],
        };
        let listen: SocketAddr = listen.parse().expect("an address");
        let (tokens, open_reads) = (tokens.iter().map(token).collect(), listen.ip().is_loopback());
        Config { listen, tls: !open_reads, tokens, open_reads }
    }

    fn admin(ready: &Ready) -> Arc<Admin> {
        let admin = Admin::new(&config("127.0.0.1:0", &[]), ready.clone(), Registry::default())
            .with_status("part", || json!({ "x": 1 }))
            .with_action("/do", |body| async move {
                reply::json(StatusCode::OK, &json!({ "got": body.len() }))
            });
        Arc::new(admin)
    }

    async fn ask(admin: &Arc<Admin>, method: Method, path: &str) -> (StatusCode, String) {
        let reply = admin.answer(&method, path, Bytes::from_static(b"abc")).await;
        let status = reply.status();
        let body = reply.into_body().collect().await.expect("whole").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing() {
        let ready = Ready::default();
        let latch = ready.latch("trust");
        let admin = admin(&ready);
        let (status, body) = ask(&admin, Method::GET, "/readyz").await;
        assert_eq!((status.as_u16(), body.contains("trust")), (503, true));
        drop(latch);
        assert_eq!(ask(&admin, Method::GET, "/readyz").await.0, 200);
    }

    #[tokio::test]
    async fn paths_and_methods_are_told_apart() {
        let admin = admin(&Ready::default());
        assert_eq!(ask(&admin, Method::GET, "/livez").await.0, 200);
        assert_eq!(ask(&admin, Method::POST, "/livez").await.0, 405);
        assert_eq!(ask(&admin, Method::GET, "/do").await.0, 405);
        assert_eq!(ask(&admin, Method::POST, "/do").await.1, r#"{"got":3}"#);
        assert_eq!(ask(&admin, Method::GET, "/x").await.0, 404);
        assert!(ask(&admin, Method::GET, "/status.json").await.1.contains(r#""part":{"x":1}"#));
        assert!(ask(&admin, Method::GET, "/metrics").await.1.ends_with("# EOF\n"));
    }

    /// What becomes of a request with these headers, before its body.
    fn admitted(config: &Config, path: &str, pairs: &[(header::HeaderName, &'static str)]) -> u16 {
        let admin = Admin::new(config, Ready::default(), Registry::default())
            .with_action("/do", |_| async { reply::empty(StatusCode::OK) });
        let headers = pairs
            .iter()
            .map(|(n, v)| (n.clone(), header::HeaderValue::from_static(v)))
            .collect::<HeaderMap>();
        match admin.admit(&Method::POST, path, &headers) {
            Ok(()) => 200,
            Err(reply) => reply.status().as_u16(),
        }
    }

    #[test]
    fn a_web_page_may_not_ask() {
        let config = config("127.0.0.1:0", &[]);
        let ask = |pairs: &[_]| admitted(&config, "/do", pairs);
        assert_eq!(ask(&[(header::HOST, "127.0.0.1:9090")]), 200);
        assert_eq!(ask(&[(header::HOST, "localhost")]), 200);
        assert_eq!(ask(&[(header::HOST, "[::1]:9090")]), 200);
        assert_eq!(ask(&[]), 403);
        assert_eq!(ask(&[(header::HOST, "evil.example:9090")]), 403);
        assert_eq!(
            ask(&[(header::HOST, "localhost"), (header::ORIGIN, "https://evil.example")]),
            403
        );
    }

    #[test]
    fn a_token_is_asked_for_what_is_not_a_probe() {
        let host = (header::HOST, "gw.example:9090");
        let with = (header::AUTHORIZATION, "Bearer operator");
        let wide = config("0.0.0.0:9090", &["operator"]);
        let here = config("127.0.0.1:9090", &["operator"]);
        let localhost = (header::HOST, "localhost");
        for (config, path, pairs, status) in [
            (&wide, "/livez", vec![host.clone()], 200),
            (&wide, "/readyz", vec![host.clone()], 200),
            (&wide, "/metrics", vec![host.clone()], 401),
            (&wide, "/status.json", vec![host.clone()], 401),
            (&wide, "/do", vec![host.clone()], 401),
            (&wide, "/nowhere", vec![host.clone()], 401),
            (&wide, "/metrics", vec![host.clone(), with.clone()], 200),
            (&wide, "/do", vec![host.clone(), with.clone()], 200),
            (&wide, "/do", vec![with.clone(), (header::ORIGIN, "https://x.example")], 403),
            (&here, "/metrics", vec![localhost.clone()], 200),
            (&here, "/do", vec![localhost.clone()], 401),
            (&here, "/do", vec![localhost, with.clone()], 200),
            (&here, "/livez", vec![host.clone()], 403),
            (&here, "/do", vec![host, with], 200),
        ] {
            assert_eq!(admitted(config, path, &pairs), status, "{path} {pairs:?}");
        }
    }
}
