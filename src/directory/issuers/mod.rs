//! Access tokens of trusted issuers: JWTs (RFC 7519), verified with the issuer's published keys.
//!
//! Application permissions come from `roles` (Entra) and `scope` (RFC 9068, which anchorgate's token
//! endpoint uses).  Delegated permissions come from `scp`; they also require a role in `wids` that the
//! Graph documentation names for the operation.  A token that is bound to a certificate (`cnf`,
//! RFC 8705) is accepted only on a connection with this certificate.

mod keys;

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
    /// PEM of the only certificate authorities that are accepted for the key server.
    pub ca_bundle: Option<Vec<u8>>,
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
}

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
        Ok(claims.caller(self.name()))
    }
}

/// Returns true if `cnf` names this certificate.  Only the member `x5t#S256` is supported.
fn is_bound_to(cnf: &Value, certificate: Option<&Fingerprint>) -> bool {
    let wanted = cnf["x5t#S256"].as_str();
    wanted.is_some() && wanted == certificate.map(|c| URL_SAFE_NO_PAD.encode(c.0)).as_deref()
}

impl Claims {
    fn caller(self, issuer: &str) -> Caller {
        let permissions = |list: &Option<String>| -> Vec<Permission> {
            list.iter().flat_map(|l| l.split(' ')).filter_map(Permission::parse).collect()
        };
        let roles = self.roles.iter().flatten().filter_map(|role| Permission::parse(role));
        let grant = Grant {
            application: roles.chain(permissions(&self.scope)).collect(),
            delegated: permissions(&self.scp),
            roles: self.wids.iter().flatten().filter_map(|id| Role::parse(id)).collect(),
        };
        let application = self.appid.or(self.azp).or(self.client_id);
        if self.scp.is_none() {
            let subject = application.or(self.sub);
            let name = subject.as_deref().unwrap_or_default();
            return Caller::new(issuer, subject.as_deref(), name, grant);
        }
        // The identity is the user without the application, because many users share an application.
        let user = self.oid.or(self.sub);
        let (user, application) = (user.as_deref(), application.as_deref());
        let name = format!("{} through {}", user.unwrap_or("?"), application.unwrap_or("?"));
        Caller::new(issuer, user, &name, grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::permissions::Need;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use proptest::prelude::*;
    use serde_json::json;
    use std::time::SystemTime;

    struct Fixture {
        key: EcdsaKeyPair,
        issuer: TrustedIssuer,
        _folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
            let point = key.public_key().as_ref();
            let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let set = json!({"keys": [
                {"kty": "unknown", "kid": "t"},
                {"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig",
                    "x": encode(&point[1..33]), "y": encode(&point[33..])},
            ]});
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("keys.json");
            std::fs::write(&file, set.to_string()).expect("written");
            let issuer = TrustedIssuer::new(Issuer {
                issuer: "https://issuer.example".into(),
                audiences: vec!["https://hub.example".into()],
                keys: KeySource::File(file),
                ca_bundle: None,
            });
            Self { key, issuer, _folder: folder }
        }

        fn token(&self, header: &Value, claims: &Value) -> String {
            let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        async fn with(&self, change: impl FnOnce(&mut Value, &mut Value)) -> Result<Caller, Fault> {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            let mut header = json!({"alg": "ES256", "typ": "at+jwt", "kid": "k"});
            let mut claims = json!({
                "iss": "https://issuer.example", "aud": "https://hub.example", "sub": "s",
                "exp": now.as_secs() + 600, "nbf": now.as_secs(),
                "roles": ["MutualTlsOauthConfiguration.ReadWrite.All"],
            });
            change(&mut header, &mut claims);
            self.issuer.caller(&self.token(&header, &claims), None).await
        }
    }

    #[tokio::test]
    async fn a_valid_token_grants_its_permissions() {
        let fixture = Fixture::new();
        let caller = fixture.with(|_, _| {}).await.expect("a caller");
        assert_eq!(caller.name, "s");
        assert_eq!(caller.require(Need::WriteMutualTls), Ok(()));
        assert_eq!(caller.require(Need::ReadApplications), Err(Fault::Forbidden));
        let scope = |_: &mut Value, claims: &mut Value| {
            claims["roles"].take();
            claims["scope"] = "openid MutualTlsOauthConfiguration.Read.All".into();
        };
        let caller = fixture.with(scope).await.expect("a caller");
        assert_eq!(caller.require(Need::ReadMutualTls), Ok(()));
        assert_eq!(caller.require(Need::WriteMutualTls), Err(Fault::Forbidden));
    }

    #[tokio::test]
    async fn delegated_permissions_require_a_role() {
        let fixture = Fixture::new();
        let delegated = |wids: Value| {
            move |_: &mut Value, claims: &mut Value| {
                claims["roles"].take();
                claims["scp"] = "MutualTlsOauthConfiguration.ReadWrite.All".into();
                claims["wids"] = wids;
            }
        };
        let iot = "2ea5ce4c-b2d8-4668-bd81-3680bd2d227a";
        let with = fixture.with(delegated(json!([iot]))).await.expect("a caller");
        assert_eq!(with.require(Need::WriteMutualTls), Ok(()));
        let without = fixture.with(delegated(json!([]))).await.expect("a caller");
        assert_eq!(without.require(Need::WriteMutualTls), Err(Fault::Forbidden));
        assert_eq!(with.require(Need::WriteApplications), Err(Fault::Forbidden));
    }

    /// Only its creator owns a template, so two callers must not have the same identity.
    #[tokio::test]
    async fn callers_have_distinct_identities() {
        let fixture = Fixture::new();
        let named = async |names: Value| {
            let change = |_: &mut Value, claims: &mut Value| {
                claims
                    .as_object_mut()
                    .expect("an object")
                    .extend(names.as_object().cloned().expect("one"));
            };
            fixture.with(change).await.expect("a caller")
        };
        let long = "x".repeat(200);
        let callers = [
            named(json!({"appid": "a"})).await,
            named(json!({"appid": format!("{long}1")})).await,
            named(json!({"appid": format!("{long}2")})).await,
            named(json!({"appid": "a\u{7}"})).await,
            named(json!({"azp": "b"})).await,
            named(json!({"sub": "c"})).await,
            named(json!({"appid": "a", "scp": "x", "oid": "anna"})).await,
            named(json!({"appid": "a", "scp": "x", "oid": "bert"})).await,
        ];
        for (n, one) in callers.iter().enumerate() {
            assert!(one.identity.is_some());
            assert!(callers[..n].iter().all(|other| other.identity != one.identity), "{one:?}");
            assert!(one.name.len() <= 128 && !one.name.contains('\u{7}'), "{one:?}");
        }
        assert_eq!(callers[6].name, "anna through a");
        let another = named(json!({"appid": "d", "scp": "x", "oid": "anna"})).await;
        assert_eq!(another.identity, callers[6].identity, "the application does not matter");
        let anonymous = named(json!({"appid": "a", "scp": "x", "sub": null})).await;
        assert_eq!((anonymous.identity, &*anonymous.name), (None, "? through a"));
        let anonymous = named(json!({"sub": ""})).await;
        assert_eq!(anonymous.identity, None);
    }

    #[tokio::test]
    async fn invalid_tokens_are_rejected() {
        let fixture = Fixture::new();
        let refused = |name: &'static str, value: Value| {
            move |_: &mut Value, claims: &mut Value| claims[name] = value
        };
        for (name, value, fault) in [
            ("iss", json!("https://issuer.example/"), REFUSED),
            ("aud", json!("https://other.example"), REFUSED),
            ("aud", Value::Null, REFUSED),
            ("exp", json!(1_000), EXPIRED),
            ("exp", Value::Null, REFUSED),
            ("nbf", json!(99_999_999_999u64), EXPIRED),
            ("roles", json!("MutualTlsOauthConfiguration.ReadWrite.All"), REFUSED),
        ] {
            let got = fixture.with(refused(name, value)).await.err();
            assert_eq!(got, Some(fault), "{name}");
        }
        for (name, value) in [
            ("alg", json!("none")),
            ("alg", json!("HS256")),
            ("alg", json!("RS256")),
            ("kid", json!("x")),
            ("crit", json!(["exp"])),
        ] {
            let got = fixture.with(|header, _| header[name] = value.clone()).await.err();
            assert_eq!(got, Some(REFUSED), "{name} {value}");
        }
        let other = Fixture::new();
        let forged =
            other.token(&json!({"alg": "ES256", "kid": "k"}), &json!({"exp": 99_999_999_999u64}));
        assert!(fixture.issuer.caller(&forged, None).await.is_err());
    }

    #[tokio::test]
    async fn a_bound_token_requires_its_certificate() {
        let fixture = Fixture::new();
        let certificate = Fingerprint([7; 32]);
        let claims = json!({
            "iss": "https://issuer.example", "aud": ["https://hub.example"],
            "exp": 99_999_999_999u64, "cnf": {"x5t#S256": URL_SAFE_NO_PAD.encode([7; 32])},
        });
        let token = fixture.token(&json!({"alg": "ES256", "kid": "k"}), &claims);
        assert!(fixture.issuer.caller(&token, Some(&certificate)).await.is_ok());
        assert!(fixture.issuer.caller(&token, Some(&Fingerprint([8; 32]))).await.is_err());
        assert!(fixture.issuer.caller(&token, None).await.is_err());
        let jkt = json!({"jkt": "x"});
        assert!(!is_bound_to(&jkt, Some(&certificate)), "an unsupported confirmation method");
    }

    #[test]
    fn only_jwts_have_a_claimed_issuer() {
        assert_eq!(claimed_issuer("e30.eyJpc3MiOiJhIn0.x").as_deref(), Some("a"));
        for token in ["", "a.b", "e30.e30.x", "a.b.c.d", "e30.****.x"] {
            assert_eq!(claimed_issuer(token), None, "{token}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(token in "[A-Za-z0-9_.-]{0,80}") {
            let _ = claimed_issuer(&token);
        }
    }
}
