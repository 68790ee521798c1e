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
        Self::with_permissions_in(PermissionsClaim::Roles)
    }

    fn with_permissions_in(permissions_claim: PermissionsClaim) -> Self {
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
            permissions_claim,
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
}

/// A scope that a person consented to is not a permission of an application.
#[tokio::test]
async fn scope_grants_permissions_only_to_configured_issuers_and_without_a_person() {
    let scope = |extra: (&'static str, Value)| {
        move |_: &mut Value, claims: &mut Value| {
            claims["roles"].take();
            claims["scope"] = "openid MutualTlsOauthConfiguration.Read.All".into();
            claims[extra.0] = extra.1;
        }
    };
    let none = || ("jti", json!("1"));
    let configured = Fixture::with_permissions_in(PermissionsClaim::Scope);
    let caller = configured.with(scope(none())).await.expect("a caller");
    assert_eq!(caller.require(Need::ReadMutualTls), Ok(()));
    assert_eq!(caller.require(Need::WriteMutualTls), Err(Fault::Forbidden));
    for (name, value) in [
        ("auth_time", json!(1)),
        ("acr", json!("1")),
        ("amr", json!(["pwd"])),
        ("sid", json!("s")),
        ("scp", json!("MutualTlsOauthConfiguration.Read.All")),
    ] {
        let caller = configured.with(scope((name, value))).await.expect("a caller");
        assert_eq!(caller.require(Need::ReadMutualTls), Err(Fault::Forbidden), "{name}");
    }
    for typ in [json!("JWT"), Value::Null] {
        let change = |header: &mut Value, claims: &mut Value| {
            header["typ"] = typ.clone();
            scope(none())(header, claims);
        };
        let caller = configured.with(change).await.expect("a caller");
        assert_eq!(caller.require(Need::ReadMutualTls), Err(Fault::Forbidden), "{typ}");
    }
    // The claim that is not configured grants nothing.
    let caller = configured.with(|_, _| {}).await.expect("a caller");
    assert_eq!(caller.require(Need::ReadMutualTls), Err(Fault::Forbidden));
    let caller = Fixture::new().with(scope(none())).await.expect("a caller");
    assert_eq!(caller.require(Need::ReadMutualTls), Err(Fault::Forbidden));
    // In a token of a person, `roles` are the person's.
    let both = |_: &mut Value, claims: &mut Value| claims["scp"] = "openid".into();
    let caller = Fixture::new().with(both).await.expect("a caller");
    assert_eq!(caller.require(Need::ReadMutualTls), Err(Fault::Forbidden));
}

#[tokio::test]
async fn only_access_tokens_are_accepted() {
    let fixture = Fixture::new();
    for (name, value) in [
        ("nonce", json!("n")),
        ("at_hash", json!("h")),
        ("c_hash", json!("h")),
        ("s_hash", json!("h")),
        ("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}})),
    ] {
        let got = fixture.with(|_, claims| claims[name] = value).await.err();
        assert_eq!(got, Some(REFUSED), "{name}");
    }
    for (typ, accepted) in [
        (json!("at+jwt"), true),
        (json!("application/AT+JWT"), true),
        (json!("JWT"), true),
        (Value::Null, true),
        (json!("logout+jwt"), false),
        (json!("secevent+jwt"), false),
        (json!("dpop+jwt"), false),
        (json!(""), false),
    ] {
        let got = fixture.with(|header, _| header["typ"] = typ.clone()).await;
        assert_eq!(got.is_ok(), accepted, "{typ}");
    }
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
        named(json!({"sub": "a"})).await,
        named(json!({"sub": format!("{long}1")})).await,
        named(json!({"sub": format!("{long}2")})).await,
        named(json!({"sub": "a\u{7}"})).await,
        named(json!({"sub": "a", "scp": "x", "oid": "anna"})).await,
        named(json!({"sub": "a", "scp": "x", "oid": "a"})).await,
    ];
    for (n, one) in callers.iter().enumerate() {
        assert!(one.identity.is_some());
        assert!(callers[..n].iter().all(|other| other.identity != one.identity), "{one:?}");
        assert!(one.name.len() <= 128 && !one.name.contains('\u{7}'), "{one:?}");
        assert_eq!(one.issuer, "https://issuer.example");
    }
    let through = named(json!({"appid": "d", "scp": "x", "oid": "anna"})).await;
    assert_eq!(through.name, "anna through d");
    assert_eq!(through.identity, callers[4].identity, "the application does not matter");
    for anonymous in [json!({"client_id": "a", "sub": null}), json!({"appid": "a", "sub": ""})] {
        let anonymous = named(anonymous).await;
        assert_eq!((anonymous.identity, &*anonymous.name), (None, "? through a"));
    }
}

/// Two trust domains of a gateway can have a device with the same client ID.
#[tokio::test]
async fn callers_with_one_client_id_and_two_subjects_differ() {
    let fixture = Fixture::new();
    let named = async |sub: &str, name: &str| {
        let (sub, name) = (sub.to_owned(), name.to_owned());
        let change = |_: &mut Value, claims: &mut Value| {
            claims["sub"] = sub.into();
            claims[&*name] = "meter".into();
        };
        fixture.with(change).await.expect("a caller")
    };
    let (a, b) = (named("a/meter", "client_id").await, named("b/meter", "client_id").await);
    assert_eq!(a.name, "a/meter through meter");
    assert!(a.is(a.identity.as_deref().expect("one")));
    assert!(!b.is(a.identity.as_deref().expect("one")));
    // An owner that an earlier version stored counts only where the issuer assigns the ID.
    let earlier = "https://issuer.example meter";
    assert!(!a.is(earlier) && !b.is(earlier) && !named("meter", "client_id").await.is(earlier));
    assert!(named("x", "appid").await.is(earlier) && named("x", "azp").await.is(earlier));
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
