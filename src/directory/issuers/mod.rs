//! Access tokens of issuers that the directory trusts: JWTs (RFC 7519), verified with the issuer's
//! published keys.
//!
//! Application permissions are read from `roles` (Entra) and `scope` (RFC 9068, and so our own token
//! endpoint); delegated ones from `scp`, which count only together with a role in `wids` that the
//! published pages name for the operation.  A token that is bound to a certificate (`cnf`, RFC 8705) is
//! taken from a connection with that certificate only.

mod keys;

use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::directory::auth::{Caller, Grant, Permission, Role};
use crate::directory::errors::Fault;
use crate::directory::issuers::keys::{IssuerKeys, Pace};
use crate::graph::wire;
use crate::x509::certificate::Fingerprint;

pub use keys::KeySource;

/// Bytes of a token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
/// Difference of clocks that is allowed, in seconds.
const LEEWAY: u64 = 30;

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone)]
pub struct Issuer {
    /// `iss`, byte for byte.
    pub issuer: String,
    /// One of these must be the token's `aud`.
    pub audiences: Vec<String>,
    /// Its keys.
    pub keys: KeySource,
    /// PEM of the only authorities that the server with the keys may have.
    pub ca_bundle: Option<Vec<u8>>,
}

/// An issuer with the keys last read.
pub(super) struct TrustedIssuer {
    issuer: Issuer,
    keys: Arc<IssuerKeys>,
}

/// What is read of a token.
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

/// The `iss` of what looks like a JWT; nothing of it is verified.
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
        let pace = Pace::of(&source);
        Self { issuer, keys: IssuerKeys::new(name, source, ca_bundle, pace) }
    }

    pub(super) fn name(&self) -> &str {
        &self.issuer.issuer
    }

    /// Who a token speaks for, on a connection with this certificate.
    pub(super) async fn caller(
        &self,
        token: &str,
        certificate: Option<&Fingerprint>,
    ) -> Result<Caller, Fault> {
        let header = decode_header(token).map_err(|_| REFUSED)?;
        // Symmetric algorithms are out: a public key is no secret to sign with.
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        let known = [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA];
        // What a token says must be understood, is not (RFC 7515 section 4.1.11).
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

/// True when `cnf` names this certificate, by the one method that can be checked here.
fn is_bound_to(cnf: &Value, certificate: Option<&Fingerprint>) -> bool {
    let wanted = cnf["x5t#S256"].as_str();
    wanted.is_some() && wanted == certificate.map(|c| URL_SAFE_NO_PAD.encode(c.0)).as_deref()
}

impl Claims {
    fn caller(self, issuer: &str) -> Caller {
        let names = |list: &Option<String>| -> Vec<Permission> {
            list.iter().flat_map(|l| l.split(' ')).filter_map(Permission::parse).collect()
        };
        let roles = self.roles.iter().flatten().filter_map(|role| Permission::parse(role));
        let grant = Grant {
            application: roles.chain(names(&self.scope)).collect(),
            delegated: names(&self.scp),
            roles: self.wids.iter().flatten().filter_map(|id| Role::parse(id)).collect(),
        };
        let application = self.appid.or(self.azp).or(self.client_id);
        if self.scp.is_none() {
            let who = application.or(self.sub);
            return Caller::new(issuer, who.as_deref(), who.as_deref().unwrap_or_default(), grant);
        }
        // A person, whatever the application: many people use one.
        let person = self.oid.or(self.sub);
        let (shown, through) = (person.as_deref(), application.as_deref());
        let name = format!("{} through {}", shown.unwrap_or("?"), through.unwrap_or("?"));
        Caller::new(issuer, shown, &name, grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::auth::Need;
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
                {"kty": "of tomorrow", "kid": "t"},
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
    async fn a_good_token_carries_its_permissions() {
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
    async fn delegated_permissions_need_a_role_too() {
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

    /// Templates are their makers': two callers must never be taken for one.
    #[tokio::test]
    async fn callers_are_told_apart_by_all_of_their_names() {
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
        assert_eq!(another.identity, callers[6].identity, "through another application");
        let nobody = named(json!({"appid": "a", "scp": "x", "sub": null})).await;
        assert_eq!((nobody.identity, &*nobody.name), (None, "? through a"));
        let nobody = named(json!({"sub": ""})).await;
        assert_eq!(nobody.identity, None);
    }

    #[tokio::test]
    async fn a_bad_token_is_refused() {
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
    async fn a_bound_token_needs_its_certificate() {
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
        assert!(!is_bound_to(&jkt, Some(&certificate)), "a binding that cannot be checked");
    }

    #[test]
    fn only_what_looks_like_a_jwt_has_an_issuer() {
        assert_eq!(claimed_issuer("e30.eyJpc3MiOiJhIn0.x").as_deref(), Some("a"));
        for token in ["", "a.b", "e30.e30.x", "a.b.c.d", "e30.****.x"] {
            assert_eq!(claimed_issuer(token), None, "{token}");
        }
    }

    proptest! {
        #[test]
        fn no_token_makes_it_panic(token in "[A-Za-z0-9_.-]{0,80}") {
            let _ = claimed_issuer(&token);
        }
    }
}
