//! Parses token requests (RFC 6749 sections 3.2 and 4.4.2).

use std::borrow::Cow;
use std::fmt;

use hyper::header;
use hyper::http::request::Parts;

use crate::oauth::error::{OauthError, invalid};
use crate::oauth::parameters::{Parameters, decode};
use crate::runtime::log::Secret;
use crate::token::assertion::MAX_ASSERTION;
use crate::token::grants::{Grant, TokenRequest, parse_scope};

/// Largest number of tokens in `scope`.
pub(crate) const MAX_SCOPE_TOKENS: usize = 64;
/// Longest `client_id` in bytes: a subject ID of 512 characters of four bytes each.
pub(crate) const MAX_CLIENT_ID: usize = 2048;
/// Longest `grant_type` and `client_assertion_type` in bytes.
const MAX_KEYWORD: usize = 256;

/// A token request whose rest is interpreted only after the client has authenticated.
pub struct TokenForm<'a> {
    grant: Grant,
    client_id: Option<String>,
    assertion: Option<Secret>,
    parameters: Parameters<'a>,
}

/// The part of a token request that does not authenticate the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreted {
    /// Grant, scope and resource.
    pub request: TokenRequest,
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

/// Parses the part of a token request that authenticates the client.
///
/// A stranger can send this, so the values of other parameters are not decoded.
///
/// # Errors
/// `invalid_request` if it is malformed, or `unsupported_grant_type`.
pub fn parse<'a>(parts: &Parts, body: &'a [u8]) -> Result<TokenForm<'a>, OauthError> {
    check_headers(parts)?;
    check_query(parts.uri.query().unwrap_or_default())?;
    let parameters = Parameters::parse(body)?;
    if parameters.contains(CLIENT_SECRET) {
        return invalid("client_secret is not supported as client authentication");
    }
    let assertion = assertion(&parameters)?;
    let grant = match parameters.get("grant_type", MAX_KEYWORD)? {
        None => return invalid("grant_type is missing"),
        Some(name) => Grant::parse(&name).ok_or(OauthError::UnsupportedGrantType)?,
    };
    let client_id = parameters.get("client_id", MAX_CLIENT_ID)?.map(Cow::into_owned);
    Ok(TokenForm { grant, client_id, assertion, parameters })
}

impl TokenForm<'_> {
    /// Returns `client_id`, which is not verified.
    pub fn client_id(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    /// Returns `client_assertion` (RFC 7523 section 2.2), which is not parsed.
    pub fn assertion(&self) -> Option<&Secret> {
        self.assertion.as_ref()
    }

    /// Interprets the rest of the request.  Call it for an authenticated client.
    ///
    /// # Errors
    /// `invalid_request` if a parameter is malformed, or `invalid_scope`.
    pub fn interpret(&self) -> Result<Interpreted, OauthError> {
        let mut scope = Vec::new();
        let mut resources: Vec<String> = Vec::new();
        let mut token_type = TokenType::Bearer;
        for parameter in self.parameters.others(&READ) {
            let (name, value) = parameter?;
            match name {
                "scope" => scope = scope_tokens(&value)?,
                "resource" if !resources.iter().any(|known| *known == value) => {
                    resources.push(value.into_owned());
                }
                "token_type" if value == TokenType::MtlsPop.as_str() => {
                    token_type = TokenType::MtlsPop;
                }
                _ => {}
            }
        }
        let grant = self.grant;
        Ok(Interpreted { request: TokenRequest { grant, scope, resources }, token_type })
    }
}

/// The output contains neither the assertion nor other values that may be secret.
impl fmt::Debug for TokenForm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenForm(..)")
    }
}

fn scope_tokens(scope: &str) -> Result<Vec<String>, OauthError> {
    // Counted before the tokens are compared with each other.
    if scope.split(' ').nth(MAX_SCOPE_TOKENS).is_some() {
        let why = format!("scope has more than {MAX_SCOPE_TOKENS} tokens");
        return Err(OauthError::InvalidScope(why.into()));
    }
    parse_scope(scope).ok_or(OauthError::InvalidScope(
        "scope is not a list of scope tokens separated by single spaces".into(),
    ))
}

/// Returns the `client_assertion`.  Its two parameters must occur together (RFC 7521 section 4.2).
fn assertion(parameters: &Parameters<'_>) -> Result<Option<Secret>, OauthError> {
    let assertion_type = parameters.get(CLIENT_ASSERTION_TYPE, MAX_KEYWORD)?;
    match (parameters.contains(CLIENT_ASSERTION), assertion_type.as_deref()) {
        (false, None) => Ok(None),
        (true, Some(JWT_BEARER)) => {
            let assertion = parameters.get(CLIENT_ASSERTION, MAX_ASSERTION)?;
            Ok(assertion.map(Secret::new))
        }
        (false, Some(JWT_BEARER)) => invalid("client_assertion is missing"),
        (_, Some(_)) => invalid(format!("client_assertion_type is not {JWT_BEARER}")),
        (true, None) => invalid("client_assertion_type is missing"),
    }
}

/// Parameters that [`parse`] reads.
const READ: [&str; 4] = ["grant_type", "client_id", CLIENT_ASSERTION, CLIENT_ASSERTION_TYPE];
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

#[cfg(test)]
mod tests {
    use hyper::Request;
    use proptest::prelude::*;

    use super::*;
    use crate::oauth::parameters::MAX_PARAMETERS;

    const FORM: &str = "application/x-www-form-urlencoded";

    type Parsed = (Option<String>, Interpreted);

    fn with(uri: &str, headers: &[(&str, &str)], body: &str) -> Result<Parsed, OauthError> {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let form = parse(&parts, body.as_bytes())?;
        Ok((form.client_id().map(str::to_owned), form.interpret()?))
    }

    fn form(body: &str) -> Result<Parsed, OauthError> {
        with("/oauth2/token", &[("content-type", FORM)], body)
    }

    fn code<T: fmt::Debug>(result: Result<T, OauthError>) -> &'static str {
        result.map(|form| format!("{form:?}")).expect_err("refused").code()
    }

    #[test]
    fn parses_all_parameters() {
        let (client_id, parsed) = form(
            "grant_type=client_credentials&client_id=CN%3Ddev+1&scope=a+b&resource=urn:a&resource=urn:b\
             &resource=urn:a&token_type=mtls_pop&claims=%7B%7D",
        )
        .expect("a request");
        assert_eq!(parsed.request.grant, Grant::ClientCredentials);
        assert_eq!(client_id.as_deref(), Some("CN=dev 1"));
        assert_eq!(parsed.request.scope, ["a", "b"]);
        assert_eq!(parsed.request.resources, ["urn:a", "urn:b"]);
        assert_eq!(parsed.token_type, TokenType::MtlsPop);
    }

    /// 6749-3: a parameter without a value is omitted.
    #[test]
    fn an_empty_parameter_is_omitted() {
        let parsed =
            form("grant_type=client_credentials&client_id=&scope=&resource=&client_secret=&&scope");
        let (client_id, Interpreted { request, .. }) = parsed.expect("a request");
        assert_eq!(client_id, None);
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
        assert_eq!(scope(MAX_SCOPE_TOKENS).expect("a request").1.request.scope.len(), 64);
        assert_eq!(code(scope(MAX_SCOPE_TOKENS + 1)), "invalid_scope");
    }

    /// RFC 7521 section 4.2: an assertion needs its type.  The debug output does not contain it.
    #[test]
    fn parses_an_assertion_with_its_type() {
        let body = |kind: &str| {
            format!(
                "grant_type=client_credentials&client_assertion=a.b.c&client_assertion_type={kind}"
            )
        };
        let head = Request::post("/oauth2/token").header("content-type", FORM).body(());
        let (head, ()) = head.expect("a request").into_parts();
        let jwt = body(JWT_BEARER);
        let parsed = parse(&head, jwt.as_bytes()).expect("a request");
        assert_eq!(parsed.client_id(), None);
        assert_eq!(parsed.assertion().map(Secret::expose), Some("a.b.c"));
        assert!(!format!("{parsed:?}").contains("a.b.c"));
        let saml = "urn:ietf:params:oauth:client-assertion-type:saml2-bearer";
        assert_eq!(code(form(&body(saml))), "invalid_request");
    }

    /// Values that a stranger makes long are not decoded before the client is authenticated.
    #[test]
    fn the_rest_is_interpreted_apart_from_the_client() {
        let head = Request::post("/oauth2/token").header("content-type", FORM).body(());
        let (head, ()) = head.expect("a request").into_parts();
        for (rest, error) in [
            ("scope=%zz", "invalid_request"),
            ("other=%zz", "invalid_request"),
            ("scope=a++b", "invalid_scope"),
        ] {
            let body = format!("grant_type=client_credentials&client_id=a&{rest}");
            let parsed = parse(&head, body.as_bytes()).expect("the client is named");
            assert_eq!(parsed.client_id(), Some("a"), "{rest}");
            assert_eq!(code(parsed.interpret()), error, "{rest}");
        }
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
        for (id, bytes) in [(long.clone(), "2049"), ("%41".repeat(9_000), "more than 2048")] {
            let refused = form(&format!("grant_type=client_credentials&client_id={id}"));
            let refused = refused.expect_err("refused").to_string();
            assert!(refused.contains(bytes) && refused.contains("2048"), "{refused}");
        }
        let keyword = "k".repeat(MAX_KEYWORD + 1);
        for name in ["grant_type", CLIENT_ASSERTION_TYPE] {
            let refused = form(&format!("{name}={keyword}")).expect_err("refused").to_string();
            assert!(refused.contains("257") && refused.contains("256"), "{refused}");
        }
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
            let _ = parse(&parts, &body).and_then(|form| form.interpret());
        }

        #[test]
        fn decodes_the_encoding_of_another_implementation(client_id in "\\PC{1,40}", resource in "\\PC{1,40}") {
            let body = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "client_credentials")
                .append_pair("client_id", &client_id)
                .append_pair("resource", &resource)
                .finish();
            let (parsed, Interpreted { request, .. }) = form(&body).expect("a request");
            prop_assert_eq!(parsed, Some(client_id));
            prop_assert_eq!(request.resources, [resource]);
        }
    }
}
