//! A whole gateway on free ports with a PKI made for the test, from the devices' point of view.

#[path = "../support/mod.rs"]
mod support;

mod applications;
mod audit;
mod audit_sinks;
mod copies;
mod database;
mod devices;
mod diagnosis;
mod directory_faults;
mod edge;
mod full_disk;
mod health;
mod http;
mod hub;
mod keys;
mod limits;
mod metrics_reference;
mod operators;
mod peer;
mod post_quantum;
mod proxy;
mod rates;
mod reload;
mod restart;
mod rotation;
mod status_page;
mod stopping;
mod telemetry;
mod tenants;
mod tickets;
mod trust;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anchorgate::app::App;
use anchorgate::cli::quickstart::client::{Answer, Connection, Device};
use anchorgate::cli::quickstart::pki::{Authority, KeyKind, Subject};
use anchorgate::cli::quickstart::serve_lists;
use anchorgate::cli::quickstart::world::{Domain, Ports, World};
use anchorgate::config;
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::time::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Upper limit for a change to come into force; far above the expected time.
const IN_FORCE: Duration = Duration::from_secs(30);

struct Gateway {
    world: World,
    app: App,
    lists: CancellationToken,
    http: reqwest::Client,
    _dir: TempDir,
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

impl Gateway {
    /// Starts a gateway whose directory has the configurations of `fields`.  `edit` changes its file first.
    async fn start(fields: &[SubjectField], edit: impl Fn(String) -> String) -> Self {
        Self::start_with(fields, edit, |_| {}).await
    }

    /// Like [`Gateway::start`], with `prepare` run on the files before the start.
    async fn start_with(
        fields: &[SubjectField],
        edit: impl Fn(String) -> String,
        prepare: impl FnOnce(&World),
    ) -> Self {
        Self::start_world(KeyKind::P256, fields, edit, prepare).await
    }

    /// Like [`Gateway::start`], with this kind of keys for devices and their authorities.
    async fn start_with_keys(keys: KeyKind, fields: &[SubjectField]) -> Self {
        Self::start_world(keys, fields, |text| text, |_| {}).await
    }

    async fn start_world(
        keys: KeyKind,
        fields: &[SubjectField],
        edit: impl Fn(String) -> String,
        prepare: impl FnOnce(&World),
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ports = Ports::free().expect("ports");
        let folder = dir.path().join("world");
        let world = World::create_with(keys, &folder, ports, now()).expect("a world");
        let file = world.dir.join("anchorgate.toml");
        let text = std::fs::read_to_string(&file).expect("written");
        std::fs::write(&file, edit(text)).expect("written");
        prepare(&world);
        let lists = CancellationToken::new();
        tokio::spawn(serve_lists(&world, lists.clone()).expect("a free port"));
        let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
        let app = App::start(config).await.expect("started");
        let ca = reqwest::Certificate::from_pem(world.server_root.certificate_pem().as_bytes());
        let http = reqwest::Client::builder()
            .tls_certs_only([ca.expect("a certificate")])
            .no_proxy()
            .build()
            .expect("a client");
        let gateway = Self { world, app, lists, http, _dir: dir };
        for field in fields {
            gateway.create(gateway.domain(*field)).await;
        }
        for field in fields {
            gateway.wait_until_served(gateway.domain(*field)).await;
        }
        gateway
    }

    fn domain(&self, field: SubjectField) -> &Domain {
        self.world.domains.iter().find(|d| d.field == field).expect("one for each field")
    }

    fn directory(&self, below: &str) -> String {
        format!(
            "http://{}/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations{below}",
            self.world.ports.directory_http
        )
    }

    async fn create(&self, domain: &Domain) -> String {
        let answer = self
            .http
            .post(self.directory(""))
            .bearer_auth(&self.world.directory_token)
            .json(&self.world.configuration(domain))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 201);
        let body: Value = answer.json().await.expect("JSON");
        body["id"].as_str().expect("an id").to_owned()
    }

    fn device(&self, domain: &Domain, n: usize) -> Device {
        let identity = &domain.devices[n].identity;
        self.device_of(&identity.chain_pem, &identity.key_pem)
    }

    fn device_of(&self, chain: &str, key: &str) -> Device {
        Device::new(&self.world.server_root.certificate_pem(), chain, key).expect("a device")
    }

    async fn connect(&self, device: &Device) -> Connection {
        device.connect(self.app.addresses.token.unwrap()).await.expect("connected")
    }

    async fn wait_until_served(&self, domain: &Domain) {
        let device = self.device(domain, 0);
        let id = &domain.devices[0].subject_id;
        let start = Instant::now();
        loop {
            let answer = match device.connect(self.app.addresses.token.unwrap()).await {
                Ok(mut connection) => connection.token(id).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if answer.status == 200 => return,
                other => assert!(start.elapsed() < IN_FORCE, "not served: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Requests tokens on one connection until the response has this status.
    async fn until(&self, connection: &mut Connection, id: &str, status: u16) -> Answer {
        let start = Instant::now();
        loop {
            let answer = connection.token(id).await.expect("the connection stays open");
            if answer.status == status {
                return answer;
            }
            assert!(start.elapsed() < IN_FORCE, "still {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn admin(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.app.addresses.admin);
        let answer = self.http.get(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    }

    /// Waits until the gateway is ready, which may be shortly after devices are served.
    async fn until_ready(&self) {
        let start = Instant::now();
        while self.admin("/readyz").await.0 != 200 {
            assert!(start.elapsed() < IN_FORCE, "not ready: {}", self.admin("/readyz").await.1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs a command against this gateway and returns its exit code and its output.
    async fn program(&self, words: &str) -> (Option<i32>, String) {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        command.args(words.split(' ')).env("ANCHORGATE_ADMIN", self.world.admin_socket());
        let run = tokio::task::spawn_blocking(move || command.output()).await;
        let output = run.expect("no panic").expect("run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subject_field_gets_a_bound_token() {
    let gateway = Gateway::start(&SubjectField::ALL, |text| text).await;
    for domain in &gateway.world.domains {
        let mut connection = gateway.connect(&gateway.device(domain, 1)).await;
        let device = &domain.devices[1];
        let answer = connection.token(&device.subject_id).await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["token_type"], "Bearer");
        // Another device's name is refused.
        let other = connection.token(&domain.devices[0].subject_id).await.expect("an answer");
        assert_eq!((other.status.as_u16(), &other.body["error"]), (401, &json!("invalid_client")));
    }
    gateway.until_ready().await;
    let (_, metrics) = gateway.admin("/metrics").await;
    assert!(metrics.contains("anchorgate_trust_configurations 5"), "{metrics}");
    assert!(metrics.contains(r#"result="full""#), "{metrics}");
    let (_, status) = gateway.admin("/status.json").await;
    assert!(!status.contains(&gateway.world.directory_token), "the status contains a secret");
    assert!(gateway.app.stop().await, "the stop was not clean");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_reaches_open_and_resumed_connections_of_that_device_only() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let (neighbour, revoked) = (&domain.devices[0], &domain.devices[2]);
    let device = gateway.device(domain, 2);
    let mut open = gateway.connect(&device).await;
    let mut beside = gateway.connect(&gateway.device(domain, 0)).await;
    assert_eq!(open.token(&revoked.subject_id).await.expect("an answer").status, 200);
    assert_eq!(beside.token(&neighbour.subject_id).await.expect("an answer").status, 200);

    gateway.world.revoke(domain, revoked, 3, now()).expect("published");
    let refused = gateway.until(&mut open, &revoked.subject_id, 401).await;
    assert_eq!(refused.body["error"], "invalid_client");
    assert!(
        refused.body.get("refusal").is_none(),
        "refusal codes are only for report mode: {refused:?}"
    );
    assert_eq!(beside.token(&neighbour.subject_id).await.expect("an answer").status, 200);

    let mut again = gateway.connect(&device).await;
    assert!(again.resumed);
    assert_eq!(again.token(&revoked.subject_id).await.expect("an answer").status, 401);

    let fresh = gateway.device(domain, 2);
    let error = match fresh.connect(gateway.app.addresses.token.unwrap()).await {
        // A TLS 1.3 client sees the refusal with its first read.
        Ok(mut connection) => connection.token(&revoked.subject_id).await.map(|_| ()),
        Err(error) => Err(error),
    };
    let error = format!("{:#}", error.expect_err("a new handshake is refused"));
    assert!(error.contains("CertificateRevoked"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_anchor_that_is_removed_stops_the_next_request() {
    let gateway = Gateway::start(&[SubjectField::SanUri, SubjectField::SanIp], |text| text).await;
    let domain = gateway.domain(SubjectField::SanUri);
    let other = gateway.domain(SubjectField::SanIp);
    let id = gateway
        .app
        .live
        .current()
        .trust
        .device_configurations
        .configurations
        .iter()
        .find(|c| c.kind.subject_field == SubjectField::SanUri)
        .map(|c| c.id.to_string())
        .expect("in force");
    let mut open = gateway.connect(&gateway.device(domain, 0)).await;
    let mut beside = gateway.connect(&gateway.device(other, 0)).await;
    assert_eq!(open.token(&domain.devices[0].subject_id).await.expect("served").status, 200);
    assert_eq!(beside.token(&other.devices[0].subject_id).await.expect("served").status, 200);
    let answer = gateway
        .http
        .patch(gateway.directory(&format!("/{id}")))
        .bearer_auth(&gateway.world.directory_token)
        .json(&json!({ "certificateAuthorities": [] }))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    gateway.until(&mut open, &domain.devices[0].subject_id, 401).await;
    assert_eq!(beside.token(&other.devices[0].subject_id).await.expect("served").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn report_mode_returns_the_refusal_code() {
    let report = |text: String| text.replace("[token]\n", "[token]\nclient_auth = \"report\"\n");
    let gateway = Gateway::start(&[SubjectField::SanDns], report).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let subject = Subject {
        common_name: "untrusted".into(),
        dns: vec!["untrusted.example".into()],
        ..Subject::default()
    };
    let untrusted = Authority::root("Some Root", now()).expect("a root");
    let untrusted = untrusted.client(&subject, now()).expect("a certificate");
    let nameless = Subject { common_name: "nameless".into(), ..Subject::default() };
    let nameless = domain.issuer.client(&nameless, now()).expect("a certificate");
    let server = domain.issuer.server(&subject, now()).expect("a certificate");
    for (identity, code) in [
        (&untrusted, "chain_untrusted"),
        (&nameless, "subject_missing"),
        (&server, "extended_key_usage"),
    ] {
        let device = gateway.device_of(&identity.chain_pem, &identity.key_pem);
        let answer = gateway.connect(&device).await.token("x").await.expect("an answer");
        assert_eq!(answer.status, 401);
        assert_eq!(answer.body["refusal"], code, "{answer:?}");
    }
    let good = gateway.connect(&gateway.device(domain, 0)).await;
    let mut good = good;
    let answer = good.token(&domain.devices[0].subject_id).await.expect("an answer");
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_directory_and_crl_server_dead_serves_the_last_good_state() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let Gateway { world, app, lists, _dir, .. } = gateway;
    assert!(app.stop().await);
    lists.cancel();
    // Restarts the gateway without its directory; the addresses it follows are closed.
    let file = world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let (head, rest) = text.split_once("[directory]").expect("a directory");
    let (_, tail) = rest.split_once("# The gateway syncs").expect("a source");
    std::fs::write(&file, format!("{head}#{tail}")).expect("written");
    let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
    let app = App::start(config).await.expect("started");
    let domain = world.domains.iter().find(|d| d.field == SubjectField::SanDns).expect("one");
    let identity = &domain.devices[0].identity;
    let ca = world.server_root.certificate_pem();
    let device = Device::new(&ca, &identity.chain_pem, &identity.key_pem).expect("a device");
    let start = Instant::now();
    loop {
        let answer = match device.connect(app.addresses.token.unwrap()).await {
            Ok(mut connection) => connection.token(&domain.devices[0].subject_id).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) if answer.status == 200 => break,
            other => assert!(start.elapsed() < IN_FORCE, "not served: {other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(app.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_devices_at_once_are_all_served() {
    let gateway = Arc::new(Gateway::start(&[SubjectField::SanEmail], |text| text).await);
    let mut all = tokio::task::JoinSet::new();
    for n in 0..100 {
        let gateway = Arc::clone(&gateway);
        all.spawn(async move {
            let domain = gateway.domain(SubjectField::SanEmail);
            let mut connection = gateway.connect(&gateway.device(domain, n % 2)).await;
            let id = &domain.devices[n % 2].subject_id;
            connection.token(id).await.expect("an answer").status.as_u16()
        });
    }
    while let Some(status) = all.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_query_the_running_gateway() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    gateway.until_ready().await;
    let (code, text) = gateway.program("ready").await;
    assert_eq!((code, text.as_str()), (Some(0), "ready\n"));
    let (code, text) = gateway.program("trust show").await;
    assert!(code == Some(0) && text.contains("tls_client_auth_san_dns"), "{text}");
    let (code, text) = gateway.program("trust sync").await;
    assert!(code == Some(0) && text.contains("quickstart"), "{text}");
    let (code, text) = gateway.program("trust approve --digest 00").await;
    assert!(code == Some(1) && text.contains("nothing is held back"), "{text}");
    let (code, text) = gateway.program("crl refresh").await;
    assert!(code == Some(0) && text.contains("dns-issuer-delta.crl"), "{text}");
    let (code, text) = gateway.program("crl refresh http://unknown.example/x.crl").await;
    assert!(code == Some(1) && text.contains("no authority names"), "{text}");

    let pki = gateway.world.dir.join("pki");
    let chain = |name: &str| format!("verify --chain {}", pki.join(name).display());
    let (code, text) = gateway.program(&chain("dns-1-chain.pem")).await;
    assert!(code == Some(0) && text.contains(&domain.devices[0].subject_id), "{text}");
    let (code, text) = gateway.program(&chain("ip-1-chain.pem")).await;
    assert!(code == Some(1) && text.contains("chain_untrusted"), "{text}");
    let (code, text) = gateway.program(&chain("dns-1.key")).await;
    assert!(code == Some(2) && text.contains("no certificate, but PRIVATE KEY"), "{text}");
    let late = chain("dns-1-chain.pem") + " --json --at 2099-01-01T00:00:00Z";
    let (code, text) = gateway.program(&late).await;
    let answer: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &answer["reason"]), (Some(1), &json!("authority_expired")), "{text}");
}
