//! Authentication of callers by bearer token.

use std::collections::HashMap;
use std::sync::Arc;

use crate::directory::errors::Fault;
use crate::directory::issuers::{self, Issuer, TrustedIssuer};
use crate::directory::permissions::{Caller, Grant, Permission};
use crate::x509::certificate::Fingerprint;

/// Bearer token from the configuration, for clients without an issuer.
#[derive(Debug, Clone)]
pub struct StaticToken {
    /// Name of the client in the audit log.
    pub name: String,
    /// SHA-256 of the token.  The configuration does not contain the token itself.
    pub sha256: [u8; 32],
    /// Application permissions of the token.
    pub permissions: Vec<Permission>,
}

/// Authenticates callers by their bearer tokens.
pub(super) struct Authenticator {
    /// Callers by SHA-256 of the token.  The time of a lookup by hash reveals nothing about the token.
    tokens: HashMap<[u8; 32], Arc<Caller>>,
    issuers: Vec<TrustedIssuer>,
}

impl Authenticator {
    pub(super) fn new(tokens: Vec<StaticToken>, issuers: Vec<Issuer>) -> Self {
        let caller = |t: StaticToken| {
            let grant = Grant { application: t.permissions, ..Grant::default() };
            (t.sha256, Arc::new(Caller::new("token", Some(&t.name), &t.name, grant)))
        };
        Self {
            tokens: tokens.into_iter().map(caller).collect(),
            issuers: issuers.into_iter().map(TrustedIssuer::new).collect(),
        }
    }

    /// Uses the contents of the files that `issuers` name.
    pub(super) fn use_files(&self, issuers: &[Issuer]) {
        for issuer in issuers {
            let mut trusted = self.issuers.iter();
            if let Some(trusted) = trusted.find(|trusted| trusted.name() == issuer.issuer) {
                trusted.use_ca_bundle(issuer);
            }
        }
    }

    /// Authenticates the caller by the `Authorization` header and the connection's client certificate.
    pub(super) async fn caller(
        &self,
        authorization: Option<&str>,
        certificate: Option<&Fingerprint>,
    ) -> Result<Arc<Caller>, Fault> {
        let token = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| !token.is_empty())
            .ok_or(Fault::Anonymous)?;
        let hash = Fingerprint::of(token.as_bytes()).0;
        if let Some(caller) = self.tokens.get(&hash) {
            return Ok(Arc::clone(caller));
        }
        let claimed = issuers::claimed_issuer(token);
        match self.issuers.iter().find(|issuer| Some(issuer.name()) == claimed.as_deref()) {
            Some(issuer) => issuer.caller(token, certificate).await.map(Arc::new),
            None => Err(Fault::Token("Access token is not accepted.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::permissions::Need;

    fn authenticator() -> Authenticator {
        let token = StaticToken {
            name: "sync".into(),
            sha256: Fingerprint::of(b"s3cret").0,
            permissions: vec![Permission::MutualTlsRead],
        };
        Authenticator::new(vec![token], vec![])
    }

    #[tokio::test]
    async fn a_known_token_authenticates_its_caller() {
        let caller = authenticator().caller(Some("bearer s3cret"), None).await.expect("a caller");
        assert_eq!(caller.name, "sync");
        assert_eq!(caller.require(Need::ReadMutualTls), Ok(()));
        assert_eq!(caller.require(Need::WriteMutualTls), Err(Fault::Forbidden));
        assert_eq!(caller.require(Need::ReadApplications), Err(Fault::Forbidden));
    }

    #[tokio::test]
    async fn unknown_tokens_and_other_schemes_are_rejected() {
        for header in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic s3cret")] {
            let got = authenticator().caller(header, None).await.err();
            assert_eq!(got, Some(Fault::Anonymous), "{header:?}");
        }
        for header in ["Bearer s3cres", "Bearer s3cret x", "Bearer S3CRET"] {
            let got = authenticator().caller(Some(header), None).await.err();
            assert_eq!(got, Some(Fault::Token("Access token is not accepted.")), "{header}");
        }
    }
}
