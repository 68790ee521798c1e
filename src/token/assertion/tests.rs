use std::sync::Arc;

use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp(1_800_000_000);
const ISSUER: &str = "https://as.example";
const AUDIENCES: [&str; 2] = [ISSUER, "https://as.example/oauth2/token"];

/// A self-signed certificate and its key.
pub(crate) struct Holder {
    pub(crate) certificate: Arc<Certificate>,
    key: EncodingKey,
    algorithm: AssertionAlgorithm,
}

impl Holder {
    /// Creates a certificate whose key fits `algorithm`.
    pub(crate) fn of(algorithm: AssertionAlgorithm) -> Self {
        let kind: &SignatureAlgorithm = match algorithm {
            AssertionAlgorithm::Rs256 | AssertionAlgorithm::Ps256 => &rcgen::PKCS_RSA_SHA256,
            AssertionAlgorithm::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            AssertionAlgorithm::Es384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            AssertionAlgorithm::EdDsa => &rcgen::PKCS_ED25519,
        };
        let pair = KeyPair::generate_for(kind).expect("a key");
        let certificate = CertificateParams::default().self_signed(&pair).expect("a certificate");
        let pem = pair.serialize_pem();
        let key = match algorithm {
            AssertionAlgorithm::Rs256 | AssertionAlgorithm::Ps256 => {
                EncodingKey::from_rsa_pem(pem.as_bytes())
            }
            AssertionAlgorithm::Es256 | AssertionAlgorithm::Es384 => {
                EncodingKey::from_ec_pem(pem.as_bytes())
            }
            AssertionAlgorithm::EdDsa => EncodingKey::from_ed_pem(pem.as_bytes()),
        };
        Self {
            certificate: Arc::new(Certificate::from_der(certificate.der()).expect("readable")),
            key: key.expect("a key"),
            algorithm,
        }
    }

    pub(crate) fn header(&self) -> Value {
        let x5c = [STANDARD.encode(self.certificate.der())];
        json!({"alg": self.algorithm.as_str(), "typ": "JWT", "x5c": x5c})
    }

    /// Signs with another implementation than the one that verifies.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = message(header, claims);
        let algorithm = self.algorithm.as_str().parse().expect("known to both");
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, algorithm);
        format!("{message}.{}", signature.expect("signed"))
    }
}

fn message(header: &Value, claims: &Value) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", part(header), part(claims))
}

pub(crate) fn claims() -> Value {
    json!({
        "iss": "app", "sub": "app", "aud": ISSUER, "iat": NOW.0, "exp": NOW.0 + 300, "jti": "1",
    })
}

/// Checks an assertion in which one claim has another value, or is missing.
fn check_with(name: &str, value: Option<Value>) -> Result<(), AssertionError> {
    let mut claims = claims();
    match value {
        Some(value) => claims[name] = value,
        None => drop(claims.as_object_mut().expect("an object").remove(name)),
    }
    let text = format!("{}.AA", message(&json!({"alg": "ES256"}), &claims));
    Assertion::parse(&text)?.check(&AUDIENCES, NOW)
}

fn parsed(header: &Value) -> Result<(), AssertionError> {
    Assertion::parse(&format!("{}.AA", message(header, &claims()))).map(drop)
}

#[test]
fn verifies_signatures_of_each_algorithm_with_the_right_key_only() {
    let holders = AssertionAlgorithm::ALL.map(Holder::of);
    for holder in &holders {
        let text = holder.sign(&holder.header(), &claims());
        let assertion = Assertion::parse(&text).expect("readable");
        assert_eq!(assertion.check(&AUDIENCES, NOW), Ok(()));
        assert_eq!(assertion.chain(&[]).expect("a chain").leaf().der(), holder.certificate.der());
        assert_eq!(assertion.verify(&holder.certificate), Ok(()), "{:?}", holder.algorithm);
        assert_eq!((assertion.client_id(), assertion.jti()), ("app", "1"));
        assert_eq!(assertion.expiry(), Timestamp(NOW.0 + 360));
        assert_eq!(format!("{assertion:?}"), "Assertion(..)");

        for other in &holders {
            let refused = assertion.verify(&other.certificate);
            let same = std::ptr::eq(holder, other);
            let is_rsa =
                |h: &Holder| h.certificate.key_algorithm == holders[0].certificate.key_algorithm;
            let expected = match (same, is_rsa(holder) && is_rsa(other)) {
                (true, _) => Ok(()),
                (_, true) => Err(AssertionError::Signature),
                _ => Err(AssertionError::KeyKind { algorithm: holder.algorithm }),
            };
            assert_eq!(refused, expected);
        }
    }
}

/// RFC 8725 sections 3.1 and 3.2: algorithms that are not listed are rejected, `none` and HMAC
/// among them.
#[test]
fn rejects_unsupported_algorithms_and_types() {
    for alg in ["none", "None", "HS256", "HS384", "RS1", "RS512", "ES256K", "es256", ""] {
        let refused = parsed(&json!({"alg": alg})).expect_err(alg);
        assert_eq!(refused, AssertionError::Algorithm(alg.to_owned()));
    }
    for typ in ["JWT", "jwt", "client-authentication+jwt", "application/JWT"] {
        assert_eq!(parsed(&json!({"alg": "ES256", "typ": typ})), Ok(()));
    }
    for typ in ["at+jwt", "dpop+jwt", "JOSE", ""] {
        let refused = parsed(&json!({"alg": "ES256", "typ": typ}));
        assert_eq!(refused, Err(AssertionError::Type(typ.to_owned())));
    }
    for crit in [json!(["b64"]), json!([]), Value::Null] {
        let refused = parsed(&json!({"alg": "ES256", "crit": crit, "b64": false}));
        assert_eq!(refused, Err(AssertionError::Critical));
    }
}

/// FAPI 2.0 Security Profile, sections 5.3.2.1 and 5.4.
#[test]
fn the_fapi2_profile_allows_three_algorithms_and_the_issuer_alone() {
    let with = |alg: &str, aud: Value| {
        let mut claims = claims();
        claims["aud"] = aud;
        let text = format!("{}.AA", message(&json!({"alg": alg}), &claims));
        let assertion = Assertion::parse(&text)?;
        assert_eq!(assertion.check_profile(Profile::Plain, ISSUER), Ok(()));
        assertion.check_profile(Profile::Fapi2, ISSUER)
    };
    for alg in ["PS256", "ES256", "EdDSA"] {
        assert_eq!(with(alg, json!(ISSUER)), Ok(()), "{alg}");
    }
    for alg in ["RS256", "ES384"] {
        assert!(matches!(with(alg, json!(ISSUER)), Err(AssertionError::Profile(_))), "{alg}");
    }
    for aud in [json!([ISSUER]), json!(AUDIENCES[1]), json!("https://other.example")] {
        assert!(matches!(with("ES256", aud), Err(AssertionError::Profile(_))));
    }
}

/// RFC 7523 section 3.
#[test]
fn checks_issuer_audience_identifier_and_times() {
    use AssertionError::{Audience, Expired, Id, Issuer, Lifetime, Malformed, NotYet};
    let is = |name: &str, value: Value| check_with(name, Some(value));
    let malformed = |result: Result<(), AssertionError>| matches!(result, Err(Malformed(_)));
    for good in [json!(AUDIENCES[1]), json!([ISSUER])] {
        assert_eq!(is("aud", good), Ok(()));
    }
    for bad in [
        json!("https://as.example/"),
        json!("HTTPS://as.example"),
        json!("https://other.example"),
        json!([]),
        json!(AUDIENCES),
        json!([ISSUER, ISSUER]),
        json!([ISSUER, "https://other.example"]),
    ] {
        assert_eq!(is("aud", bad), Err(Audience));
    }
    assert!(malformed(is("aud", json!([ISSUER, 7]))) && malformed(is("aud", Value::Null)));
    assert_eq!(is("iss", "other".into()), Err(Issuer));
    for name in ["iss", "sub", "aud", "exp", "jti"] {
        assert!(malformed(check_with(name, None)), "{name}");
    }
    assert_eq!(is("jti", "".into()), Err(Id { bytes: 0 }));
    assert_eq!(is("jti", "x".repeat(MAX_JTI).into()), Ok(()));
    assert_eq!(is("jti", "x".repeat(MAX_JTI + 1).into()), Err(Id { bytes: 257 }));

    let at = |seconds: i64| Timestamp(NOW.0 + seconds);
    assert_eq!(is("exp", at(-59).0.into()), Ok(()));
    assert_eq!(is("exp", at(-60).0.into()), Err(Expired { exp: at(-60), now: NOW }));
    assert_eq!(is("exp", at(660).0.into()), Ok(()));
    assert_eq!(is("exp", at(661).0.into()), Err(Lifetime { exp: at(661) }));
    assert_eq!(is("exp", json!(at(10).0 as f64 + 0.5)), Ok(()));
    for bad in
        [json!("1800000300"), json!(1e300), json!(u64::MAX), json!(i64::MAX), json!(i64::MIN)]
    {
        assert!(malformed(is("exp", bad)));
    }
    for name in ["iat", "nbf"] {
        assert_eq!(is(name, at(60).0.into()), Ok(()));
        assert_eq!(is(name, at(61).0.into()), Err(NotYet { now: NOW }));
        assert_eq!(check_with(name, None), Ok(()), "{name} is optional");
    }
}

#[test]
fn finds_the_certificate_by_x5c_or_thumbprint() {
    let (holder, other) =
        (Holder::of(AssertionAlgorithm::Es256), Holder::of(AssertionAlgorithm::Es256));
    let known = UnverifiedChain::from_der(&[holder.certificate.der()]).expect("a chain");
    let other_known = UnverifiedChain::from_der(&[other.certificate.der()]).expect("a chain");
    let found = |header: Value, known: &[UnverifiedChain]| {
        let text = holder.sign(&header, &claims());
        let chain = Assertion::parse(&text)?.chain(known)?;
        Ok(chain.leaf().fingerprint)
    };
    let named = |holder: &Holder| URL_SAFE_NO_PAD.encode(holder.certificate.fingerprint.0);
    let [x5c, other_x5c] = [&holder, &other].map(|h| h.header()["x5c"].clone());
    let own = Ok(holder.certificate.fingerprint);
    let with = |x5c: &Value, name: &str| json!({"alg": "ES256", "x5c": x5c, "x5t#S256": name});

    assert_eq!(
        found(json!({"alg": "ES256", "x5t#S256": named(&holder)}), std::slice::from_ref(&known)),
        own
    );
    assert_eq!(found(with(&x5c, &named(&holder)), &[]), own);
    assert_eq!(
        found(with(&other_x5c, &named(&holder)), std::slice::from_ref(&known)),
        Err(AssertionError::Thumbprint)
    );
    let unknown = json!({"alg": "ES256", "x5t#S256": named(&other)});
    assert_eq!(
        found(unknown, std::slice::from_ref(&known)),
        Err(AssertionError::UnknownThumbprint)
    );
    // As MSAL encodes both.
    let lines =
        x5c[0].as_str().expect("text").as_bytes().chunks(64).collect::<Vec<_>>().join(&b'\n');
    let lines = json!([String::from_utf8(lines).expect("text")]);
    assert_eq!(found(with(&lines, &format!("{}=", named(&holder))), &[]), own);
    // With one configured certificate the assertion need not name it; with several, `kid` may.
    let two = [other_known, known.clone()];
    assert_eq!(found(json!({"alg": "ES256"}), std::slice::from_ref(&known)), own);
    assert_eq!(found(json!({"alg": "ES256"}), &two), Err(AssertionError::NoCertificate));
    assert_eq!(found(json!({"alg": "ES256", "kid": named(&holder)}), &two), own);
    let hex = holder.certificate.fingerprint.to_string().to_uppercase();
    assert_eq!(found(json!({"alg": "ES256", "kid": hex}), &two), own);
    let strange = json!({"alg": "ES256", "kid": "1"});
    assert_eq!(found(strange, &two), Err(AssertionError::UnknownThumbprint));
    // A SHA-1 thumbprint and other references to a key are ignored.
    let others =
        json!({"alg": "ES256", "x5t": "AAAA", "kid": "1", "jku": "https://x.example", "jwk": {}});
    assert_eq!(found(others, &[]), Err(AssertionError::UnknownThumbprint));
    let short = found(json!({"alg": "ES256", "x5t#S256": "AAAA"}), &[known]);
    assert!(matches!(short, Err(AssertionError::Malformed(_))));
    for bad in [json!(["*"]), json!([""]), json!([]), json!([named(&holder)])] {
        assert!(found(json!({"alg": "ES256", "x5c": bad}), &[]).is_err(), "{bad}");
    }
}

#[test]
fn errors_name_the_limits() {
    let long = "x".repeat(MAX_ASSERTION + 1);
    let refused = Assertion::parse(&long).expect_err("too long");
    assert!(refused.to_string().contains("40961") && refused.to_string().contains("40960"));
    let many = vec!["AA"; MAX_X5C + 1];
    let refused = parsed(&json!({"alg": "ES256", "x5c": many})).expect_err("too many");
    assert!(refused.to_string().contains("11") && refused.to_string().contains("10"), "{refused}");
    assert_eq!(parsed(&json!({"alg": "ES256", "x5c": vec!["AA"; MAX_X5C]})), Ok(()));
}

#[test]
fn rejects_duplicate_members() {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let payload = encode(&claims().to_string());
    let header = encode(r#"{"alg":"none","alg":"ES256"}"#);
    let twice = Assertion::parse(&format!("{header}.{payload}.AA")).map(drop);
    assert!(matches!(twice, Err(AssertionError::Malformed(_))));
    let payload = claims().to_string().replacen('{', r#"{"sub":"admin","#, 1);
    let header = encode(r#"{"alg":"ES256"}"#);
    let twice = Assertion::parse(&format!("{header}.{}.AA", encode(&payload))).map(drop);
    assert!(matches!(twice, Err(AssertionError::Malformed(_))));
}

proptest! {
    #[test]
    fn parsing_any_text_does_not_panic(text in "\\PC{0,200}") {
        let _ = Assertion::parse(&text);
    }

    #[test]
    fn parsing_any_three_parts_does_not_panic(parts in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..80), 3..4,
    )) {
        let text: Vec<_> = parts.iter().map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
        let _ = Assertion::parse(&text.join("."));
    }

    /// Any JSON values: nothing panics, and an accepted assertion names this server, has not
    /// expired and has a `jti`.
    #[test]
    fn accepts_only_assertions_that_follow_the_rules(
        aud in prop_oneof![Just(json!(ISSUER)), Just(json!([ISSUER])), Just(json!(["x"])), Just(json!(7))],
        exp in prop_oneof![(-2000i64..2000).prop_map(|s| json!(NOW.0 + s)), any::<f64>().prop_map(|f| json!(f))],
        jti in "[a-z]{0,3}", iss in "app|other", x5c in proptest::collection::vec("[A-Za-z0-9+/=]{0,8}", 0..4),
    ) {
        let claims = json!({"iss": iss, "sub": "app", "aud": aud, "exp": exp, "jti": jti});
        let text = format!("{}.AA", message(&json!({"alg": "ES256", "x5c": x5c}), &claims));
        if let Ok(assertion) = Assertion::parse(&text) {
            prop_assert!(assertion.chain(&[]).is_err());
            if assertion.check(&AUDIENCES, NOW).is_ok() {
                prop_assert!(iss == "app" && !jti.is_empty());
                prop_assert!(aud == json!(ISSUER) || aud == json!([ISSUER]));
                let exp = exp.as_f64().expect("a number");
                prop_assert!(exp > (NOW.0 - 60) as f64 && exp < (NOW.0 + 661) as f64);
            }
        }
    }

    #[test]
    fn rejects_an_assertion_with_a_changed_bit(place in any::<prop::sample::Index>(), bit in 0u8..6) {
        static HOLDER: std::sync::LazyLock<(Holder, String)> = std::sync::LazyLock::new(|| {
            let holder = Holder::of(AssertionAlgorithm::EdDsa);
            let text = holder.sign(&json!({"alg": "EdDSA"}), &claims());
            (holder, text)
        });
        let (holder, text) = &*HOLDER;
        let mut bytes = text.clone().into_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let changed = String::from_utf8(bytes);
        prop_assume!(changed.is_ok());
        let changed = changed.expect("text");
        if let Ok(assertion) = Assertion::parse(&changed) {
            prop_assert!(assertion.verify(&holder.certificate).is_err());
        }
    }
}
