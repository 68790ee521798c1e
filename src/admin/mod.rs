//! Rank 4: the private plane, for operators and their tools, on loopback.
//!
//! | path | what |
//! |---|---|
//! | `GET /livez` | 200 while the process serves |
//! | `GET /readyz` | 200, or 503 with what is missing |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /status.json` | what is in force, from where, since when |
//! | `POST …` | the actions that the composition root adds, such as `/trust/sync` |
//!
//! # Why the Host and Origin checks
//! A web page that an operator visits can send requests to loopback.  Such a request names the page's
//! host or carries its origin; neither is ours.

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

use crate::http::body;
use crate::http::reply::{self, Reply};
use crate::runtime::health::Ready;

/// Bytes of an action's body: a directory's answer and a chain fit.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Where the admin plane listens.
#[derive(Debug, Clone)]
pub struct Config {
    /// A loopback address: the plane has neither TLS nor authentication of its own.
    pub listen: SocketAddr,
}

/// Tells one part's status, as a JSON value.
pub type StatusOf = Box<dyn Fn() -> Value + Send + Sync>;

/// Does something that an operator asked for; the body is the request's.
pub type Action = Box<dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// The admin plane.
pub struct Admin {
    ready: Ready,
    registry: Registry,
    parts: Vec<(&'static str, StatusOf)>,
    actions: Vec<(&'static str, Action)>,
    before_metrics: Vec<Box<dyn Fn() + Send + Sync>>,
}

impl Admin {
    /// A plane that tells readiness and metrics.
    pub fn new(ready: Ready, registry: Registry) -> Self {
        Self { ready, registry, parts: vec![], actions: vec![], before_metrics: vec![] }
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
        mut self,
        path: &'static str,
        action: impl Fn(Bytes) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        self.actions.push((path, Box::new(move |body| Box::pin(action(body)))));
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
        if !is_local(&head.headers) {
            let why = "only clients on this machine, not web pages, may ask";
            return reply::json(StatusCode::FORBIDDEN, &json!({ "error": why }));
        }
        match body::read(incoming, MAX_BODY).await {
            Ok(body) => self.answer(&head.method, head.uri.path(), body).await,
            Err(error) => {
                let error = json!({ "error": error.to_string() });
                reply::json(StatusCode::PAYLOAD_TOO_LARGE, &error)
            }
        }
    }

    async fn answer(&self, method: &Method, path: &str, body: Bytes) -> Reply {
        if let Some((_, action)) = self.actions.iter().find(|(at, _)| *at == path) {
            return match *method {
                Method::POST => action(body).await,
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

/// True for a request that names this machine and comes from no web page.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    let is_loopback = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_loopback && !headers.contains_key(header::ORIGIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn admin(ready: &Ready) -> Arc<Admin> {
        let admin = Admin::new(ready.clone(), Registry::default())
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

    #[test]
    fn a_web_page_is_not_local() {
        let headers = |pairs: &[(header::HeaderName, &'static str)]| {
            pairs
                .iter()
                .map(|(n, v)| (n.clone(), header::HeaderValue::from_static(v)))
                .collect::<HeaderMap>()
        };
        assert!(is_local(&headers(&[(header::HOST, "127.0.0.1:9090")])));
        assert!(is_local(&headers(&[(header::HOST, "localhost")])));
        assert!(is_local(&headers(&[(header::HOST, "[::1]:9090")])));
        assert!(!is_local(&headers(&[])));
        assert!(!is_local(&headers(&[(header::HOST, "evil.example:9090")])));
        let page = [(header::HOST, "localhost"), (header::ORIGIN, "https://evil.example")];
        assert!(!is_local(&headers(&page)));
    }
}
