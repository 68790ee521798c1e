//! Access tokens of trusted issuers: JWTs (RFC 7519), verified with the issuer's published keys.
//!
//! Application permissions come from one claim, which the issuer's configuration names: `roles` (Entra),
//! or `scope` of RFC 9068, which anchorgate's token endpoint uses.  An ordinary OpenID provider puts what
//! a *person* consented to into `scope`, so that claim counts only if it is configured and nothing in
//! the token speaks of a person.  Delegated permissions come from `scp`; they also require a role in
//! `wids` that the Graph documentation names for the operation.
//!
//! Only access tokens are accepted: a token with another `typ`, or with a claim of an ID token, a logout
//! token or a security event, is not one.  A caller is identified by issuer and subject, never by its
//! client ID, which devices of two trust domains can share.  A token that is bound to a certificate (`cnf`,
//! RFC 8705) is accepted only on a connection with this certificate.

mod keys;

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use crate::directory::errors::Fault;
use crate::directory::issuers::keys::{IssuerKeys, RefreshPolicy};
use crate::directory::permissions::{Caller, Grant, Permission, Role};
use crate::graph::wire;
use crate::x509::certificate::Fingerprint;

pub use keys::KeySource;

/// Maximum length of a token in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// Allowed clock difference in seconds.
const LEEWAY: u64 = 30;

/// Issuer whose tokens are accepted.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// Exact value of `iss`.
    pub issuer: String,
    /// Accepted values of `aud`.
    pub audiences: Vec<String>,
    /// Location of the signing keys.
    pub keys: KeySource,
    /// Claim with application permissions.
    pub permissions_claim: PermissionsClaim,
    /// Certificates of the only authorities that are accepted for the key server.
    pub ca_bundle: Option<Vec<u8>>,
}

/// Claim from which application permissions are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PermissionsClaim {
    /// `roles`, as Entra issues it.
    #[default]
    Roles,
    /// `scope` (RFC 9068 section 2.2.3) of `at+jwt` tokens without a person, as anchorgate issues them.
    Scope,
}

/// Issuer with its cached keys.
pub(super) struct TrustedIssuer {
    issuer: Issuer,
    keys: Arc<IssuerKeys>,
}

/// Claims that the directory uses.
#[derive(Debug, Deserialize)]
struct Claims {
    sub: Option<String>,
    oid: Option<String>,
    appid: Option<String>,
    azp: Option<String>,
    client_id: Option<String>,
    roles: Option<Vec<String>>,
    scope: Option<String>,
    scp: Option<String>,
    wids: Option<Vec<String>>,
    cnf: Option<Value>,
    /// Every other claim.
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

/// Claims of ID tokens (OpenID Connect Core section 2), logout tokens and security events (RFC 8417).
const NOT_OF_ACCESS_TOKENS: &[&str] = &["nonce", "at_hash", "c_hash", "s_hash", "events"];
/// Claims about the authentication of a person (RFC 9068 section 2.2.1, OpenID Connect).
const OF_PERSONS: &[&str] = &["auth_time", "acr", "amr", "sid"];

const REFUSED: Fault = Fault::Token("Access token is not accepted.");
const EXPIRED: Fault = Fault::Token("Access token has expired or is not yet valid.");

/// Returns the unverified `iss` of a text that has the form of a JWT.
pub(super) fn claimed_issuer(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || token.len() > MAX_TOKEN {
        return None;
    }
    let payload = wire::parse(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    payload["iss"].as_str().map(str::to_owned)
}

impl TrustedIssuer {
    pub(super) fn new(issuer: Issuer) -> Self {
        let Issuer { issuer: name, keys: source, ca_bundle, .. } = issuer.clone();
        let policy = RefreshPolicy::of(&source);
        Self { issuer, keys: IssuerKeys::new(name, source, ca_bundle, policy) }
    }

    /// Uses the authorities that `issuer`, the same issuer, names now.
    pub(super) fn use_ca_bundle(&self, issuer: &Issuer) {
        self.keys.use_ca_bundle(issuer.ca_bundle.clone());
    }

    pub(super) fn name(&self) -> &str {
        &self.issuer.issuer
    }

    /// Verifies a token on a connection with this certificate, and returns the caller.
    pub(super) async fn caller(
        &self,
        token: &str,
        certificate: Option<&Fingerprint>,
    ) -> Result<Caller, Fault> {
        let header = decode_header(token).map_err(|_| REFUSED)?;
        // Symmetric algorithms are rejected: a public key must not be used as a secret.
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let known = [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA];
        // No critical extension is supported (RFC 7515 section 4.1.11).
        if !known.contains(&header.alg) || header.crit.is_some() {
            return Err(REFUSED);
        }
        let kind = header.typ.as_deref().map(str::to_ascii_lowercase);
        let is_rfc9068 = matches!(kind.as_deref(), Some("at+jwt" | "application/at+jwt"));
        if !is_rfc9068 && !matches!(kind.as_deref(), None | Some("jwt")) {
            return Err(REFUSED);
        }
        let key = self.keys.find(header.kid.as_deref()).await?.ok_or(REFUSED)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer.issuer]);
        validation.set_audience(&self.issuer.audiences);
        let key = DecodingKey::from_jwk(&key).map_err(|_| REFUSED)?;
        let claims = match decode::<Claims>(token, &key, &validation) {
            Ok(token) => token.claims,
            Err(error) => {
                use jsonwebtoken::errors::ErrorKind::{ExpiredSignature, ImmatureSignature};
                return Err(match error.kind() {
                    ExpiredSignature | ImmatureSignature => EXPIRED,
                    _ => REFUSED,
                });
            }
        };
        if claims.cnf.as_ref().is_some_and(|cnf| !is_bound_to(cnf, certificate)) {
            return Err(Fault::Token("Access token is bound to another certificate."));
        }
        if claims.has_any(NOT_OF_ACCESS_TOKENS) {
            return Err(REFUSED);
        }
        Ok(claims.caller(&self.issuer, is_rfc9068))
    }
}

/// Returns true if `cnf` names this certificate.  Only the member `x5t#S256` is supported.
fn is_bound_to(cnf: &Value, certificate: Option<&Fingerprint>) -> bool {
    let wanted = cnf["x5t#S256"].as_str();
    wanted.is_some() && wanted == certificate.map(|c| URL_SAFE_NO_PAD.encode(c.0)).as_deref()
}

impl Claims {
    fn has_any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.others.get(*name).is_some_and(|value| !value.is_null()))
    }

    /// Permissions of the application itself.
    fn application_permissions(&self, from: PermissionsClaim, is_rfc9068: bool) -> Vec<Permission> {
        // A token with `scp` is of a person, and its `roles` are that person's.
        if self.scp.is_some() {
            return Vec::new();
        }
        match from {
            PermissionsClaim::Roles => {
                self.roles.iter().flatten().filter_map(|role| Permission::parse(role)).collect()
            }
            PermissionsClaim::Scope if is_rfc9068 && !self.has_any(OF_PERSONS) => {
                permissions(self.scope.as_deref())
            }
            PermissionsClaim::Scope => Vec::new(),
        }
    }

    fn caller(self, issuer: &Issuer, is_rfc9068: bool) -> Caller {
        let grant = Grant {
            application: self.application_permissions(issuer.permissions_claim, is_rfc9068),
            delegated: permissions(self.scp.as_deref()),
            roles: self.wids.iter().flatten().filter_map(|id| Role::parse(id)).collect(),
        };
        let issuer = &*issuer.issuer;
        // Unique in the issuer: Entra assigns them.
        let assigned = self.appid.or(self.azp);
        let earlier = |subject: Option<&str>| {
            subject.filter(|text| !text.is_empty()).map(|subject| format!("{issuer} {subject}"))
        };
        let (kind, subject, earlier_identity) = match (&self.scp, self.oid) {
            // The identity is the user without the application, because many users share an
            // application.  Entra's `sub` of a user differs between applications; `oid` does not.
            (Some(_), Some(oid)) => {
                let earlier = earlier(Some(&oid));
                ("oid", Some(oid), earlier)
            }
            (Some(_), None) => ("sub", self.sub, None),
            // A client ID is not an identity.  Earlier versions stored it, and it is still read where
            // the issuer assigns it.
            (None, _) => ("sub", self.sub, earlier(assigned.as_deref())),
        };
        let application = assigned.or(self.client_id);
        let subject = subject.filter(|subject| !subject.is_empty());
        let name = match (subject.as_deref(), application.as_deref()) {
            (Some(subject), Some(application)) if subject != application => {
                format!("{subject} through {application}")
            }
            (Some(subject), _) => subject.to_owned(),
            (None, application) => format!("? through {}", application.unwrap_or("?")),
        };
        let mut caller = Caller::of(issuer, (kind, subject.as_deref()), &name, grant);
        caller.earlier_identity = earlier_identity;
        caller
    }
}

/// The permissions in a list that is separated by blanks.
fn permissions(list: Option<&str>) -> Vec<Permission> {
    list.into_iter().flat_map(|list| list.split(' ')).filter_map(Permission::parse).collect()
}

#[cfg(test)]
mod tests;
