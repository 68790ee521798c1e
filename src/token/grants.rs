//! What a client asks for at the token endpoint.

/// A grant type of RFC 6749.
///
/// The password grant must not (RFC 9700 section 2.4) and the implicit one should not be offered;
/// the others need a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// The client acts for itself (RFC 6749 section 4.4).
    ClientCredentials,
}

impl Grant {
    /// Every grant that is offered.
    pub const ALL: [Self; 1] = [Self::ClientCredentials];

    /// The value of `grant_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
        }
    }

    /// The grant of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == name)
    }
}

/// A token request, well-formed and not judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// `grant_type`.
    pub grant: Grant,
    /// `client_id` (RFC 8705 section 2 wants it; the policy says whether it may be left out).
    pub client_id: Option<String>,
    /// `scope`, its tokens in the order given, each once; empty when it was left out.
    pub scope: Vec<String>,
    /// `resource` (RFC 8707), each value once.
    pub resources: Vec<String>,
}

/// True for an RFC 6749 section 3.3 scope-token: printable ASCII without space, `"` and `\`.
pub fn is_scope_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// The tokens of a `scope` value, each once, in order; `None` where one is malformed.
pub fn parse_scope(scope: &str) -> Option<Vec<String>> {
    let mut tokens: Vec<String> = Vec::new();
    for token in scope.split(' ') {
        if !is_scope_token(token) {
            return None;
        }
        if !tokens.iter().any(|t| t == token) {
            tokens.push(token.to_owned());
        }
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_offered_grants_parse() {
        assert_eq!(Grant::parse("client_credentials"), Some(Grant::ClientCredentials));
        for name in ["", "password", "Client_Credentials", "refresh_token", "implicit"] {
            assert_eq!(Grant::parse(name), None, "{name}");
        }
    }

    #[test]
    fn scope_is_a_list_of_tokens_with_single_spaces() {
        let list = |tokens: &[&str]| Some(tokens.iter().map(ToString::to_string).collect());
        assert_eq!(parse_scope("a"), list(&["a"]));
        assert_eq!(parse_scope("b a b"), list(&["b", "a"]));
        assert_eq!(parse_scope("api://x/.default"), list(&["api://x/.default"]));
        for bad in ["", " ", "a ", " a", "a  b", "a\"", "a\\b", "a\tb", "é", "a\u{7f}"] {
            assert_eq!(parse_scope(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_scope_reads_back(scope in "\\PC{0,30}") {
            if let Some(tokens) = parse_scope(&scope) {
                prop_assert_eq!(parse_scope(&tokens.join(" ")), Some(tokens));
            }
        }
    }
}
