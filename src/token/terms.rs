//! What a client may have tokens for.

use std::time::Duration;

use crate::token::denied::Denied;
use crate::token::grants::TokenRequest;

/// The longest lifetime of a token.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A protected resource and the scopes that mean something to it (RFC 9068 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `aud` of its tokens, and what `resource` (RFC 8707) asks for.
    pub audience: String,
    /// The scopes that may be had.
    pub scopes: Vec<String>,
    /// What a request without `scope` gets; empty refuses such a request where `scopes` is not.
    pub default_scope: Vec<String>,
}

/// What a client may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The resources; the first is the default.
    pub resources: Vec<Resource>,
    /// How long a token lives, unless the certificate ends earlier.
    pub lifetime: Duration,
}

impl Terms {
    /// The resource that the token is for (RFC 8707 section 2, RFC 9068 section 3): the one asked for,
    /// else the one whose scopes are asked for, else the default.
    pub(super) fn resource(&self, request: &TokenRequest) -> Result<&Resource, Denied> {
        let find = |audience: &str| self.resources.iter().find(|r| r.audience == audience);
        match &request.resources[..] {
            [] => {}
            [asked] => {
                // Audiences that are plain names can be asked for, too; all else has to be a URI.
                return find(asked).ok_or_else(|| {
                    Denied::InvalidTarget(if is_resource(asked) {
                        "the client may not have tokens for this resource".to_owned()
                    } else {
                        "resource is not an absolute URI without fragment".to_owned()
                    })
                });
            }
            // A token for two resources could be replayed by one to the other.
            several => {
                return Err(Denied::InvalidTarget(format!(
                    "{} resources; a token is for 1",
                    several.len()
                )));
            }
        }
        if let [only] = &request.scope[..]
            && let Some(audience) = only.strip_suffix(DEFAULT_SUFFIX)
        {
            let unknown = || Denied::InvalidScope("the client may not have this scope".to_owned());
            return find(audience).ok_or_else(unknown);
        }
        let has_all = |r: &&Resource| request.scope.iter().all(|scope| r.scopes.contains(scope));
        self.resources.iter().find(has_all).ok_or_else(|| {
            Denied::InvalidScope(
                "no one resource has all of these scopes for the client".to_owned(),
            )
        })
    }
}

impl Resource {
    /// The scope tokens that are granted: what is asked for, whole, else the resource's default.
    pub(super) fn scope<'a>(&'a self, asked: &'a [String]) -> Result<&'a [String], Denied> {
        let asks_default = match asked {
            [] => true,
            [only] => only.strip_suffix(DEFAULT_SUFFIX) == Some(&self.audience),
            _ => false,
        };
        if !asks_default {
            return match asked.iter().find(|scope| !self.scopes.contains(scope)) {
                None => Ok(asked),
                Some(_) => Err(Denied::InvalidScope(
                    "a scope means nothing to the resource, or the client may not have it"
                        .to_owned(),
                )),
            };
        }
        if self.default_scope.is_empty() && !self.scopes.is_empty() {
            return Err(Denied::InvalidScope(
                "scope is missing and there is no default".to_owned(),
            ));
        }
        Ok(&self.default_scope)
    }
}

/// What `scope` asks a resource for when it is that resource followed by this: its default scope.
/// It is how clients of Entra ID name the resource.
const DEFAULT_SUFFIX: &str = "/.default";

/// RFC 8707 section 2: an absolute URI without a fragment.
pub fn is_resource(text: &str) -> bool {
    crate::trust::subject::is_uri(text) && !text.contains('#')
}
