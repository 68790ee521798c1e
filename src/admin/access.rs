//! Bearer tokens of the admin plane and their permissions.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{HeaderMap, header};
use zeroize::Zeroizing;

use crate::x509::certificate::Fingerprint;

/// Permission of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Read status and metrics.
    Read,
    /// Perform actions.  Includes `Read`.
    Operate,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 2] = [Self::Read, Self::Operate];

    /// Name in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

/// A bearer token, identified by its hash.
#[derive(Clone)]
pub struct Token {
    /// Name of the holder in audit records.
    pub name: String,
    /// SHA-256 of the token.
    pub sha256: [u8; 32],
    /// Permissions.
    pub permissions: Vec<Permission>,
}

/// Omits the hash, because a token with low entropy can be found from it.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("name", &self.name)
            .field("permissions", &self.permissions)
            .finish_non_exhaustive()
    }
}

/// Origin of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The listener.  A token permits actions.
    Network,
    /// The Unix socket, used by this user id.  The permissions of its file permit everything.
    Socket(u32),
}

/// Reasons why a request is not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// A token is required and absent.
    NoToken,
    /// The token is not configured.
    UnknownToken,
    /// The token does not have the required permission.
    Forbidden,
}

/// The configured tokens, and the access without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Access {
    pub(super) tokens: Vec<Token>,
    /// Return status and metrics without a token.
    pub(super) open_reads: bool,
}

impl Access {
    /// Checks that a request with these headers has the permission `need`.  Returns its token, if
    /// any.  With `basic`, the token may be the password of Basic authentication, the only kind that a
    /// browser asks for.
    pub(super) fn admit(
        &self,
        headers: &HeaderMap,
        need: Permission,
        basic: bool,
    ) -> Result<Option<&Token>, Denied> {
        let password = || if basic { password(headers) } else { None };
        let presented = bearer(headers).map(|token| Zeroizing::new(token.to_owned()));
        let token = match presented.or_else(password) {
            Some(presented) => Some(self.known(&presented).ok_or(Denied::UnknownToken)?),
            None => None,
        };
        let needs_token = match need {
            Permission::Read => !self.open_reads,
            // A web page or another user of this machine can also reach a listener on loopback.
            Permission::Operate => true,
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

    /// Compares the hash with that of every token in constant time.
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

/// The password of Basic authentication (RFC 7617 section 2).
fn password(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    let is_basic = scheme.eq_ignore_ascii_case("Basic");
    let decoded = is_basic.then(|| STANDARD.decode(credentials.trim()).ok()).flatten()?;
    let text = Zeroizing::new(String::from_utf8(decoded).ok()?);
    text.split_once(':').map(|(_, password)| Zeroizing::new(password.to_owned()))
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
            token("unused", Permission::Read),
        ];
        Access { tokens, open_reads }
    }

    fn admit(
        access: &Access,
        authorization: Option<&str>,
        need: Permission,
    ) -> Result<String, Denied> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, value.parse().expect("a value"));
        }
        let admitted = access.admit(&headers, need, false)?;
        Ok(admitted.map_or("-", |token| &*token.name).to_owned())
    }

    #[test]
    fn tokens_grant_their_permissions() {
        use Permission::{Operate, Read};
        for open in [false, true] {
            let access = access(open);
            let no_token = if open { Ok("-".to_owned()) } else { Err(Denied::NoToken) };
            assert_eq!(admit(&access, None, Read), no_token);
            assert_eq!(admit(&access, None, Operate), Err(Denied::NoToken));
            assert_eq!(admit(&access, Some("Bearer scraper"), Read), Ok("scraper".into()));
            assert_eq!(admit(&access, Some("Bearer scraper"), Operate), Err(Denied::Forbidden));
            assert_eq!(admit(&access, Some("bearer operator"), Read), Ok("operator".into()));
            assert_eq!(admit(&access, Some("Bearer operator"), Operate), Ok("operator".into()));
            for bad in ["Bearer ", "Bearer Operator", "Bearer operator x"] {
                assert_eq!(admit(&access, Some(bad), Read), Err(Denied::UnknownToken), "{bad}");
            }
            assert_eq!(admit(&access, Some("Basic operator"), Operate), Err(Denied::NoToken));
        }
    }

    #[test]
    fn without_tokens_only_reads_are_admitted() {
        let access = Access { tokens: Vec::new(), open_reads: true };
        assert_eq!(admit(&access, None, Permission::Read), Ok("-".into()));
        assert_eq!(admit(&access, None, Permission::Operate), Err(Denied::NoToken));
        assert_eq!(admit(&access, Some("Bearer x"), Permission::Read), Err(Denied::UnknownToken));
    }

    #[test]
    fn a_browser_sends_the_token_as_a_password() {
        let access = access(false);
        let admit = |credentials: &str, basic| {
            let value = format!("Basic {}", STANDARD.encode(credentials));
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a value"));
            access.admit(&headers, Permission::Read, basic).map(|token| token.map(|t| &*t.name))
        };
        assert_eq!(admit("x:scraper", true), Ok(Some("scraper")));
        assert_eq!(admit(":operator", true), Ok(Some("operator")));
        assert_eq!(admit("scraper:x", true), Err(Denied::UnknownToken));
        assert_eq!(admit("scraper", true), Err(Denied::NoToken));
        assert_eq!(admit("x:scraper", false), Err(Denied::NoToken), "not on this path");
    }

    #[test]
    fn the_debug_form_of_a_token_omits_its_hash() {
        let text = format!("{:?}", access(true).tokens);
        assert!(text.contains("scraper") && !text.contains("sha256"), "{text}");
    }
}
