//! Who may ask the admin plane what.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use hyper::{HeaderMap, header};

use crate::x509::certificate::Fingerprint;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Status and metrics.
    Read,
    /// The actions, and what `Read` is for.
    Operate,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 2] = [Self::Read, Self::Operate];

    /// Its name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

/// A bearer token, known by its hash.
#[derive(Clone)]
pub struct Token {
    /// Who it is, in the audit log.
    pub name: String,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// What it is good for.
    pub permissions: Vec<Permission>,
}

/// Prints no hash: a token that somebody chose could be found by it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("permissions", &self.permissions)
            .finish_non_exhaustive()
    }
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// It has no token, and needs one.
    NoToken,
    /// Its token is none of ours.
    UnknownToken,
    /// Its token is not good for this.
    Forbidden,
}

/// The tokens, and what may be had without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    pub(super) tokens: Vec<Token>,
    /// Status and metrics are told without a token.
    pub(super) open_reads: bool,
}

impl Access {
    /// Whether a request with these headers may do what needs `need`; who asks, where a token says it.
    pub(super) fn admit(
        &self,
        headers: &HeaderMap,
        need: Permission,
    ) -> Result<Option<&Token>, Denied> {
        let token = match bearer(headers) {
            Some(presented) => Some(self.known(presented).ok_or(Denied::UnknownToken)?),
            None => None,
        };
        let needs_token = match need {
            Permission::Read => !self.open_reads,
            Permission::Operate => !self.tokens.is_empty(),
        };
        let allows = |token: &Token| {
            token.permissions.contains(&need) || token.permissions.contains(&Permission::Operate)
        };
        match token {
            Some(token) if needs_token && !allows(token) => Err(Denied::Forbidden),
            None if needs_token => Err(Denied::NoToken),
            token => Ok(token),
        }
    }

    /// Compares with every token, and each of them whole, so that the time it takes tells nothing.
    fn known(&self, presented: &str) -> Option<&Token> {
        let hash = Fingerprint::of(presented.as_bytes()).0;
        let same = |token: &&Token| verify_slices_are_equal(&token.sha256, &hash).is_ok();
        self.tokens.iter().fold(None, |found, token| Some(token).filter(same).or(found))
    }
}

/// The bearer token of the Authorization header (RFC 6750 section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(open_reads: bool) -> Access {
        let token = |name: &str, permission| Token {
            name: name.to_owned(),
            sha256: Fingerprint::of(name.as_bytes()).0,
            permissions: vec![permission],
        };
        let tokens = vec![
            token("scraper", Permission::Read),
            token("operator", Permission::Operate),
            token("nobody", Permission::Read),
        ];
        Access { tokens, open_reads }
    }

    fn ask(
        access: &Access,
        authorization: Option<&str>,
        need: Permission,
    ) -> Result<String, Denied> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().expect("a value"));
        }
        let admitted = access.admit(&headers, need)?;
        Ok(admitted.map_or("-", |token| &*token.name).to_owned())
    }

    #[test]
    fn tokens_open_what_they_are_good_for() {
        use Permission::{Operate, Read};
        for open in [false, true] {
            let access = access(open);
            let no_token = if open { Ok("-".to_owned()) } else { Err(Denied::NoToken) };
            assert_eq!(ask(&access, None, Read), no_token);
            assert_eq!(ask(&access, None, Operate), Err(Denied::NoToken));
            assert_eq!(ask(&access, Some("Bearer scraper"), Read), Ok("scraper".into()));
            assert_eq!(ask(&access, Some("Bearer scraper"), Operate), Err(Denied::Forbidden));
            assert_eq!(ask(&access, Some("bearer operator"), Read), Ok("operator".into()));
            assert_eq!(ask(&access, Some("Bearer operator"), Operate), Ok("operator".into()));
            for bad in ["Bearer ", "Bearer Operator", "Bearer operator x"] {
                assert_eq!(ask(&access, Some(bad), Read), Err(Denied::UnknownToken), "{bad}");
            }
            assert_eq!(ask(&access, Some("Basic operator"), Operate), Err(Denied::NoToken));
        }
    }

    #[test]
    fn without_tokens_actions_are_open_and_a_token_is_unknown() {
        let access = Access { tokens: Vec::new(), open_reads: true };
        assert_eq!(ask(&access, None, Permission::Operate), Ok("-".into()));
        assert_eq!(ask(&access, Some("Bearer x"), Permission::Read), Err(Denied::UnknownToken));
    }

    #[test]
    fn a_token_prints_no_hash() {
        let text = format!("{:?}", access(true).tokens);
        assert!(text.contains("scraper") && !text.contains("sha256"), "{text}");
    }
}
