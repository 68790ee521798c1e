//! Grant types, scopes and the parsed token request.

/// A grant type of RFC 6749.
///
/// RFC 9700 forbids the password grant (section 2.4) and advises against the implicit grant
/// (section 2.1.2).  The other grants need a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grant {
    /// The client acts on its own behalf (RFC 6749 section 4.4).
    ClientCredentials,
}

impl Grant {
    /// All grants.
    pub const ALL: [Self; 1] = [Self::ClientCredentials];

    /// Returns the value of `grant_type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
        }
    }

    /// Returns the grant with this `grant_type`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|grant| grant.as_str() == name)
    }
}

/// The part of a well-formed token request that says what is requested.  `client_id` is not part of it:
/// [`select`](crate::token::select()) has used it before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// `grant_type`.
    pub grant: Grant,
    /// Tokens of `scope` in their order, each once.  Empty if the parameter is missing.
    pub scope: Vec<String>,
    /// Values of `resource` (RFC 8707), each once.
    pub resources: Vec<String>,
}

/// Returns true for a scope-token (RFC 6749 section 3.3): printable ASCII without space, `"` and
/// `\`.
pub(crate) fn is_scope_token(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// Returns the tokens of a `scope` value in their order, each once, or `None` if one is malformed.
pub(crate) fn parse_scope(scope: &str) -> Option<Vec<String>> {
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
    fn rejects_unsupported_grants() {
        assert_eq!(Grant::parse("client_credentials"), Some(Grant::ClientCredentials));
        for name in ["", "password", "Client_Credentials", "refresh_token", "implicit"] {
            assert_eq!(Grant::parse(name), None, "{name}");
        }
    }

    #[test]
    fn parses_scope_tokens_separated_by_single_spaces() {
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
        fn a_parsed_scope_parses_to_itself(scope in "\\PC{0,30}") {
            if let Some(tokens) = parse_scope(&scope) {
                prop_assert_eq!(parse_scope(&tokens.join(" ")), Some(tokens));
            }
        }
    }
}
