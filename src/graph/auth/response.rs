//! Responses of token endpoints, and authentication challenges of directories.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use reqwest::RequestBuilder;
use serde_json::Value;

use crate::graph::auth::error::AuthError;
use crate::http::outbound::{explain, read_limited};
use crate::runtime::log::Secret;
use crate::runtime::random::guid;
use crate::x509::time::Timestamp;

/// Lifetime of a token whose response does not state one.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);
/// Longest lifetime.  A longer one could overflow the arithmetic on instants.
const MAX_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Largest token response, in bytes.
const MAX_RESPONSE: usize = 256 * 1024;
/// Characters of an error that are reported.
const MAX_ERROR: usize = 300;

/// An access token as it was issued.
#[derive(Debug)]
pub(super) struct IssuedToken {
    pub(super) secret: Secret,
    pub(super) lifetime: Duration,
}

/// Sends a token request and reads its response.
pub(super) async fn send(request: RequestBuilder) -> Result<IssuedToken, AuthError> {
    let request = request.header("Accept", "application/json").header("client-request-id", guid());
    let (http, request) = request.build_split();
    let request = request
        .map_err(|error| AuthError::Credential(format!("token request: {}", explain(&error))))?;
    let host = request.url().host_str().unwrap_or_default().to_owned();
    let transport = |why: String| AuthError::Transport { host: host.clone(), why };
    let response = http.execute(request).await.map_err(|error| transport(explain(&error)))?;
    let status = response.status().as_u16();
    let body = read_limited(response, MAX_RESPONSE).await.map_err(|e| transport(e.to_string()))?;
    let response: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if status != 200 {
        let text = |name: &str| response[name].as_str().unwrap_or_default();
        let why = format!("{} {}", text("error"), text("error_description"));
        let why = why.trim().chars().filter(|c| !c.is_control()).take(MAX_ERROR).collect();
        return Err(AuthError::Refused { host, status, why });
    }
    read_token(&response, Timestamp::from(SystemTime::now()))
        .ok_or_else(|| transport("the response has no usable access_token".into()))
}

/// Reads the token and its lifetime.  Managed identities send numbers as strings, and some send only
/// the time of expiry.
fn read_token(response: &Value, now: Timestamp) -> Option<IssuedToken> {
    let token = response["access_token"].as_str()?;
    // Only visible ASCII fits into a header, and only bearer tokens are supported.
    let sendable = !token.is_empty() && token.bytes().all(|b| (0x21..0x7f).contains(&b));
    let kind = response["token_type"].as_str().unwrap_or("Bearer");
    if !sendable || !kind.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let number = |name: &str| match &response[name] {
        Value::String(text) => text.trim().parse::<i64>().ok(),
        value => value.as_i64(),
    };
    let lifetime = number("expires_in")
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs)
        .or_else(|| number("expires_on").map(|at| Timestamp(at).since(now)))
        .unwrap_or(DEFAULT_LIFETIME);
    Some(IssuedToken { secret: Secret::new(token), lifetime: lifetime.min(MAX_LIFETIME) })
}

/// Decodes the claims that a directory demands in a 401 (continuous access evaluation).
pub(crate) fn challenge_claims(www_authenticate: &str) -> Option<String> {
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
    fn reads_tokens_in_all_known_formats() {
        let lifetime = |response: Value| {
            read_token(&response, Timestamp(1_000))
                .map(|issued| (issued.secret.expose().to_owned(), issued.lifetime.as_secs()))
        };
        let token = |seconds| Some(("t".to_owned(), seconds));
        assert_eq!(lifetime(json!({"access_token": "t", "expires_in": 3599})), token(3599));
        assert_eq!(lifetime(json!({"access_token": "t", "expires_in": "3599"})), token(3599));
        assert_eq!(lifetime(json!({"access_token": "t", "expires_on": "1060"})), token(60));
        assert_eq!(lifetime(json!({"access_token": "t"})), token(300));
        assert_eq!(lifetime(json!({"access_token": "t", "token_type": "bearer"})), token(300));
        for bad in [
            json!(null),
            json!({}),
            json!({"access_token": ""}),
            json!({"access_token": "a\nb"}),
            json!({"access_token": "t", "token_type": "DPoP"}),
        ] {
            assert_eq!(lifetime(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn bounds_the_lifetime_that_a_server_states() {
        let lifetime = |name: &str, value: Value| {
            let response = json!({"access_token": "t", name: value});
            read_token(&response, Timestamp(1_000)).map(|issued| issued.lifetime)
        };
        for value in [json!(i64::MAX), json!(31_536_001), json!(i64::MAX.to_string())] {
            assert_eq!(lifetime("expires_in", value.clone()), Some(MAX_LIFETIME), "{value}");
        }
        // Values that are not a usable number are ignored.
        let huge = "9".repeat(40);
        for value in
            [json!(-1), json!(i64::MIN), json!(u64::MAX), json!(1e300), json!("soon"), json!(huge)]
        {
            assert_eq!(lifetime("expires_in", value.clone()), Some(DEFAULT_LIFETIME), "{value}");
        }
        assert_eq!(lifetime("expires_on", json!(i64::MAX)), Some(MAX_LIFETIME));
        for past in [json!(999), json!(-1), json!(i64::MIN)] {
            assert_eq!(lifetime("expires_on", past.clone()), Some(Duration::ZERO), "{past}");
        }
    }

    #[test]
    fn decodes_the_claims_of_a_challenge() {
        let header = r#"Bearer realm="", error="insufficient_claims", claims="eyJhIjoxfQ==""#;
        assert_eq!(challenge_claims(header).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(challenge_claims(r#"Bearer claims="eyJhIjoxfQ==""#), None);
    }

    proptest! {
        #[test]
        fn does_not_panic_on_any_challenge(header in "(Bearer |insufficient_claims|claims=\"|[\"a-zA-Z=]){0,12}") {
            let _ = challenge_claims(&header);
        }
    }
}
