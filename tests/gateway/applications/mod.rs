//! Applications: both authentication methods, and the separation from devices.

mod administration;
mod assertions;
mod availability;

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

/// A gateway with devices and two applications, each with its own application configuration.
struct Applications {
    gateway: Gateway,
    /// Roots of `script`, which authenticates by assertion, and of `service`, which authenticates by TLS.
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

    /// Starts the gateway with further keys for the client `script` and an edited configuration file.  In
    /// `keys`, `CONFIGURATION` stands for the id of the client's configuration.
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

    /// Requests a token on the public listener.
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

    /// Claims of an assertion of `script`.
    fn claims(&self) -> Value {
        static NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        json!({
            "iss": "script", "sub": "script", "aud": self.public_endpoint(),
            "iat": now().0, "exp": now().0 + 300, "jti": format!("jti-{number}"),
        })
    }

    /// A valid assertion that carries its chain.
    fn assertion(&self) -> String {
        sign(&x5c(&self.script), &self.claims(), &self.script)
    }

    /// Requests a token on the token listener with the certificate of `identity`.
    async fn ask_with(&self, identity: &Identity, form: &[(&str, &str)]) -> anyhow::Result<Answer> {
        let device = self.gateway.device_of(&identity.chain_pem, &identity.key_pem);
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .extend_pairs(form)
            .finish();
        let mut connection = device.connect(self.gateway.app.addresses.token.unwrap()).await?;
        connection.post("/oauth2/token", form).await
    }
}

impl Gateway {
    /// Sends a request about application configurations to the directory.
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

/// A JWT header that carries the chain of `identity`.
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
async fn applications_authenticate_by_assertion_or_certificate() {
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

    // On a connection with the same certificate the token is bound to it.
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
async fn devices_and_applications_are_not_interchangeable() {
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
    // A device as an application, by both methods.
    assert_eq!(refused(&device.identity, "service").await, "chain_untrusted");
    let mut claims = world.claims();
    let (status, answer) =
        world.ask(&sign(&x5c(&device.identity), &claims, &device.identity)).await;
    assert_eq!((status, &answer["refusal"]), (401, &json!("client_mismatch")), "{answer}");
    // An application as a device, under its own name and under a device's.
    assert_eq!(refused(&world.service, "service.apps.example").await, "chain_untrusted");
    assert_eq!(refused(&world.service, &device.subject_id).await, "chain_untrusted");
    // One application as another: by its connection, and by an assertion in the other's name.
    assert_eq!(refused(&world.script, "service").await, "chain_untrusted");
    assert_eq!(refused(&world.script, "script").await, "client_mismatch");
    claims["iss"] = "service".into();
    claims["sub"] = "service".into();
    let (status, answer) = world.ask(&sign(&x5c(&world.script), &claims, &world.script)).await;
    assert_eq!((status, &answer["refusal"]), (401, &json!("client_mismatch")), "{answer}");
    // Another subject of the same authority.
    let other = world.issuers[1].client(&subject("other"), now()).expect("a certificate");
    assert_eq!(refused(&other, "service").await, "client_mismatch");
    // The right name from an unknown authority, and from the other application's authority.
    let untrusted = Authority::root("Strangers", now()).expect("a root");
    let untrusted = untrusted.client(&subject("service"), now()).expect("a certificate");
    assert_eq!(refused(&untrusted, "service").await, "chain_untrusted");
    let other = world.issuers[0].client(&subject("service"), now()).expect("a certificate");
    assert_eq!(refused(&other, "service").await, "chain_untrusted");
    // Each is served by its own method.
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
    assert_eq!(world.ask(&world.assertion()).await.0, 200, "the other application's authority");

    // Removing the last anchor is held back until an operator approves it.
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
    let source = world.gateway.source("quickstart/applications").await;
    let digest = source["held_back"]["digest"].as_str().expect("a digest");
    let approve = format!("trust approve --source quickstart/applications --digest {digest}");
    let (code, text) = world.gateway.program(&approve).await;
    assert_eq!(code, Some(0), "{text}");
    world.in_force(0).await;
    let (status, answer) = world.ask(&world.assertion()).await;
    assert_eq!((status, &answer["error"]), (401, &json!("invalid_client")), "{answer}");
    // The devices are not affected.
    let domain = world.gateway.domain(SubjectField::SanDns);
    world.gateway.wait_until_served(domain).await;
    drop(world.roots);
}

/// A loaded list of an authority also applies to the applications of that authority.
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
    // A device's certificate is not accepted for an application until its authority is trusted for it.
    let answer = open.token("auditor").await.expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.body["refusal"]), (401, &json!("chain_untrusted")));

    let below = format!("/{}/trustedCertificateAuthorities", world.ids[0]);
    let (_, list) = gateway.applications(Method::GET, &below, None).await;
    for (n, authority) in [&domain.root, &domain.issuer].into_iter().enumerate() {
        let held = list["value"][n]["id"].as_str().expect("an id");
        let body = json!({"certificate": STANDARD.encode(authority.certificate.der())});
        let below = format!("{below}/{held}");
        let (status, output) = gateway.applications(Method::PATCH, &below, Some(body)).await;
        assert_eq!(status, 204, "{output}");
    }
    gateway.until(&mut open, "auditor", 200).await;

    gateway.world.revoke(domain, auditor, 3, now()).expect("published");
    gateway.until(&mut open, "auditor", 401).await;
    let answer = open.token("auditor").await.expect("an answer");
    assert_eq!(answer.body["refusal"], "certificate_revoked", "{answer:?}");
}
