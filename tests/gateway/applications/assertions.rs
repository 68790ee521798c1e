//! Assertions: validation, replay and binding.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn invalid_assertions_are_rejected() {
    let report = |text: String| text.replace("[token]\n", "[token]\nclient_auth = \"report\"\n");
    let world = Applications::start_with(UNBOUND, report).await;
    let (script, header) = (&world.script, x5c(&world.script));
    let with = |name: &str, value: Value| {
        let mut claims = world.claims();
        claims[name] = value;
        sign(&header, &claims, script)
    };
    let headed = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        sign(&header, &world.claims(), script)
    };
    let other = world.issuers[0].client(&subject("script"), now()).expect("a certificate");
    let untrusted = Authority::root("Strangers", now()).expect("a root");
    let untrusted = untrusted.client(&subject("script"), now()).expect("a certificate");

    let good = world.assertion();
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let (head, payload) = message.split_once('.').expect("three parts");
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let mut promoted = world.claims();
    promoted["jti"] = "another".into();
    let unsigned = part(&json!({"alg": "none", "x5c": header["x5c"]}));
    // HMAC with the public key as the secret, which a careless verifier accepts.
    let symmetric = part(&json!({"alg": "HS256", "typ": "JWT", "x5c": header["x5c"]}));
    let symmetric = format!("{symmetric}.{}", part(&world.claims()));
    let secret = EncodingKey::from_secret(&script.certificate.spki);
    let mac = jsonwebtoken::crypto::sign(symmetric.as_bytes(), &secret, Algorithm::HS256);

    let cases = [
        ("alg none", format!("{unsigned}.{payload}."), "`none` is not one of"),
        ("alg none, signed", format!("{unsigned}.{payload}.{signature}"), "`none` is not one of"),
        ("HS256", format!("{symmetric}.{}", mac.expect("signed")), "`HS256` is not one of"),
        (
            "tampered",
            format!("{head}.{}.{signature}", part(&promoted)),
            "signature does not verify",
        ),
        ("signature cut", format!("{message}.{}", &signature[..40]), "signature does not verify"),
        ("no signature", format!("{message}."), "signature does not verify"),
        ("another's key", sign(&header, &world.claims(), &other), "signature does not verify"),
        ("alg of another key", headed("alg", "RS256".into()), "does not sign by RS256"),
        ("x5t of another", headed("x5t#S256", thumbprint(&other).into()), "not the thumbprint"),
        (
            "no certificate, another's key",
            sign(&json!({"alg": "ES256"}), &world.claims(), &other),
            "signature does not verify",
        ),
        (
            "unknown thumbprint",
            sign(&json!({"alg": "ES256", "x5t#S256": thumbprint(&other)}), &world.claims(), &other),
            "does not match a configured certificate",
        ),
        ("critical", headed("crit", json!(["exp"])), "critical"),
        ("an access token", headed("typ", "at+jwt".into()), "typ `at+jwt`"),
        ("expired", with("exp", (now().0 - 61).into()), "expired at"),
        ("too long", with("exp", (now().0 + 3600).into()), "at most 600 seconds"),
        ("not yet", with("nbf", (now().0 + 120).into()), "in the future"),
        ("from the future", with("iat", (now().0 + 120).into()), "in the future"),
        ("no end", with("exp", Value::Null), "malformed"),
        ("no jti", with("jti", Value::Null), "malformed"),
        ("empty jti", with("jti", "".into()), "1 to 256"),
        ("another server", with("aud", "https://as.example".into()), "aud is not"),
        (
            "two servers",
            with("aud", json!([world.public_endpoint(), "https://x.example"])),
            "aud is not",
        ),
        ("no server", with("aud", json!([])), "aud is not"),
        ("about another", with("iss", "service".into()), "iss and sub differ"),
        ("not a JWT", "a.b".into(), "three parts"),
        ("not base64", format!("{head}=.{payload}.{signature}"), "base64url"),
        ("another certificate", sign(&x5c(&other), &world.claims(), &other), ""),
        ("another authority", sign(&x5c(&untrusted), &world.claims(), &untrusted), ""),
    ];
    for (case, assertion, detail) in &cases {
        let (status, answer) = world.ask(assertion).await;
        assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")), "{case}: {answer}");
        let description = answer["error_description"].as_str().expect("a description");
        let generic = "client authentication failed";
        assert!(
            description.contains(if detail.is_empty() { generic } else { *detail }),
            "{case}: {answer}"
        );
    }
    for audience in [json!(world.public()), json!([world.public_endpoint()])] {
        assert_eq!(world.ask(&with("aud", audience)).await.0, 200);
    }

    // The failures did not consume the valid assertion; its own use does.
    assert_eq!(world.ask(&good).await.0, 200);
    let (status, answer) = world.ask(&good).await;
    assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")));
    assert!(answer["error_description"].as_str().expect("why").contains("used before"), "{answer}");

    // A form that is malformed after authentication does not use the assertion up.
    let kept = world.assertion();
    for (scope, status, error) in [
        ("a  b", 400, Some("invalid_scope")),
        ("", 200, None),
        ("a  b", 401, Some("invalid_client")),
    ] {
        let form =
            [("client_assertion", &*kept), ("client_assertion_type", JWT_BEARER), ("scope", scope)];
        let (got, answer) = world.post(&form).await;
        assert_eq!((got, answer["error"].as_str()), (status, error), "`{scope}`: {answer}");
    }

    // Requests that this client must not make.
    let typed = ("client_assertion_type", JWT_BEARER);
    let fresh = || ("client_assertion", world.assertion());
    for (form, status, error) in [
        (vec![], 401, "invalid_client"),
        (vec![("client_id", "service".to_owned())], 401, "invalid_client"),
        (vec![("client_id", "script".to_owned())], 401, "invalid_client"),
        (vec![fresh()], 400, "invalid_request"),
        (vec![fresh(), typed_as("x")], 400, "invalid_request"),
        (vec![fresh(), typed_as(typed.1), ("client_id", "service".into())], 401, "invalid_client"),
        (vec![fresh(), typed_as(typed.1), ("client_secret", "x".into())], 400, "invalid_request"),
        (vec![fresh(), typed_as(typed.1), ("scope", "admin".into())], 400, "invalid_scope"),
        (vec![fresh(), typed_as(typed.1), ("client_id", "script".into())], 200, ""),
    ] {
        let pairs: Vec<_> = form.iter().map(|(name, value)| (*name, &**value)).collect();
        let (got, answer) = world.post(&pairs).await;
        assert_eq!(got, status, "{form:?}: {answer}");
        assert_eq!(answer["error"].as_str().unwrap_or_default(), error, "{form:?}");
    }

    // Neither an assertion nor a useful part of one is logged.
    let log = audit::log();
    assert!(log.contains("the assertion was used before"));
    for part in good.split('.') {
        assert!(
            !log.contains(part) && !log.contains(&part[part.len() - 40..]),
            "a part of the assertion is logged"
        );
    }
    let certificate = script.certificate.fingerprint.to_string();
    let line = log.lines().find(|line| line.contains("issued") && line.contains(&certificate));
    let line: Value = serde_json::from_str(line.expect("audited")).expect("JSON");
    assert_eq!(
        (&line["client_id"], &line["configuration"]),
        (&json!("script"), &json!(world.ids[0]))
    );
    assert_eq!(line["subject"], "script.apps.example");
}

fn typed_as(kind: &str) -> (&'static str, String) {
    ("client_assertion_type", kind.to_owned())
}

/// A client with bound tokens gets no token on a listener without client certificates.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_bound_by_default() {
    let world = Applications::start().await;
    let well_known = format!("{}/.well-known/oauth-authorization-server", world.public());
    let metadata: Value = world
        .gateway
        .http
        .get(well_known)
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    let mutual =
        format!("https://localhost:{}/oauth2/token", world.gateway.world.ports.token.port());
    assert_eq!(metadata["token_endpoint"], mutual);
    let answer = world.gateway.http.post(world.public_endpoint()).send().await.expect("an answer");
    assert_eq!(answer.status(), 404, "the public listener has no token endpoint");

    let ask = async |identity: &Identity, assertion: &str, more: &[(&str, &str)]| {
        let mut form = vec![("client_assertion", assertion), ("client_assertion_type", JWT_BEARER)];
        form.extend_from_slice(more);
        let answer = world.ask_with(identity, &form).await.expect("an answer");
        (answer.status.as_u16(), answer.body)
    };
    let (status, answer) =
        ask(&world.script, &world.assertion(), &[("token_type", "mtls_pop")]).await;
    assert_eq!((status, &answer["token_type"]), (200, &json!("mtls_pop")), "{answer}");
    assert_eq!(token_claims(&answer)["cnf"]["x5t#S256"], thumbprint(&world.script));

    // An assertion is rejected on a connection with another certificate.
    let device = &world.gateway.domain(SubjectField::SanDns).devices[0];
    for other in [&device.identity, &world.service] {
        let (status, answer) = ask(other, &world.assertion(), &[]).await;
        assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")), "{answer}");
    }
    // A client of the other method presents two credentials.
    let mut claims = world.claims();
    claims["iss"] = "service".into();
    claims["sub"] = "service".into();
    let two = sign(&x5c(&world.service), &claims, &world.service);
    let (status, answer) = ask(&world.service, &two, &[("client_id", "service")]).await;
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fapi2_profile_accepts_the_issuer_as_the_only_audience() {
    let fapi2 = |text: String| {
        text.replace("[token]\n", "[token]\nclient_auth = \"report\"\n")
            .replace("[oauth]\n", "[oauth]\nprofile = \"fapi2\"\n")
    };
    let world = Applications::start_with("", fapi2).await;
    let (issuer, header) = (world.public(), x5c(&world.script));
    let metadata = format!("{issuer}/.well-known/oauth-authorization-server");
    let metadata = world.gateway.http.get(metadata).send().await.expect("an answer");
    let metadata: Value = metadata.json().await.expect("JSON");
    let algorithms = json!(["PS256", "ES256", "EdDSA"]);
    assert_eq!(metadata["token_endpoint_auth_signing_alg_values_supported"], algorithms);
    let mutual = metadata["token_endpoint"].clone();
    for (aud, expected) in
        [(json!(issuer), 200), (json!([issuer]), 401), (mutual, 401), (json!([]), 401)]
    {
        let mut claims = world.claims();
        claims["aud"] = aud;
        let assertion = sign(&header, &claims, &world.script);
        let form = [("client_assertion", &*assertion), ("client_assertion_type", JWT_BEARER)];
        let answer = world.ask_with(&world.script, &form).await.expect("an answer");
        assert_eq!(answer.status, expected, "{}: {}", claims["aud"], answer.body);
    }
}
