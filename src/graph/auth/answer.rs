//! What token endpoints and directories say about tokens.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use reqwest::RequestBuilder;
use serde_json::Value;
use url::Url;

use crate::graph::auth::AuthError;
use crate::http::outbound::{explain, read_limited};
use crate::runtime::log::Secret;
use crate::runtime::random::guid;
use crate::x509::time::Timestamp;

/// The life of a token whose answer does not say.
pub(super) const UNKNOWN_LIFE: Duration = Duration::from_secs(300);
/// Bytes of a token answer.
const MAX_ANSWER: usize = 256 * 1024;

/// Sends a token request, and reads the token and its life.
pub(super) async fn send(
    url: &Url,
    request: RequestBuilder,
) -> Result<(Secret, Duration), AuthError> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let transport = |why: String| AuthError::Transport { host: host.clone(), why };
    let response = request
        .header("Accept", "application/json")
        .header("client-request-id", guid())
        .send()
        .await
        .map_err(|error| transport(explain(&error)))?;
    let status = response.status().as_u16();
    let body = read_limited(response, MAX_ANSWER).await.map_err(|e| transport(e.to_string()))?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if status != 200 {
        let text = |name: &str| answer[name].as_str().unwrap_or_default();
        let why = format!("{} {}", text("error"), text("error_description"));
        let why = why.trim().chars().filter(|c| !c.is_control()).take(300).collect();
        return Err(AuthError::Refused { host, status, why });
    }
    read_token(&answer, Timestamp::from(SystemTime::now()))
        .ok_or_else(|| transport("its answer has no usable access_token".into()))
}

/// The token of an answer, and how long it lives.  Managed identities write their numbers as strings,
/// and some only say when the token ends.
fn read_token(answer: &Value, now: Timestamp) -> Option<(Secret, Duration)> {
    let token = answer["access_token"].as_str()?;
    // What is no header value cannot be sent; what is not bearer we would send wrongly.
    let sendable = !token.is_empty() && token.bytes().all(|b| (0x21..0x7f).contains(&b));
    let kind = answer["token_type"].as_str().unwrap_or("Bearer");
    if !sendable || !kind.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let number = |name: &str| match &answer[name] {
        Value::String(text) => text.trim().parse::<i64>().ok(),
        value => value.as_i64(),
    };
    let life = number("expires_in")
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .or_else(|| number("expires_on").map(|at| Timestamp(at).since(now)))
        .unwrap_or(UNKNOWN_LIFE);
    // A year is more than any; beyond it arithmetic on instants could overflow.
    Some((Secret::new(token), life.min(Duration::from_secs(365 * 86_400))))
}

/// The claims that a directory asks for in a 401 (continuous access evaluation), decoded.
pub fn challenge_claims(www_authenticate: &str) -> Option<String> {
    if !www_authenticate.contains("insufficient_claims") {
        return None;
    }
    let after = www_authenticate.split("claims=\"").nth(1)?;
    let encoded = after.split('"').next()?.trim_end_matches('=');
    let bytes =
        URL_SAFE_NO_PAD.decode(encoded).or_else(|_| STANDARD_NO_PAD.decode(encoded)).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_of_every_kind_are_read() {
        let life = |answer: Value| {
            read_token(&answer, Timestamp(1_000))
                .map(|(token, life)| (token.expose().to_owned(), life.as_secs()))
        };
        let token = |seconds| Some(("t".to_owned(), seconds));
        assert_eq!(life(json!({"access_token": "t", "expires_in": 3599})), token(3599));
        assert_eq!(life(json!({"access_token": "t", "expires_in": "3599"})), token(3599));
        assert_eq!(life(json!({"access_token": "t", "expires_on": "1060"})), token(60));
        assert_eq!(life(json!({"access_token": "t"})), token(300));
        assert_eq!(life(json!({"access_token": "t", "token_type": "bearer"})), token(300));
        for bad in [
            json!(null),
            json!({}),
            json!({"access_token": ""}),
            json!({"access_token": "a\nb"}),
            json!({"access_token": "t", "token_type": "DPoP"}),
        ] {
            assert_eq!(life(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn a_challenge_gives_its_claims() {
        let header = r#"Bearer realm="", error="insufficient_claims", claims="eyJhIjoxfQ==""#;
        assert_eq!(challenge_claims(header).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(challenge_claims(r#"Bearer claims="eyJhIjoxfQ==""#), None);
    }

    proptest! {
        #[test]
        fn no_challenge_makes_it_panic(header in "(Bearer |insufficient_claims|claims=\"|[\"a-zA-Z=]){0,12}") {
            let _ = challenge_claims(&header);
        }
    }
}
