//! Single requests and their responses: token, retries, limits.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tracing::{Instrument as _, debug, trace_span};
use url::Url;

use crate::graph::auth::{Token, TokenSource, challenge_claims};
use crate::graph::client::error::FetchError;
use crate::graph::client::metrics::RequestCounters;
use crate::graph::client::settings::{FetchOptions, Limits};
use crate::graph::wire;
use crate::http::outbound::{Network, header_text, read_limited, retry_after};
use crate::runtime::random::{guid, jitter};
use crate::runtime::telemetry::spans;
use crate::x509::time::Timestamp;

/// Details of a Graph error that are reported.
const MAX_DETAILS: usize = 3;
/// Characters of each text of a Graph error that are reported.
const MAX_TEXT: usize = 300;

/// Sends the requests that belong together with one HTTP client, and so over one connection.
pub(super) struct Session<'a> {
    pub(super) http: reqwest::Client,
    pub(super) network: &'a Network,
    pub(super) tokens: &'a TokenSource,
    pub(super) limits: &'a Limits,
    pub(super) requests: &'a RequestCounters,
}

impl Session<'_> {
    /// Performs one operation.  It is repeated only after a 401: a throttled change may have been
    /// applied.
    pub(super) async fn operate(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<Value, FetchError> {
        let mut token = self.tokens.token().await?;
        let mut renewed = false;
        loop {
            let mut request = self.request(method.clone(), url, &token);
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(tag) = if_match {
                request = request.header("if-match", tag);
            }
            let response = self.send(request).await?;
            if response.status == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                token = self.tokens.replace(&token, None).await?;
                continue;
            }
            if !response.status.is_success() {
                return Err(response.into_error(Timestamp::from(SystemTime::now())));
            }
            let body = response.body;
            return if body.is_empty() { Ok(Value::Null) } else { Ok(wire::parse(&body)?) };
        }
    }

    /// Sends a GET.  A throttled request is retried, and a rejected token is renewed once.
    pub(super) async fn get(
        &self,
        url: &Url,
        options: Option<&FetchOptions>,
    ) -> Result<Response, FetchError> {
        let mut token = self.tokens.token().await?;
        let (mut renewed, mut retries) = (false, 0);
        loop {
            let response = self.get_once(url, options, &token).await?;
            match response.status.as_u16() {
                200 | 304 => return Ok(response),
                401 if !renewed => {
                    renewed = true;
                    let challenge = response.header("www-authenticate");
                    let claims = challenge.and_then(|challenge| challenge_claims(&challenge));
                    token = self.tokens.replace(&token, claims.as_deref()).await?;
                }
                429 | 503 | 504 if retries < self.limits.retries => {
                    let now = Timestamp::from(SystemTime::now());
                    let pause = retry_after(&response.headers, now);
                    let pause = pause.unwrap_or_else(|| back_off(retries));
                    if pause > self.limits.longest_pause {
                        return Err(response.into_error(now));
                    }
                    debug!(status = %response.status, ?pause, "request throttled, retry pending");
                    tokio::time::sleep(pause).await;
                    retries += 1;
                }
                _ => return Err(response.into_error(Timestamp::from(SystemTime::now()))),
            }
        }
    }

    async fn get_once(
        &self,
        url: &Url,
        options: Option<&FetchOptions>,
        token: &Token,
    ) -> Result<Response, FetchError> {
        let mut request = self.request(Method::GET, url, token);
        if let Some(FetchOptions { etag, wait }) = options {
            if let Some(etag) = etag {
                request = request.header("if-none-match", etag);
            }
            if let Some(wait) = wait {
                request = request
                    .header("prefer", format!("wait={}", wait.as_secs()))
                    .timeout(self.limits.request + *wait);
            }
        }
        self.send(request).await
    }

    fn request(&self, method: Method, url: &Url, token: &Token) -> RequestBuilder {
        self.http
            .request(method, url.clone())
            .bearer_auth(token.secret.expose())
            .header("accept", "application/json")
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, FetchError> {
        let client_request_id = guid();
        let span = trace_span!(target: spans::TARGET, "directory request", otel.kind = "client");
        let headers = span.in_scope(spans::context_headers);
        let request = request.header("client-request-id", &client_request_id).headers(headers);
        let sent = self.network.send(request).instrument(span).await;
        self.requests.count(sent.as_ref().ok().map(reqwest::Response::status));
        let response = sent.map_err(FetchError::Transport)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut received = Response { status, headers, body: Vec::new() };
        debug!(
            %status,
            %client_request_id,
            request_id = received.header("request-id").unwrap_or_default(),
            diagnostic = received.header("x-ms-ags-diagnostic").unwrap_or_default(),
            "response received"
        );
        received.body = read_limited(response, self.limits.page_bytes).await?;
        Ok(received)
    }
}

/// A complete response.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Response {
    fn header(&self, name: &'static str) -> Option<String> {
        header_text(&self.headers, &HeaderName::from_static(name))
    }

    /// True if the directory supports long polls (RFC 7240 section 3).
    pub(super) fn supports_wait(&self) -> bool {
        self.header("preference-applied").is_some_and(|applied| applied.contains("wait"))
    }

    fn into_error(self, now: Timestamp) -> FetchError {
        // A body that is not JSON, such as a proxy's HTML page, leaves the texts empty.
        let json: Value = wire::parse(&self.body).unwrap_or_default();
        let error = &json["error"];
        let mut message = bounded(&error["message"]);
        // The message is generic; the details name the element of a list and the reason.
        let details = error["details"].as_array().into_iter().flatten();
        for detail in details.take(MAX_DETAILS) {
            let (target, why) = (bounded(&detail["target"]), bounded(&detail["message"]));
            if !why.is_empty() && why != message {
                let at = if target.is_empty() { String::new() } else { format!("{target}: ") };
                message.push_str(&format!(" [{at}{why}]"));
            }
        }
        FetchError::Status {
            status: self.status.as_u16(),
            code: bounded(&error["code"]),
            message,
            request_id: self.header("request-id").unwrap_or_default(),
            retry_after: retry_after(&self.headers, now),
        }
    }
}

/// The beginning of a text, without control characters.
fn bounded(text: &Value) -> String {
    let text = text.as_str().unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// Returns a pause with full jitter; its bound doubles: 1 s, 2 s, 4 s …
fn back_off(retries: u32) -> Duration {
    jitter(Duration::from_secs(1 << retries.min(6)))
}
