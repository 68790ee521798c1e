//! Terms of a client: resources, scopes and token lifetime.

use std::time::Duration;

use crate::token::denied::Denied;
use crate::token::grants::TokenRequest;
use crate::token::keys::Algorithm;

/// Longest lifetime of a token.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A protected resource and its scopes (RFC 9068 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// `aud` of its tokens, and the value of `resource` (RFC 8707) in a request.
    pub audience: String,
    /// Scopes that the client may request.
    pub scopes: Vec<String>,
    /// Scopes granted to a request without `scope`.  If it is empty and `scopes` is not, such a
    /// request is refused.
    pub default_scope: Vec<String>,
}

/// Terms of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Resources that the client may use.  The first one is the default.
    pub resources: Vec<Resource>,
    /// Lifetime of a token, unless the certificate expires earlier.
    pub lifetime: Duration,
    /// Algorithm of the key that signs the tokens; `None` for the one of all clients.
    pub signing_algorithm: Option<Algorithm>,
}

impl Terms {
    /// Selects the resource of the token (RFC 8707 section 2, RFC 9068 section 3): the requested
    /// resource, else the first one that has all requested scopes, else the default.
    pub(super) fn resource(&self, request: &TokenRequest) -> Result<&Resource, Denied> {
        let find = |audience: &str| self.resources.iter().find(|r| r.audience == audience);
        match &request.resources[..] {
            [] => {}
            [requested] => {
                // An audience may be a plain name.  Any other value must be a URI.
                return find(requested).ok_or_else(|| {
                    Denied::InvalidTarget(if is_resource(requested) {
                        "the client may not have tokens for this resource".to_owned()
                    } else {
                        "resource is not an absolute URI without fragment".to_owned()
                    })
                });
            }
            // One of two resources could replay a token at the other.
            several => {
                return Err(Denied::InvalidTarget(format!(
                    "resource has {} different values; a token is for one resource",
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
                "the client has no resource that defines all of these scopes".to_owned(),
            )
        })
    }
}

impl Resource {
    /// Returns the granted scope tokens: all of `requested`, or the resource's default if there are
    /// none.
    pub(super) fn scope<'a>(&'a self, requested: &'a [String]) -> Result<&'a [String], Denied> {
        let requests_default = match requested {
            [] => true,
            [only] => only.strip_suffix(DEFAULT_SUFFIX) == Some(&self.audience),
            _ => false,
        };
        if !requests_default {
            return match requested.iter().find(|scope| !self.scopes.contains(scope)) {
                None => Ok(requested),
                Some(_) => Err(Denied::InvalidScope(
                    "the resource does not define one of the scopes, or the client may not have it"
                        .to_owned(),
                )),
            };
        }
        if self.default_scope.is_empty() && !self.scopes.is_empty() {
            return Err(Denied::InvalidScope(
                "scope is missing, and the resource has no default scope".to_owned(),
            ));
        }
        Ok(&self.default_scope)
    }
}

/// Suffix of a `scope` that consists of a resource and requests its default scope, as clients of
/// Entra ID do.
const DEFAULT_SUFFIX: &str = "/.default";

/// Returns true for an absolute URI without a fragment (RFC 8707 section 2).
pub(crate) fn is_resource(text: &str) -> bool {
    crate::trust::subject::is_uri(text) && !text.contains('#')
}
