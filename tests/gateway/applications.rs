//! Applications: both ways to authenticate, and that neither kind of certificate passes for the other.

use std::time::{Duration, Instant};

use anchorgate::app::App;
use anchorgate::cli::quickstart::client::Answer;
use anchorgate::cli::quickstart::pki::{Authority, Identity, Subject};
use anchorgate::config;
use anchorgate::graph::auth::{AssertionStyle, Credential, TokenEndpoint};
use anchorgate::graph::client::{Client, Limits};
use anchorgate::trust::subject::SubjectField;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Gateway, IN_FORCE, audit, now, peer};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A gateway with devices, and two applications, each of an application configuration of its own.
struct Applications {
    gateway: Gateway,
    /// Of `script`, which authenticates by assertions, and of `service`, which does by its connection.
    roots: [Authority; 2],
    issuers: [Authority; 2],
    ids: [String; 2],
    script: Identity,
    service: Identity,
}

fn subject(name: &str) -> Subject {
    Subject {
        common_name: name.into(),
        dns: vec![format!("{name}.apps.example")],
        ..Subject::default()
    }
}

impl Applications {
    async fn start() -> Self {
        Self::start_with("", |text| text).await
    }

    /// With further keys of the client `script`, in which `CONFIGURATION` is its configuration's id, and
    /// the gateway's file edited.
    async fn start_with(keys: &str, edit: impl Fn(String) -> String) -> Self {
        audit::capture();
        let mut gateway = Gateway::start(&[SubjectField::SanDns], edit).await;
        let names = ["Scripts", "Services"];
        let roots = names.map(|name| Authority::root(name, now()).expect("a root"));
        let issuers = [0, 1].map(|n| {
            let name = format!("{} Issuer", names[n]);
            roots[n].intermediate(&name, now()).expect("an authority")
        });
        let mut ids = Vec::new();
        for n in [0, 1] {
            let authority = |a: &Authority, is_root: bool| json!({"certificate": STANDARD.encode(a.certificate.der()), "isRootAuthority": is_root});
            let body = json!({
                "displayName": "applications",
                "trustedCertificateAuthorities": [authority(&roots[n], true), authority(&issuers[n], false)],
            });
            let (status, made) = gateway.applications(Method::POST, "", Some(body)).await;
            assert_eq!(status, 200, "{made}");
            ids.push(made["id"].as_str().expect("an id").to_owned());
        }
        let script = issuers[0].client(&subject("script"), now()).expect("a certificate");
        let service = issuers[1].client(&subject("service"), now()).expect("a certificate");
        let dir = gateway.world.dir.clone();
        std::fs::write(dir.join("script.pem"), &script.chain_pem).expect("written");
        let keys = keys.replace("CONFIGURATION", &ids[0]);
        let file = dir.join("anchorgate.toml");
        let mut text = std::fs::read_to_string(&file).expect("written");
        text.push_str(&format!(
            r#"
[[client]]
id = "script"
application_configuration = "{}"
token_endpoint_auth_method = "private_key_jwt"
subject_field = "tls_client_auth_san_dns"
subjects = ["script.apps.example"]
certificates = ["script.pem"]
{keys}

[[client]]
id = "service"
application_configuration = "{}"
token_endpoint_auth_method = "tls_client_auth"
subject_field = "tls_client_auth_san_dns"
subjects = ["service.apps.example"]
"#,
            ids[0], ids[1]
        ));
        std::fs::write(&file, text).expect("written");
        assert!(gateway.app.stop().await);
        let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
        gateway.app = App::start(config).await.expect("started");
        let ids = ids.try_into().expect("two");
        let this = Self { gateway, roots, issuers, ids, script, service };
        this.in_force(2).await;
        this.gateway.wait_until_served(this.gateway.domain(SubjectField::SanDns)).await;
        this
    }

    async fn in_force(&self, authorities: usize) {
        let start = Instant::now();
        loop {
            let trust = &self.gateway.app.live.current().trust;
            let roots = trust.applications.configurations.iter().flat_map(|c| &c.authorities);
            if roots.filter(|a| a.is_root).count() == authorities {
                return;
            }
            assert!(start.elapsed() < IN_FORCE, "in force: {:?}", trust.applications);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn public(&self) -> String {
        format!("https://localhost:{}", self.gateway.world.ports.public.port())
    }

    fn public_endpoint(&self) -> String {
        format!("{}/oauth2/token", self.public())
    }

    /// Asks on the public listener.
    async fn ask(&self, assertion: &str) -> (u16, Value) {
        self.post(&[("client_assertion", assertion), ("client_assertion_type", JWT_BEARER)]).await
    }

    async fn post(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let mut all = vec![("grant_type", "client_credentials")];
        all.extend_from_slice(form);
        let answer = self.gateway.http.post(self.public_endpoint()).form(&all).send().await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    /// What `script` would send.
    fn claims(&self) -> Value {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        json!({
            "iss": "script", "sub": "script", "aud": self.public_endpoint(),
            "iat": now().0, "exp": now().0 + 300, "jti": format!("jti-{number}"),
        })
    }

    /// A good assertion, carrying its chain.
    fn assertion(&self) -> String {
        sign(&x5c(&self.script), &self.claims(), &self.script)
    }

    /// Asks on the token listener with the certificate of `identity`.
    async fn ask_with(&self, identity: &Identity, form: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let device = self.gateway.device_of(&identity.chain_pem, &identity.key_pem);
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .extend_pairs(form)
            .finish();
        let mut connection = device.connect(self.gateway.app.addresses.token).await?;
        connection.post("/oauth2/token", form).await
    }
}

impl Gateway {
    /// Asks the directory about application configurations.
    async fn applications(&self, method: Method, below: &str, body: Option<Value>) -> (u16, Value) {
        let url = self.directory("").replace(
            "mutualTlsOauthConfigurations",
            &format!("certificateBasedApplicationConfigurations{below}"),
        );
        let request = self.http.request(method, url).bearer_auth(&self.world.directory_token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }
}

/// A header that carries the chain of `identity`.
fn x5c(identity: &Identity) -> Value {
    let chain: Vec<_> =
        peer::chain(&identity.chain_pem).iter().map(|c| STANDARD.encode(c)).collect();
    json!({"alg": "ES256", "typ": "JWT", "x5c": chain})
}

fn thumbprint(identity: &Identity) -> String {
    URL_SAFE_NO_PAD.encode(identity.certificate.fingerprint.0)
}

fn sign(header: &Value, claims: &Value, identity: &Identity) -> String {
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let key = EncodingKey::from_ec_pem(identity.key_pem.as_bytes()).expect("a key");
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::ES256);
    format!("{message}.{}", signature.expect("signed"))
}

fn token_claims(answer: &Value) -> Value {
    let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}"));
    jsonwebtoken::dangerous::insecure_decode(token).expect("a JWT").claims
}

const UNBOUND: &str = "tls_client_certificate_bound_access_tokens = false";

#[tokio::test(flavor = "multi_thread")]
async fn an_application_gets_tokens_in_its_own_way() {
    let world = Applications::start_with(UNBOUND, |text| text).await;
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
    assert_eq!(metadata["token_endpoint"], world.public_endpoint());
    let mutual =
        format!("https://localhost:{}/oauth2/token", world.gateway.world.ports.token.port());
    assert_eq!(metadata["mtls_endpoint_aliases"]["token_endpoint"], mutual);
    let methods = json!(["tls_client_auth", "private_key_jwt"]);
    assert_eq!(metadata["token_endpoint_auth_methods_supported"], methods);
    let algorithms = json!(["RS256", "PS256", "ES256", "ES384", "EdDSA"]);
    assert_eq!(metadata["token_endpoint_auth_signing_alg_values_supported"], algorithms);

    let (status, answer) = world.ask(&world.assertion()).await;
    assert_eq!(status, 200, "{answer}");
    let claims = token_claims(&answer);
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("script"), &json!("script")));
    assert!(claims.get("cnf").is_none() && answer["token_type"] == "Bearer", "{claims}");

    let by_name = json!({"alg": "ES256", "x5t#S256": thumbprint(&world.script)});
    let (status, answer) = world.ask(&sign(&by_name, &world.claims(), &world.script)).await;
    assert_eq!(status, 200, "{answer}");

    // Over a connection with the same certificate the token is bound to it.
    let assertion = world.assertion();
    let form = [("client_assertion", &*assertion), ("client_assertion_type", JWT_BEARER)];
    let answer = world.ask_with(&world.script, &form).await.expect("an answer");
    assert_eq!(token_claims(&answer.body)["cnf"]["x5t#S256"], thumbprint(&world.script));

    let answer = world.ask_with(&world.service, &[("client_id", "service")]).await;
    let claims = token_claims(&answer.expect("an answer").body);
    assert_eq!((&claims["sub"], &claims["client_id"]), (&json!("service"), &json!("service")));
    assert_eq!(claims["cnf"]["x5t#S256"], thumbprint(&world.service));
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_kind_of_certificate_passes_for_the_other() {
    let report = |text: String| text.replace("[token]\n", "[token]\nclient_auth = \"report\"\n");
    let world = Applications::start_with(UNBOUND, report).await;
    let domain = world.gateway.domain(SubjectField::SanDns);
    let device = &domain.devices[0];
    let refused = async |identity: &Identity, client_id: &str| {
        let answer =
            world.ask_with(identity, &[("client_id", client_id)]).await.expect("an answer");
        assert_eq!(
            (answer.status.as_u16(), &answer.body["error"]),
            (401, &json!("invalid_client"))
        );
        answer.body["refusal"].as_str().expect("a code").to_owned()
    };
    // A device as an application, in both ways.
    assert_eq!(refused(&device.identity, "service").await, "chain_untrusted");
    let mut claims = world.claims();
    let (status, answer) =
        world.ask(&sign(&x5c(&device.identity), &claims, &device.identity)).await;
    assert_eq!((status, &answer["refusal"]), (401, &json!("client_mismatch")), "{answer}");
    // An application as a device, by its own name and by a device's.
    assert_eq!(refused(&world.service, "service.apps.example").await, "chain_untrusted");
    assert_eq!(refused(&world.service, &device.subject_id).await, "chain_untrusted");
    // One application as another: by connection, and by an assertion about the other.
    assert_eq!(refused(&world.script, "service").await, "chain_untrusted");
    assert_eq!(refused(&world.script, "script").await, "client_mismatch");
    claims["iss"] = "service".into();
    claims["sub"] = "service".into();
    let (status, answer) = world.ask(&sign(&x5c(&world.script), &claims, &world.script)).await;
    assert_eq!((status, &answer["refusal"]), (401, &json!("client_mismatch")), "{answer}");
    // The same authority, another application.
    let other = world.issuers[1].client(&subject("other"), now()).expect("a certificate");
    assert_eq!(refused(&other, "service").await, "client_mismatch");
    // The right name of another authority, and the other application's.
    let stranger = Authority::root("Strangers", now()).expect("a root");
    let stranger = stranger.client(&subject("service"), now()).expect("a certificate");
    assert_eq!(refused(&stranger, "service").await, "chain_untrusted");
    let other = world.issuers[0].client(&subject("service"), now()).expect("a certificate");
    assert_eq!(refused(&other, "service").await, "chain_untrusted");
    // All are served in their own way.
    let answer = world.ask_with(&device.identity, &[("client_id", &device.subject_id)]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(world.ask(&world.assertion()).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_removed_stops_the_next_request() {
    let world = Applications::start_with(UNBOUND, |text| text).await;
    let service = &world.service;
    let device = world.gateway.device_of(&service.chain_pem, &service.key_pem);
    let mut open = world.gateway.connect(&device).await;
    assert_eq!(open.token("service").await.expect("an answer").status, 200);
    assert_eq!(world.ask(&world.assertion()).await.0, 200);
    let remove = async |n: usize| {
        let below = format!("/{}/trustedCertificateAuthorities", world.ids[n]);
        let (_, list) = world.gateway.applications(Method::GET, &below, None).await;
        let root = list["value"].as_array().expect("a list").iter();
        let root = root.filter(|a| a["isRootAuthority"] == true).map(|a| a["id"].as_str());
        let root = root.flatten().next().expect("a root").to_owned();
        let below = format!("{below}/{root}");
        assert_eq!(world.gateway.applications(Method::DELETE, &below, None).await.0, 204);
    };
    remove(1).await;
    world.gateway.until(&mut open, "service", 401).await;
    assert_eq!(world.ask(&world.assertion()).await.0, 200, "another's authority");

    // The last anchor of all: held back, until a person says that it is meant.
    remove(0).await;
    let start = Instant::now();
    let held_back = async || {
        let source = world.gateway.source("quickstart/applications").await;
        !source["held_back"].is_null()
    };
    while !held_back().await {
        assert!(start.elapsed() < IN_FORCE, "not held back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.ask(&world.assertion()).await.0, 200);
    let approve = "trust approve --source quickstart/applications";
    let (code, text) = world.gateway.program(approve).await;
    assert_eq!(code, Some(0), "{text}");
    world.in_force(0).await;
    let (status, answer) = world.ask(&world.assertion()).await;
    assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")), "{answer}");
    // Nothing of it has touched the devices.
    let domain = world.gateway.domain(SubjectField::SanDns);
    world.gateway.wait_until_served(domain).await;
    drop(world.roots);
}

/// The list that is known of an authority counts for the applications that it has signed for too.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_application_gets_no_more_tokens() {
    const AUDITOR: &str = r#"
[[client]]
id = "auditor"
application_configuration = "CONFIGURATION"
token_endpoint_auth_method = "tls_client_auth"
subject_field = "tls_client_auth_san_dns"
subjects = ["dns-3.devices.example"]
"#;
    let report = |text: String| text.replace("[token]\n", "[token]\nclient_auth = \"report\"\n");
    let world = Applications::start_with(AUDITOR, report).await;
    let gateway = &world.gateway;
    let domain = gateway.domain(SubjectField::SanDns);
    let auditor = &domain.devices[2];
    let mut open = gateway.connect(&gateway.device(domain, 2)).await;
    // It is a device's certificate, and no application's before its authority is trusted for those.
    let answer = open.token("auditor").await.expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.body["refusal"]), (401, &json!("chain_untrusted")));

    let below = format!("/{}/trustedCertificateAuthorities", world.ids[0]);
    let (_, list) = gateway.applications(Method::GET, &below, None).await;
    for (n, authority) in [&domain.root, &domain.issuer].into_iter().enumerate() {
        let held = list["value"][n]["id"].as_str().expect("an id");
        let body = json!({"certificate": STANDARD.encode(authority.certificate.der())});
        let below = format!("{below}/{held}");
        let (status, told) = gateway.applications(Method::PATCH, &below, Some(body)).await;
        assert_eq!(status, 204, "{told}");
    }
    gateway.until(&mut open, "auditor", 200).await;

    gateway.world.revoke(domain, auditor, 3, now()).expect("published");
    gateway.until(&mut open, "auditor", 401).await;
    let answer = open.token("auditor").await.expect("an answer");
    assert_eq!(answer.body["refusal"], "certificate_revoked", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_is_not_quite_right_gives_no_token() {
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
    let stranger = Authority::root("Strangers", now()).expect("a root");
    let stranger = stranger.client(&subject("script"), now()).expect("a certificate");

    let good = world.assertion();
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let (head, payload) = message.split_once('.').expect("three parts");
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let mut promoted = world.claims();
    promoted["jti"] = "another".into();
    let unsigned = part(&json!({"alg": "none", "x5c": header["x5c"]}));
    // HMAC with what everybody knows, where a careless verifier takes the key for a secret.
    let symmetric = part(&json!({"alg": "HS256", "typ": "JWT", "x5c": header["x5c"]}));
    let symmetric = format!("{symmetric}.{}", part(&world.claims()));
    let secret = EncodingKey::from_secret(&script.certificate.spki);
    let mac = jsonwebtoken::crypto::sign(symmetric.as_bytes(), &secret, Algorithm::HS256);

    let cases = [
        ("alg none", format!("{unsigned}.{payload}."), "`none` is none of"),
        ("alg none, signed", format!("{unsigned}.{payload}.{signature}"), "`none` is none of"),
        ("HS256", format!("{symmetric}.{}", mac.expect("signed")), "`HS256` is none of"),
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
        ("no certificate", headed("x5c", Value::Null), "neither x5c nor x5t"),
        (
            "unknown thumbprint",
            sign(&json!({"alg": "ES256", "x5t#S256": thumbprint(&other)}), &world.claims(), &other),
            "none of the client's configured",
        ),
        ("critical", headed("crit", json!(["exp"])), "critical"),
        ("an access token", headed("typ", "at+jwt".into()), "typ `at+jwt`"),
        ("expired", with("exp", (now().0 - 61).into()), "has ended"),
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
        ("another authority", sign(&x5c(&stranger), &world.claims(), &stranger), ""),
    ];
    for (case, assertion, told) in &cases {
        let (status, answer) = world.ask(assertion).await;
        assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")), "{case}: {answer}");
        let description = answer["error_description"].as_str().expect("a description");
        let untold = "client authentication failed";
        assert!(
            description.contains(if told.is_empty() { untold } else { *told }),
            "{case}: {answer}"
        );
    }
    for audience in [json!(world.public()), json!([world.public_endpoint()])] {
        assert_eq!(world.ask(&with("aud", audience)).await.0, 200);
    }

    // None of the failures has used the good one up; its own use has.
    assert_eq!(world.ask(&good).await.0, 200);
    let (status, answer) = world.ask(&good).await;
    assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")));
    assert!(answer["error_description"].as_str().expect("why").contains("used before"), "{answer}");

    // Requests that are not this client's to make.
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

    // No assertion is in any line of the log, nor a part of it that would be of use.
    let log = audit::log();
    assert!(log.contains("the assertion was used before"));
    for part in good.split('.') {
        assert!(!log.contains(part) && !log.contains(&part[part.len() - 40..]), "it is logged");
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

/// A client whose tokens are bound gets none where nothing could bind them.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_bound_unless_that_was_given_up() {
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
    assert_eq!(answer.status(), 404, "nobody is served there");

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

    // On another's connection it says nothing, whoever that is.
    let device = &world.gateway.domain(SubjectField::SanDns).devices[0];
    for other in [&device.identity, &world.service] {
        let (status, answer) = ask(other, &world.assertion(), &[]).await;
        assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")), "{answer}");
    }
    // A client of the other method has two.
    let mut claims = world.claims();
    claims["iss"] = "service".into();
    claims["sub"] = "service".into();
    let two = sign(&x5c(&world.service), &claims, &world.service);
    let (status, answer) = ask(&world.service, &two, &[("client_id", "service")]).await;
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{answer}");
}

/// An administrator's script has its token from the gateway, and with it administers the gateway's own
/// directory; the client that it uses is the one that speaks to Microsoft.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_administers_the_directory() {
    const ADMIN: &str = r#"
tls_client_certificate_bound_access_tokens = false

[[client]]
id = "admin"
application_configuration = "CONFIGURATION"
token_endpoint_auth_method = "private_key_jwt"
tls_client_certificate_bound_access_tokens = false
subject_field = "tls_client_auth_subject_dn"
subjects = ["CN=admin"]
audience = "https://directory.example"
scopes = ["MutualTlsOauthConfiguration.ReadWrite.All"]
default_scopes = ["MutualTlsOauthConfiguration.ReadWrite.All"]

[[client]]
id = "keeper"
application_configuration = "CONFIGURATION"
token_endpoint_auth_method = "tls_client_auth"
subject_field = "tls_client_auth_san_dns"
subjects = ["keeper.apps.example"]
audience = "https://directory.example"
scopes = ["AppCertTrustConfiguration.ReadWrite.All"]
default_scopes = ["AppCertTrustConfiguration.ReadWrite.All"]
"#;
    let issuer = |text: String| {
        let own = text.lines().find_map(|line| line.strip_prefix("issuer = ")).expect("an issuer");
        let own = own.trim_matches('"').to_owned();
        let issuers = format!(
            "[[directory.issuers]]\nissuer = \"{own}\"\naudiences = [\"https://directory.example\"]\n\
             jwks_url = \"{own}/jwks.json\"\nca_bundle = \"pki/server-root.pem\"\n\n[[graph]]"
        );
        text.replacen("[[graph]]", &issuers, 1)
    };
    let world = Applications::start_with(ADMIN, issuer).await;
    let (certificate, key) = rsa(&world.issuers[0], "admin");
    let dir = &world.gateway.world.dir;
    let (certificate_file, key_file) = (dir.join("admin.pem"), dir.join("admin.key"));
    std::fs::write(&certificate_file, certificate).expect("written");
    std::fs::write(&key_file, key).expect("written");
    let url = |text: &str| url::Url::parse(text).expect("a URL");
    let directory =
        url(&format!("https://localhost:{}", world.gateway.world.ports.directory.port()));
    let ca = world.gateway.world.server_root.certificate_pem().into_bytes();
    for style in [AssertionStyle::Rs256, AssertionStyle::Ps256] {
        let endpoint = TokenEndpoint {
            url: url(&world.public_endpoint()),
            client_id: "admin".to_owned(),
            scope: "https://directory.example/.default".to_owned(),
        };
        let credential = Credential::ClientCertificate {
            endpoint,
            certificate: certificate_file.clone(),
            key: key_file.clone(),
            style,
            send_chain: true,
        };
        let client = Client::new(&directory, credential, Some(ca.clone()), Limits::default());
        let client = client.expect("a client");
        let domain = world.gateway.domain(SubjectField::SanUri);
        let body = world.gateway.world.configuration(domain);
        let made = client.call(Method::POST, "", Some(&body), None).await.expect("made");
        let id = made["id"].as_str().expect("an id");
        assert!(client.objects().await.expect("a list").iter().any(|o| o["id"] == id));
        client.call(Method::DELETE, id, None, None).await.expect("removed");
    }
    // So does an administrator's hand, with a certificate and no secret: its token is bound to that.
    let keeper = world.issuers[0].client(&subject("keeper"), now()).expect("a certificate");
    std::fs::write(dir.join("keeper.pem"), &keeper.chain_pem).expect("written");
    std::fs::write(dir.join("keeper.key"), &*keeper.key_pem).expect("written");
    let at = dir.display();
    let line = format!(
        "directory --url {directory} --ca-bundle {at}/pki/server-root.pem --client-id keeper \
         --token-url https://localhost:{}/oauth2/token --scope https://directory.example/.default \
         --client-certificate {at}/keeper.pem --client-key {at}/keeper.key",
        world.gateway.app.addresses.token.port()
    );
    let (code, told) = world.gateway.program(&format!("{line} application list")).await;
    assert!(code == Some(0) && told.contains(&world.ids[1]), "{told}");
    let (code, told) = world.gateway.program(&format!("{line} list")).await;
    assert!(code == Some(1) && told.contains("403 Authorization_RequestDenied"), "{told}");

    // What it may not, it may not; and a token for something else is none for the directory.
    let (_, answer) = world.ask(&world.assertion()).await;
    let elses = answer["access_token"].as_str().expect("a token");
    let answer =
        world.gateway.http.get(world.gateway.directory("")).bearer_auth(elses).send().await;
    assert_eq!(answer.expect("an answer").status(), 401);
}

/// A certificate of `issuer` for an RSA key, with the chain, and the key: PEM.
fn rsa(issuer: &Authority, name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let of_issuer = rcgen::KeyPair::from_pem(&issuer.key_pem()).expect("a key");
    let signer = rcgen::Issuer::from_ca_cert_pem(&issuer.certificate_pem(), of_issuer);
    let leaf = params.signed_by(&key, &signer.expect("an issuer")).expect("a certificate");
    (leaf.pem() + &issuer.chain_pem, key.serialize_pem())
}

/// A directory that lets one collection be read and not the other holds up neither's trust.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_holds_up_nothing_else() {
    const CLIENT: &str = "\n[[client]]\nid = 'service'\napplication_configuration = 'x'\n\
                          token_endpoint_auth_method = 'tls_client_auth'\n\
                          subject_field = 'tls_client_auth_san_dns'\nsubjects = ['s.example']\n";
    const APPLICATIONS: &str = ", \"AppCertTrustConfiguration.ReadWrite.All\"";
    let devices_only = |text: String| text.replace(APPLICATIONS, "") + CLIENT;
    let gateway = Gateway::start(&[SubjectField::SanDns], devices_only).await;
    gateway.until_ready().await;
    let source = gateway.source("quickstart/applications").await;
    assert!(source["last_success"].is_null(), "{source}");
    assert!(source["last_error"].as_str().is_some_and(|e| e.contains("403")), "{source}");
    assert!(gateway.source("quickstart").await["last_error"].is_null());
    let service = Authority::root("R", now()).expect("a root");
    let service = service.client(&subject("s"), now()).expect("a certificate");
    let device = gateway.device_of(&service.chain_pem, &service.key_pem);
    let outcome =
        async { device.connect(gateway.app.addresses.token).await?.token("service").await };
    assert!(outcome.await.is_err(), "unknown is a refusal, in the handshake already");

    // And the other way round: applications are served while the devices' list is refused.
    let world = Applications::start().await;
    let Applications { mut gateway, service, .. } = world;
    let file = gateway.world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let text = text.replace("\"MutualTlsOauthConfiguration.ReadWrite.All\", ", "");
    std::fs::write(&file, text).expect("written");
    assert!(gateway.app.stop().await);
    // Nothing of an earlier run is left, so that all is fetched anew.
    for name in ["trust-quickstart.state", "trust-quickstart.applications.state"] {
        std::fs::remove_file(gateway.world.dir.join("data").join(name)).expect("it was there");
    }
    for entry in std::fs::read_dir(gateway.world.dir.join("data")).expect("there").flatten() {
        if entry.file_name().to_string_lossy().starts_with("trust-") {
            std::fs::remove_file(entry.path()).expect("removed");
        }
    }
    let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
    gateway.app = App::start(config).await.expect("started");
    let device = gateway.device_of(&service.chain_pem, &service.key_pem);
    let start = Instant::now();
    loop {
        let asked =
            async { device.connect(gateway.app.addresses.token).await?.token("service").await };
        match asked.await {
            Ok(answer) if answer.status == 200 => break,
            other => assert!(start.elapsed() < IN_FORCE, "not served: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gateway.source("quickstart").await["last_success"].is_null());
    assert_eq!(gateway.admin("/readyz").await.0, 503, "devices are not served yet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_the_directory_serves_applications_from_disk() {
    let world = Applications::start_with(UNBOUND, |text| text).await;
    let file = world.gateway.world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let (head, rest) = text.split_once("[directory]").expect("a directory");
    let (_, tail) = rest.split_once("# The gateway is a client").expect("a source");
    std::fs::write(&file, format!("{head}#{tail}")).expect("written");
    let Applications { mut gateway, roots, issuers, ids, script, service } = world;
    assert!(gateway.app.stop().await);
    let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
    gateway.app = App::start(config).await.expect("started");
    let world = Applications { gateway, roots, issuers, ids, script, service };
    world.in_force(2).await;
    assert_eq!(world.ask(&world.assertion()).await.0, 200);
    let answer = world.ask_with(&world.service, &[("client_id", "service")]).await;
    assert_eq!(answer.expect("an answer").status, 200);
    assert_eq!(world.gateway.source("quickstart/applications").await["from_disk"], true);
}
