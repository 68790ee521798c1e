//! One request and its answer: token, further tries, limits.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tracing::debug;
use url::Url;

use crate::graph::auth::{Token, TokenSource, challenge_claims};
use crate::graph::client::error::FetchError;
use crate::graph::client::settings::Limits;
use crate::graph::wire;
use crate::http::outbound::{explain, header_text, read_limited, retry_after};
use crate::runtime::random::{guid, jitter};
use crate::x509::time::Timestamp;

/// What a fetch may build on.
#[derive(Debug, Clone, Default)]
pub struct Since {
    /// The state that the caller has.
    pub etag: Option<String>,
    /// How long the directory may wait for another one, if it can.
    pub wait: Option<Duration>,
}

/// Requests that belong together go over one client, and so over one connection.
pub(super) struct Conversation<'a> {
    pub http: reqwest::Client,
    pub tokens: &'a TokenSource,
    pub limits: &'a Limits,
}

impl Conversation<'_> {
    /// One operation.  Not tried again but after a 401: a change that was put off may have been made.
    pub async fn operate(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<Value, FetchError> {
        let mut token = self.tokens.token().await?;
        let mut renewed = false;
        loop {
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .bearer_auth(token.secret.expose())
                .header("accept", "application/json")
                .header("client-request-id", guid());
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(tag) = if_match {
                request = request.header("if-match", tag);
            }
            let response = request.send().await.map_err(|e| FetchError::Transport(explain(&e)))?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = read_limited(response, self.limits.page_bytes).await?;
            if status == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                token = self.tokens.other_than(&token, None).await?;
                continue;
            }
            if !status.is_success() {
                let answer = Answer { status, headers, body };
                return Err(answer.into_error(Timestamp::from(SystemTime::now())));
            }
            return if body.is_empty() { Ok(Value::Null) } else { Ok(wire::parse(&body)?) };
        }
    }

    /// One GET, tried again where the directory asks for it.
    pub async fn get(&self, url: &Url, since: Option<&Since>) -> Result<Answer, FetchError> {
        let mut token = self.tokens.token().await?;
        let (mut renewed, mut tries) = (false, 0);
        loop {
            let answer = self.get_once(url, since, &token).await?;
            match answer.status.as_u16() {
                200 | 304 => return Ok(answer),
                401 if !renewed => {
                    renewed = true;
                    let claims =
                        header_text(&answer.headers, &HeaderName::from_static("www-authenticate"))
                            .and_then(|challenge| challenge_claims(&challenge));
                    token = self.tokens.other_than(&token, claims.as_deref()).await?;
                }
                429 | 503 | 504 if tries < self.limits.retries => {
                    let now = Timestamp::from(SystemTime::now());
                    let asked = retry_after(&answer.headers, now);
                    let pause = asked.unwrap_or_else(|| back_off(tries));
                    if pause > self.limits.longest_pause {
                        return Err(answer.into_error(now));
                    }
                    debug!(status = %answer.status, ?pause, "the directory puts the request off");
                    tokio::time::sleep(pause).await;
                    tries += 1;
                }
                _ => return Err(answer.into_error(Timestamp::from(SystemTime::now()))),
            }
        }
    }

    async fn get_once(
        &self,
        url: &Url,
        since: Option<&Since>,
        token: &Token,
    ) -> Result<Answer, FetchError> {
        let request_id = guid();
        let mut request = self
            .http
            .get(url.clone())
            .bearer_auth(token.secret.expose())
            .header("accept", "application/json")
            .header("client-request-id", &request_id);
        if let Some(Since { etag, wait }) = since {
            if let Some(etag) = etag {
                request = request.header("if-none-match", etag);
            }
            if let Some(wait) = wait {
                request = request
                    .header("prefer", format!("wait={}", wait.as_secs()))
                    .timeout(self.limits.request + *wait);
            }
        }
        let response = request.send().await.map_err(|e| FetchError::Transport(explain(&e)))?;
        let (status, headers) = (response.status(), response.headers().clone());
        debug!(
            %status,
            client_request_id = %request_id,
            request_id = header_text(&headers, &HeaderName::from_static("request-id")).unwrap_or_default(),
            diagnostic = header_text(&headers, &HeaderName::from_static("x-ms-ags-diagnostic")).unwrap_or_default(),
            "answered"
        );
        let body = read_limited(response, self.limits.page_bytes).await?;
        Ok(Answer { status, headers, body })
    }
}

/// One answer, whole.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Details of an error that are told.
const DETAILS: usize = 3;

impl Answer {
    fn into_error(self, now: Timestamp) -> FetchError {
        // A body that is HTML, empty or anything else is no error on top of the error.
        let json: Value = wire::parse(&self.body).unwrap_or_default();
        let said = |text: &Value| -> String {
            let text = text.as_str().unwrap_or_default();
            text.chars().filter(|c| !c.is_control()).take(300).collect()
        };
        let error = &json["error"];
        let mut message = said(&error["message"]);
        // What a sentence that is always the same does not say: which element of a list, and why.
        let details = error["details"].as_array().into_iter().flatten();
        for detail in details.take(DETAILS) {
            let (target, why) = (said(&detail["target"]), said(&detail["message"]));
            if !why.is_empty() && why != message {
                let at = if target.is_empty() { String::new() } else { format!("{target}: ") };
                message.push_str(&format!(" [{at}{why}]"));
            }
        }
        FetchError::Status {
            status: self.status.as_u16(),
            code: said(&error["code"]),
            message,
            request_id: header_text(&self.headers, &HeaderName::from_static("request-id"))
                .unwrap_or_default(),
            retry_after: retry_after(&self.headers, now),
        }
    }
}

/// Full jitter on a doubling bound: 1 s, 2 s, 4 s …
fn back_off(tries: u32) -> Duration {
    jitter(Duration::from_secs(1 << tries.min(6)))
}

/// The directory lets a reader wait for a change (RFC 7240 section 3).
pub(super) fn applies_wait(headers: &HeaderMap) -> bool {
    header_text(headers, &HeaderName::from_static("preference-applied"))
        .is_some_and(|applied| applied.contains("wait"))
}
