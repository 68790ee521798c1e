//! The status page: HTML that the gateway renders, without scripts and without external resources.
//!
//! | path | response |
//! |---|---|
//! | `GET /`, `GET /status` | the page |
//! | `GET /status.css` | its style sheet |
//! | `POST /explain` | the page with the decision about a certificate |
//!
//! # Design notes
//! The page changes nothing.  Its form only asks for a decision, costs a bounded amount of computing, and
//! carries a token that only a page of this process contains, so that a page of another origin cannot send
//! it.  Texts of directories, certificates and requests pass through [`html::Html::text`], and the content
//! security policy forbids scripts in case one does not.

mod explain;
mod html;
mod lists;
#[cfg(test)]
mod tests;
mod traffic;
mod trust;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::admin::Admin;
use crate::admin::page::html::{BAD, GOOD, Html, NOTE, Span, WARN, items, text};
use crate::http::reply::{self, Reply};
use crate::runtime::activity::{ACTIVITY, Refused, Traffic};
use crate::x509::time::Timestamp;

/// Path that takes the form.
pub(super) const EXPLAIN: &str = "/explain";

/// Limit in bytes on the form.  The encoding makes a chain of 64 KiB at most five times longer.
pub(super) const MAX_FORM: usize = 512 * 1024;

const STYLE: &str = include_str!("style.css");

/// Headers of every response.  The page is never cached: it shows one moment.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// True for the paths of the page.
pub(super) fn is_page(path: &str) -> bool {
    matches!(path, "/" | "/status" | "/status.css" | EXPLAIN)
}

/// Everything that the page shows.
struct View {
    /// The body of `/status.json`.
    status: Value,
    warnings: BTreeMap<&'static str, String>,
    traffic: Traffic,
    refusals: Vec<Refused>,
    now: Timestamp,
    token: String,
}

/// Response to a form.
enum Explained {
    Rejected(StatusCode, Cow<'static, str>),
    Decided { answer: Value, generation: u64 },
}

impl Admin {
    /// Answers a request for one of the paths of [`is_page`].
    pub(super) fn page(&self, method: &Method, path: &str, body: &[u8]) -> Reply {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match path {
            EXPLAIN if *method == Method::POST => self.explained(body),
            EXPLAIN => reply::method_not_allowed("POST"),
            _ if !is_read => reply::method_not_allowed("GET, HEAD"),
            "/status.css" => {
                with_headers(reply::typed(StatusCode::OK, "text/css; charset=utf-8", STYLE))
            }
            _ => document(StatusCode::OK, overview(&self.view())),
        }
    }

    fn view(&self) -> View {
        let now = SystemTime::now().into();
        View {
            status: self.status(),
            warnings: self.ready.warnings(),
            traffic: ACTIVITY.traffic(now),
            refusals: ACTIVITY.refusals(),
            now,
            token: self.form_token.clone(),
        }
    }

    fn explained(&self, body: &[u8]) -> Reply {
        let explained = self.explain(body);
        let status = match &explained {
            Explained::Rejected(status, _) => *status,
            Explained::Decided { .. } => StatusCode::OK,
        };
        document(status, explanation(&explained, &self.form_token))
    }

    fn explain(&self, body: &[u8]) -> Explained {
        let (mut token, mut chain) = (Cow::default(), Cow::default());
        for (name, value) in url::form_urlencoded::parse(body) {
            match &*name {
                "token" => token = value,
                "chain" => chain = value,
                _ => {}
            }
        }
        if verify_slices_are_equal(token.as_bytes(), self.form_token.as_bytes()).is_err() {
            let why = "The form was not sent by a page of this process, which may have restarted: send it again.";
            return Explained::Rejected(StatusCode::FORBIDDEN, why.into());
        }
        match self.judge(&chain, SystemTime::now().into()) {
            Ok((answer, generation)) => {
                Explained::Decided { answer: answer.to_json(None), generation }
            }
            Err(why) => {
                let why = format!("The text is not a chain of certificates: {why}");
                Explained::Rejected(StatusCode::BAD_REQUEST, why.into())
            }
        }
    }
}

fn document(status: StatusCode, html: Html) -> Reply {
    with_headers(reply::typed(status, "text/html; charset=utf-8", html.into_string()))
}

fn with_headers(mut reply: Reply) -> Reply {
    for (name, value) in HEADERS {
        reply.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    reply
}

/// Starts a document.
fn start(title: &'static str) -> Html {
    let mut html = Html::default();
    html.raw("<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.raw("<meta name=\"color-scheme\" content=\"light dark\"><title>").raw(title);
    html.raw("</title><link rel=\"stylesheet\" href=\"/status.css\"></head><body>");
    html.raw("<a class=\"skip\" href=\"#main\">Skip to the content</a>");
    html
}

/// The page of `/`.
fn overview(view: &View) -> Html {
    let View { status, traffic, refusals, now, .. } = view;
    let mut html = start("anchorgate status");
    html.raw("<header><h1>anchorgate</h1>");
    state(&mut html, view);
    html.raw("</header><nav aria-label=\"Sections\"><ul>");
    for (target, name) in [
        ("<li><a href=\"#traffic\">", "Traffic"),
        ("<li><a href=\"#refusals\">", "Refusals"),
        ("<li><a href=\"#explain\">", "Explain"),
        ("<li><a href=\"#sources\">", "Sources"),
        ("<li><a href=\"#lists\">", "Revocation"),
        ("<li><a href=\"#configurations\">", "Configurations"),
        ("<li><a href=\"#keys\">", "Keys"),
        ("<li><a href=\"/\">", "Reload"),
    ] {
        html.raw(target).raw(name).raw("</a></li>");
    }
    html.raw("</ul></nav><main id=\"main\" tabindex=\"-1\">");
    trust::held_back(&mut html, &status["sources"]);
    traffic::charts(&mut html, traffic);
    traffic::refusals(&mut html, refusals, *now);
    explain::form(&mut html, &view.token);
    trust::sources(&mut html, &status["sources"]);
    lists::lists(&mut html, &status["revocation"], *now);
    trust::configurations(&mut html, &status["trust"], *now);
    trust::keys(&mut html, &status["signingKeys"]);
    html.raw("</main></body></html>");
    html
}

/// Appends readiness, warnings and the version.
fn state(html: &mut Html, view: &View) {
    let View { status, warnings, now, .. } = view;
    html.raw("<p>");
    match items(&status["missing"]) {
        [] => html.element(GOOD, "ready"),
        missing => {
            let missing: Vec<&str> = missing.iter().map(text).collect();
            html.element(BAD, format_args!("not ready: {}", missing.join(", ")))
        }
    };
    html.raw("</p>");
    for (part, warning) in warnings {
        html.raw("<p>").element(WARN, part).raw(" ").text(warning).raw("</p>");
    }
    let configuration = &status["configuration"];
    if let Some(error) = configuration["lastError"].as_str() {
        html.raw("<p>").element(BAD, "configuration not in force").raw(" ").text(error).raw("</p>");
    }
    for key in items(&configuration["restartNeeded"]) {
        html.raw("<p>").element(WARN, "restart needed").raw(" ").text(text(key)).raw("</p>");
    }
    let started = status["started"].as_str().and_then(Timestamp::parse_rfc3339);
    let uptime = started.map_or(0, |started| now.since(started).as_secs());
    html.element(
        NOTE,
        format_args!(
            "Version {}, running for {}, generation {}. As of {now}.",
            text(&status["version"]),
            Span(uptime),
            status["trust"]["generation"]
        ),
    );
}

/// The page of `/explain`.
fn explanation(explained: &Explained, token: &str) -> Html {
    let mut html = start("anchorgate: why is this certificate refused?");
    html.raw("<header><h1>anchorgate</h1></header><nav aria-label=\"Pages\"><ul><li><a href=\"/\">Status</a></li>");
    html.raw("</ul></nav><main id=\"main\" tabindex=\"-1\">");
    match explained {
        Explained::Rejected(_, why) => explain::rejected(&mut html, why),
        Explained::Decided { answer, generation } => {
            explain::result(&mut html, answer, *generation);
        }
    }
    explain::form(&mut html, token);
    html.raw("</main></body></html>");
    html
}
