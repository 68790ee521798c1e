//! Parses token requests (RFC 6749 sections 3.2 and 4.4.2).

use hyper::header;
use hyper::http::request::Parts;

use crate::oauth::error::OauthError;
use crate::runtime::log::Secret;
use crate::token::grants::{Grant, TokenRequest, parse_scope};

/// Largest number of parameters in one request.
pub const MAX_PARAMETERS: usize = 64;
/// Largest number of tokens in `scope`.
pub const MAX_SCOPE_TOKENS: usize = 64;
/// Longest `client_id` in bytes: a subject ID of 512 characters of four bytes each.
pub const MAX_CLIENT_ID: usize = 2048;

/// The parsed form of a token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenForm {
    /// Grant, client, scope and resource.
    pub request: TokenRequest,
    /// `client_assertion` (RFC 7523 section 2.2), not parsed.
    pub assertion: Option<Secret>,
    /// The `token_type` of the response.
    pub token_type: TokenType,
}

/// The `token_type` in the response for a token that is bound to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenType {
    /// `Bearer` (RFC 8705 section 3).
    #[default]
    Bearer,
    /// `mtls_pop`, for clients of Entra ID: they send `token_type=mtls_pop` and compare the
    /// response.
    MtlsPop,
}

impl TokenType {
    /// Returns the value of `token_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::MtlsPop => "mtls_pop",
        }
    }
}

/// Parses a token request.
///
/// # Errors
/// `invalid_request` if it is malformed, `unsupported_grant_type`, or `invalid_scope`.
pub fn parse(parts: &Parts, body: &[u8]) -> Result<TokenForm, OauthError> {
    check_headers(parts)?;
    check_query(parts.uri.query().unwrap_or_default())?;
    let parameters = Parameters::parse(body)?;
    if parameters.get(CLIENT_SECRET).is_some() {
        return invalid("client_secret is not supported as client authentication");
    }
    let assertion = assertion(&parameters)?;
    let grant = match parameters.get("grant_type") {
        None => return invalid("grant_type is missing"),
        Some(name) => Grant::parse(name).ok_or(OauthError::UnsupportedGrantType)?,
    };
    let client_id = parameters.get("client_id").map(str::to_owned);
    if let Some(id) = client_id.as_ref().filter(|id| id.len() > MAX_CLIENT_ID) {
        return invalid(format!(
            "client_id has {} bytes; at most {MAX_CLIENT_ID} are allowed",
            id.len()
        ));
    }
    let scope = match parameters.get("scope") {
        None => Vec::new(),
        // Counted before the tokens are compared with each other.
        Some(scope) if scope.split(' ').count() > MAX_SCOPE_TOKENS => {
            let why = format!("scope has more than {MAX_SCOPE_TOKENS} tokens");
            return Err(OauthError::InvalidScope(why.into()));
        }
        Some(scope) => parse_scope(scope).ok_or(OauthError::InvalidScope(
            "scope is not a list of scope tokens separated by single spaces".into(),
        ))?,
    };
    let mut resources: Vec<String> = Vec::new();
    for resource in parameters.all("resource") {
        if !resources.iter().any(|r| r == resource) {
            resources.push(resource.to_owned());
        }
    }
    let token_type = match parameters.get("token_type") {
        Some(name) if name == TokenType::MtlsPop.as_str() => TokenType::MtlsPop,
        _ => TokenType::Bearer,
    };
    let request = TokenRequest { grant, client_id, scope, resources };
    Ok(TokenForm { request, assertion, token_type })
}

/// Returns the `client_assertion`.  Its two parameters must occur together (RFC 7521 section 4.2).
fn assertion(parameters: &Parameters) -> Result<Option<Secret>, OauthError> {
    match (parameters.get(CLIENT_ASSERTION), parameters.get(CLIENT_ASSERTION_TYPE)) {
        (None, None) => Ok(None),
        (Some(assertion), Some(JWT_BEARER)) => Ok(Some(Secret::new(assertion))),
        (_, Some(JWT_BEARER)) => invalid("client_assertion is missing"),
        (_, Some(_)) => invalid(format!("client_assertion_type is not {JWT_BEARER}")),
        (_, None) => invalid("client_assertion_type is missing"),
    }
}

const CLIENT_SECRET: &str = "client_secret";
const CLIENT_ASSERTION: &str = "client_assertion";
const CLIENT_ASSERTION_TYPE: &str = "client_assertion_type";
/// The only supported assertion type (RFC 7523 section 2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Parameters that affect the decision, and so must not be in the URI (RFC 6749 section 2.3.1).
const BODY_ONLY: [&str; 8] = [
    "grant_type",
    "client_id",
    "scope",
    "resource",
    "token_type",
    CLIENT_SECRET,
    CLIENT_ASSERTION,
    CLIENT_ASSERTION_TYPE,
];

fn invalid<T>(why: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, OauthError> {
    Err(OauthError::InvalidRequest(why.into()))
}

fn check_headers(parts: &Parts) -> Result<(), OauthError> {
    let mut types = parts.headers.get_all(header::CONTENT_TYPE).iter();
    let (first, second) = (types.next(), types.next());
    let is_form = first.and_then(|value| value.to_str().ok()).is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    if !is_form || second.is_some() {
        return invalid("the content type must be application/x-www-form-urlencoded");
    }
    if parts.headers.contains_key(header::AUTHORIZATION) {
        return Err(OauthError::AuthorizationHeader);
    }
    Ok(())
}

/// Rejects known parameters in the query.  Others are ignored, because clients add their own.
fn check_query(query: &str) -> Result<(), OauthError> {
    for pair in query.split('&') {
        let name = pair.split('=').next().unwrap_or_default();
        let Some(name) = decode(name) else {
            return invalid("the query is not form-encoded UTF-8");
        };
        if BODY_ONLY.iter().any(|known| *known == name) {
            return invalid(format!("{name} must be in the body, not in the query"));
        }
    }
    Ok(())
}

/// Parameters of an `application/x-www-form-urlencoded` body.
struct Parameters {
    pairs: Vec<(String, String)>,
}

impl Parameters {
    fn parse(body: &[u8]) -> Result<Self, OauthError> {
        let Ok(body) = std::str::from_utf8(body) else {
            return invalid("the body is not form-encoded UTF-8");
        };
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in body.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A parameter without a value counts as omitted (RFC 6749 section 3.2).
            if value.is_empty() {
                continue;
            }
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return invalid("the body is not form-encoded UTF-8");
            };
            // Only `resource` may occur several times (RFC 8707 section 2).
            if name != "resource" && pairs.iter().any(|(earlier, _)| *earlier == name) {
                return invalid("a parameter occurs more than once");
            }
            pairs.push((name, value));
            if pairs.len() > MAX_PARAMETERS {
                return invalid(format!("the body has more than {MAX_PARAMETERS} parameters"));
            }
        }
        Ok(Self { pairs })
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, value)| &value[..])
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }
}

/// Decodes form encoding strictly: `+` is a space, `%` needs two hex digits, and the result must be
/// UTF-8.
fn decode(text: &str) -> Option<String> {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let [high, low, after @ ..] = after else { return None };
                out.push((digit(high)? << 4) | digit(low)?);
                rest = after;
            }
            byte => out.push(*byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;

    const FORM: &str = "application/x-www-form-urlencoded";

    fn with(uri: &str, headers: &[(&str, &str)], body: &str) -> Result<TokenForm, OauthError> {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        parse(&parts, body.as_bytes())
    }

    fn form(body: &str) -> Result<TokenForm, OauthError> {
        with("/oauth2/token", &[("content-type", FORM)], body)
    }

    fn code(result: Result<TokenForm, OauthError>) -> &'static str {
        result.map(|form| format!("{form:?}")).expect_err("refused").code()
    }

    #[test]
    fn parses_all_parameters() {
        let parsed = form(
            "grant_type=client_credentials&client_id=CN%3Ddev+1&scope=a+b&resource=urn:a&resource=urn:b\
             &resource=urn:a&token_type=mtls_pop&claims=%7B%7D",
        )
        .expect("a request");
        assert_eq!(parsed.request.grant, Grant::ClientCredentials);
        assert_eq!(parsed.request.client_id.as_deref(), Some("CN=dev 1"));
        assert_eq!(parsed.request.scope, ["a", "b"]);
        assert_eq!(parsed.request.resources, ["urn:a", "urn:b"]);
        assert_eq!(parsed.token_type, TokenType::MtlsPop);
    }

    /// 6749-3: a parameter without a value is omitted.
    #[test]
    fn an_empty_parameter_is_omitted() {
        let parsed =
            form("grant_type=client_credentials&client_id=&scope=&resource=&client_secret=&&scope");
        let request = parsed.expect("a request").request;
        assert_eq!(request.client_id, None);
        assert!(request.scope.is_empty() && request.resources.is_empty());
        assert_eq!(code(form("grant_type=&client_id=a")), "invalid_request");
    }

    /// 6749-4: unrecognised parameters are ignored, in the query too.
    #[test]
    fn unknown_parameters_are_ignored() {
        let uri = "/t/oauth2/v2.0/token?client-request-id=1&x";
        let body = "grant_type=client_credentials&client_id=a&client_info=1";
        assert!(with(uri, &[("content-type", FORM)], body).is_ok());
    }

    /// 6749-5: no parameter occurs twice, known or not.
    #[test]
    fn rejects_a_repeated_parameter() {
        for body in [
            "grant_type=client_credentials&grant_type=client_credentials",
            "grant_type=client_credentials&client_id=a&client_id=a",
            "grant_type=client_credentials&client_id=a&client%5Fid=b",
            "grant_type=client_credentials&scope=a&scope=b",
            "grant_type=client_credentials&foo=a&foo=b",
        ] {
            assert_eq!(code(form(body)), "invalid_request", "{body}");
        }
        let uri = "/oauth2/token?client_id=a";
        let twice =
            with(uri, &[("content-type", FORM)], "grant_type=client_credentials&client_id=a");
        assert_eq!(code(twice), "invalid_request");
    }

    /// 6749-7: the request is a form in the body, and no known parameter is in the query.
    #[test]
    fn accepts_only_a_form_in_the_body() {
        let body = "grant_type=client_credentials&client_id=a";
        for good in [FORM, "Application/X-WWW-Form-URLEncoded; charset=UTF-8"] {
            assert!(with("/oauth2/token", &[("content-type", good)], body).is_ok());
        }
        for bad in ["application/json", "text/plain", "application/x-www-form-urlencodedx", ""] {
            assert_eq!(
                code(with("/oauth2/token", &[("content-type", bad)], body)),
                "invalid_request"
            );
        }
        assert_eq!(code(with("/oauth2/token", &[], body)), "invalid_request");
        let two = [("content-type", FORM), ("content-type", FORM)];
        assert_eq!(code(with("/oauth2/token", &two, body)), "invalid_request");
        for query in [
            "client_secret=x",
            "client%5Fsecret=x",
            "a&grant_type",
            "client_assertion=x",
            "%ff",
            "%",
        ] {
            let uri = format!("/oauth2/token?{query}");
            assert_eq!(
                code(with(&uri, &[("content-type", FORM)], body)),
                "invalid_request",
                "{query}"
            );
        }
    }

    /// 6749-18: neither a secret nor a part of an assertion is accepted beside the certificate.
    #[test]
    fn rejects_other_authentication_methods() {
        let body = "grant_type=client_credentials&client_id=a";
        let headers = [("content-type", FORM), ("authorization", "Basic YTpi")];
        assert_eq!(code(with("/oauth2/token", &headers, body)), "invalid_client");
        for secret in [CLIENT_SECRET, CLIENT_ASSERTION, CLIENT_ASSERTION_TYPE] {
            assert_eq!(code(form(&format!("{body}&{secret}=x"))), "invalid_request");
        }
    }

    /// A stranger must not make the comparison of scope tokens expensive.
    #[test]
    fn bounds_the_number_of_scope_tokens() {
        let scope = |tokens: usize| {
            let tokens: Vec<String> = (0..tokens).map(|n| format!("s{n}")).collect();
            form(&format!("grant_type=client_credentials&client_id=a&scope={}", tokens.join("+")))
        };
        assert_eq!(scope(MAX_SCOPE_TOKENS).expect("a request").request.scope.len(), 64);
        assert_eq!(code(scope(MAX_SCOPE_TOKENS + 1)), "invalid_scope");
    }

    /// RFC 7521 section 4.2: an assertion needs its type.  The debug output does not contain it.
    #[test]
    fn parses_an_assertion_with_its_type() {
        let with = |kind: &str| {
            form(&format!(
                "grant_type=client_credentials&client_assertion=a.b.c&client_assertion_type={kind}"
            ))
        };
        let parsed = with(JWT_BEARER).expect("a request");
        assert_eq!(parsed.request.client_id, None);
        assert_eq!(parsed.assertion.as_ref().map(Secret::expose), Some("a.b.c"));
        assert!(!format!("{parsed:?}").contains("a.b.c"));
        let saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer";
        assert_eq!(code(with(saml)), "invalid_request");
    }

    /// 9700-3: only the client credentials grant is supported.
    #[test]
    fn rejects_other_grants() {
        for grant in
            ["password", "authorization_code", "refresh_token", "implicit", "CLIENT_CREDENTIALS"]
        {
            let body = format!("grant_type={grant}&client_id=a&username=u&password=p");
            assert_eq!(code(form(&body)), "unsupported_grant_type", "{grant}");
        }
        assert_eq!(code(form("client_id=a")), "invalid_request");
    }

    #[test]
    fn errors_name_the_limits() {
        let many: Vec<String> = (0..=MAX_PARAMETERS).map(|i| format!("p{i}=1")).collect();
        let refused = form(&many.join("&")).expect_err("refused").to_string();
        assert!(refused.contains("64"), "{refused}");
        let long = "a".repeat(MAX_CLIENT_ID + 1);
        let refused =
            form(&format!("grant_type=client_credentials&client_id={long}")).expect_err("refused");
        assert!(refused.to_string().contains("2049") && refused.to_string().contains("2048"));
    }

    #[test]
    fn rejects_malformed_encodings() {
        for body in ["grant_type=%", "grant_type=%2", "grant_type=%zz", "grant_type=%ff", "%c3=a"] {
            assert_eq!(code(form(body)), "invalid_request", "{body}");
        }
        assert_eq!(code(form("grant_type=client_credentials&scope=a++b")), "invalid_scope");
        assert_eq!(code(form("grant_type=client_credentials&scope=%22")), "invalid_scope");
    }

    proptest! {
        #[test]
        fn parsing_any_body_does_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (parts, ()) = Request::post("/oauth2/token")
                .header("content-type", FORM).body(()).expect("a request").into_parts();
            let _ = parse(&parts, &body);
        }

        #[test]
        fn decodes_the_encoding_of_another_implementation(client_id in "\\PC{1,40}", resource in "\\PC{1,40}") {
            let body = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "client_credentials")
                .append_pair("client_id", &client_id)
                .append_pair("resource", &resource)
                .finish();
            let request = form(&body).expect("a request").request;
            prop_assert_eq!(request.client_id, Some(client_id));
            prop_assert_eq!(request.resources, [resource]);
        }
    }
}
