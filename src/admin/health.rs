//! The health listener: probes and metrics for anyone in the network.  It has no action, and no text of a
//! setting or of a file.
//!
//! | path | response |
//! |---|---|
//! | `GET /livez` | 200 while the process serves |
//! | `GET /startupz` | 503 until trust is in force for the first time, 200 from then on |
//! | `GET /readyz` | 200, or 503 with the parts that are not ready; `degraded` names those that need attention |
//! | `GET /metrics` | metrics, as on the admin plane |

use std::time::SystemTime;

use hyper::{Method, Request, StatusCode};
use serde_json::json;

use crate::admin::{Admin, refused};
use crate::http::reply::{self, Reply};

impl Admin {
    /// Answers one request on the health listener.
    pub fn health<B>(&self, request: &Request<B>) -> Reply {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let text =
            |status, text: &'static str| reply::typed(status, "text/plain; charset=utf-8", text);
        match request.uri().path() {
            "/livez" | "/readyz" | "/startupz" | "/metrics" if !is_read => {
                reply::method_not_allowed("GET, HEAD")
            }
            "/livez" => text(StatusCode::OK, "live\n"),
            "/startupz" if self.ready.is_started() => text(StatusCode::OK, "started\n"),
            "/startupz" => {
                text(StatusCode::SERVICE_UNAVAILABLE, "starting: no trust is in force yet\n")
            }
            "/readyz" => self.ready_or_degraded(),
            "/metrics" => self.metrics(request.headers()),
            _ => refused(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    fn ready_or_degraded(&self) -> Reply {
        let (status, mut body) = self.readiness();
        let degraded = self.degraded();
        if !degraded.is_empty() {
            body["degraded"] = json!(degraded);
        }
        reply::json(status, &body)
    }

    /// The parts that work and need attention.  Their texts are on the admin plane.
    pub(super) fn degraded(&self) -> Vec<String> {
        let warnings = self.ready.warnings();
        let mut degraded: Vec<String> = warnings.into_keys().map(str::to_owned).collect();
        for source in &*self.sources.borrow() {
            for (of, problem) in ["", ", devices"].into_iter().zip(source.problems()) {
                let named = |problem| format!("directory {}{of}: {problem}", source.source());
                degraded.extend(problem.map(named));
            }
        }
        let expired = self.lists.count_expired(SystemTime::now().into());
        if expired > 0 {
            degraded.push(format!("revocation lists: {expired} past nextUpdate"));
        }
        degraded
    }
}
