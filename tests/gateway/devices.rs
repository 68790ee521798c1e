//! Admission of registered devices only: the registry decides each request.

use anchorgate::app::App;
use anchorgate::cli::quickstart::client::{Answer, Connection};
use anchorgate::cli::quickstart::world::Domain;
use anchorgate::config;
use anchorgate::trust::devices::DeviceRegistry;
use anchorgate::trust::subject::SubjectField;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use super::hub::following;
use super::{Gateway, IN_FORCE};
use crate::support::misbehaving::{Misbehaving, Reply};

/// Grants the gateway's token the device permissions of the directory.
fn with_devices(text: &str) -> String {
    let all = "permissions = [\"DeviceTemplate.ReadWrite.All\", \"Device.ReadWrite.All\", ";
    text.replace("permissions = [", all)
}

/// Configures a gateway that admits registered devices only and polls every second.
fn registered(text: &str) -> String {
    with_devices(text).replace("every = \"2s\"\n", "every = \"1s\"\ndevices = \"registered\"\n")
}

fn report(text: &str) -> String {
    registered(text).replace("[token]\n", "[token]\nclient_auth = \"report\"\n")
}

impl Gateway {
    async fn ask(&self, method: Method, below: &str, body: Value) -> Value {
        let url = format!("http://{}/beta/{below}", self.world.ports.directory_http);
        let request = self.http.request(method, url).bearer_auth(&self.world.directory_token);
        let answer = request.json(&body).send().await.expect("an answer");
        let status = answer.status();
        let text = answer.text().await.expect("a text");
        assert!(status.is_success(), "{below}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Creates a template for a configuration and returns its id.
    pub(super) async fn template(&self, configuration: &str) -> String {
        let template = json!({
            "deviceAuthority": "Quickstart", "manufacturer": "Quickstart", "model": "Meter",
            "mutualTlsOauthConfigurationId": configuration,
        });
        let made = self.ask(Method::POST, "directory/templates/deviceTemplates", template).await;
        made["id"].as_str().expect("an id").to_owned()
    }

    /// Creates a device from a template and returns its path.
    pub(super) async fn register(&self, template: &str, external_device_id: &str) -> String {
        let below =
            format!("directory/templates/deviceTemplates/{template}/createDeviceFromTemplate");
        let device = json!({ "externalDeviceId": external_device_id });
        let made = self.ask(Method::POST, &below, device).await;
        format!("devices/{}", made["id"].as_str().expect("an id"))
    }

    async fn enable(&self, device: &str, enabled: bool) {
        self.ask(Method::PATCH, device, json!({ "accountEnabled": enabled })).await;
    }

    /// Requests tokens on one connection until it is rejected with `code`, or accepted if `code` is empty.
    async fn until_refused(&self, connection: &mut Connection, id: &str, code: &str) -> Answer {
        let start = Instant::now();
        loop {
            let answer = connection.token(id).await.expect("the connection stays open");
            let refusal = answer.body["refusal"].as_str().unwrap_or_default();
            if refusal == code && (answer.status == 200) == code.is_empty() {
                return answer;
            }
            assert!(start.elapsed() < IN_FORCE, "expected `{code}`: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a full handshake fails with an error that contains `error`, or succeeds if `error` is empty.
    async fn until_handshake(&self, domain: &Domain, error: &str) {
        let (start, id) = (Instant::now(), identity(domain, 0));
        loop {
            // A device without sessions: a resumed session is rejected only after the handshake.
            let answer =
                match self.device(domain, 0).connect(self.app.addresses.token.unwrap()).await {
                    Ok(mut connection) => connection.token(id).await,
                    Err(error) => Err(error),
                };
            match &answer {
                Ok(answer) if error.is_empty() && answer.status == 200 => return,
                Err(why) if !error.is_empty() && format!("{why:?}").contains(error) => return,
                _ => {}
            }
            assert!(start.elapsed() < IN_FORCE, "expected `{error}`: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Numbers of saved devices and of disabled ones among them.
    fn devices_on_disk(&self) -> (usize, usize) {
        let file = self.world.dir.join("data/devices-quickstart.state");
        let Ok(bytes) = std::fs::read(file) else { return (0, 0) };
        // The file has a header line, a line of JSON, and the registry.
        let registry = bytes.splitn(3, |&b| b == b'\n').nth(2).expect("three parts");
        let counts = DeviceRegistry::read(registry, 10).expect("a registry").counts();
        (counts.devices, counts.disabled)
    }

    /// Restarts the gateway without its directory, so that the address it follows is closed.
    async fn restart_without_directory(self) -> Self {
        let Self { world, app, lists, http, _dir } = self;
        assert!(app.stop().await);
        let file = world.dir.join("anchorgate.toml");
        let text = std::fs::read_to_string(&file).expect("written");
        let (head, rest) = text.split_once("[directory]").expect("a directory");
        let (_, tail) = rest.split_once("# The gateway syncs").expect("a source");
        std::fs::write(&file, format!("{head}#{tail}")).expect("written");
        let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
        let app = App::start(config).await.expect("started");
        Self { world, app, lists, http, _dir }
    }

    async fn devices_of(&self, source: &str) -> Value {
        self.source(source).await["devices"].clone()
    }
}

fn identity(domain: &Domain, n: usize) -> &str {
    &domain.devices[n].subject_id
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_decides_the_next_request_on_open_and_resumed_connections() {
    let gateway = Gateway::start(&[], |text| report(&text)).await;
    let domain = gateway.domain(SubjectField::SanUri);
    let configuration = gateway.create(domain).await;
    let (device, id) = (gateway.device(domain, 0), identity(domain, 0));
    let mut open = gateway.connect(&device).await;
    let unknown = gateway.until_refused(&mut open, id, "device_unknown").await;
    assert_eq!(unknown.status, 401);
    let detail = unknown.body["detail"].as_str().unwrap_or_default();
    for part in [id, &configuration, "quickstart"] {
        assert!(detail.contains(part), "{detail} does not name {part}");
    }

    // A device of another configuration's template is not accepted.
    let other = gateway.create(gateway.domain(SubjectField::SanIp)).await;
    let elsewhere = gateway.register(&gateway.template(&other).await, id).await;
    while gateway.devices_of("quickstart").await["known"] != 1 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gateway.until_refused(&mut open, id, "device_unknown").await;
    gateway.ask(Method::DELETE, &elsewhere, Value::Null).await;

    let template = gateway.template(&configuration).await;
    let place = gateway.register(&template, id).await;
    gateway.until_refused(&mut open, id, "").await;
    gateway.enable(&place, false).await;
    gateway.until_refused(&mut open, id, "device_disabled").await;
    let mut resumed = gateway.connect(&device).await;
    assert!(resumed.resumed, "the session was not resumed");
    gateway.until_refused(&mut resumed, id, "device_disabled").await;
    gateway.enable(&place, true).await;
    for connection in [&mut open, &mut resumed] {
        gateway.until_refused(connection, id, "").await;
    }
    gateway.ask(Method::DELETE, &place, Value::Null).await;
    for connection in [&mut open, &mut resumed] {
        gateway.until_refused(connection, id, "device_unknown").await;
    }
    // Registering another device does not admit the first.
    let place = gateway.register(&template, identity(domain, 1)).await;
    let mut second = gateway.connect(&gateway.device(domain, 1)).await;
    gateway.until_refused(&mut second, identity(domain, 1), "").await;
    gateway.until_refused(&mut open, id, "device_unknown").await;
    gateway.ask(Method::DELETE, &place, Value::Null).await;
    gateway.until_refused(&mut second, identity(domain, 1), "device_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_refused_and_operators_see_why() {
    let gateway = Gateway::start(&[], |text| registered(&text)).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let configuration = gateway.create(domain).await;
    let id = identity(domain, 0);
    gateway.until_ready().await;
    let template = gateway.template(&configuration).await;
    let place = gateway.register(&template, id).await;
    gateway.until_handshake(domain, "").await;
    let chain = gateway.world.dir.join("pki/dns-1-chain.pem");
    let verify = format!("verify --chain {}", chain.display());
    let (code, text) = gateway.program(&verify).await;
    assert_eq!(code, Some(0), "{text}");

    gateway.enable(&place, false).await;
    gateway.until_handshake(domain, "alert").await;
    let (code, text) = gateway.program(&verify).await;
    assert!(code == Some(1) && text.contains("device_disabled"), "{text}");
    let (_, metrics) = gateway.admin("/metrics").await;
    let refused = |code: &str| {
        metrics.lines().any(|l| l.contains("refus") && l.contains(&format!("\"{code}\"")))
    };
    assert!(refused("device_disabled"), "{metrics}");
    assert!(metrics.contains("graph_devices{source=\"quickstart\",state=\"disabled\"} 1"));
    let (code, text) = gateway.program("trust show").await;
    assert!(code == Some(0) && text.contains("1 known, 0 enabled, 1 disabled"), "{text}");
    assert!(text.contains("tls_client_auth_san_dns  registered devices"), "{text}");

    gateway.ask(Method::DELETE, &place, Value::Null).await;
    let (code, text) = gateway.program("trust sync").await;
    // A poll of its own may have seen the removal before.
    assert!(code == Some(0) && text.contains("quickstart: "), "{text}");
    let (code, text) = gateway.program(&verify).await;
    assert!(code == Some(1) && text.contains("device_unknown"), "{text}");
    gateway.until_handshake(domain, "alert").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_polling_applies_device_changes_at_once() {
    let waits = |text: String| {
        let keys = "every = \"1h\"\nwait = \"60s\"\ndevices = \"registered\"\n";
        report(&text).replace("every = \"1s\"\ndevices = \"registered\"\n", keys)
    };
    let gateway = Gateway::start(&[], waits).await;
    let domain = gateway.domain(SubjectField::SanUri);
    let template = gateway.template(&gateway.create(domain).await).await;
    let (id, mut open) = (identity(domain, 0), gateway.connect(&gateway.device(domain, 0)).await);
    // The minimum interval between polls is a second; polling alone would take an hour.
    let place = gateway.register(&template, id).await;
    gateway.until_refused(&mut open, id, "").await;
    for (enabled, code) in [(false, "device_disabled"), (true, ""), (false, "device_disabled")] {
        gateway.enable(&place, enabled).await;
        let start = Instant::now();
        gateway.until_refused(&mut open, id, code).await;
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_the_directory_uses_the_saved_devices() {
    let gateway = Gateway::start(&[], |text| report(&text)).await;
    let domain = gateway.domain(SubjectField::SanUri);
    let template = gateway.template(&gateway.create(domain).await).await;
    gateway.register(&template, identity(domain, 0)).await;
    let disabled = gateway.register(&template, identity(domain, 1)).await;
    gateway.enable(&disabled, false).await;
    let mut open = gateway.connect(&gateway.device(domain, 1)).await;
    gateway.until_refused(&mut open, identity(domain, 1), "device_disabled").await;
    // The last change is saved shortly after it is in force.
    let start = Instant::now();
    while gateway.devices_on_disk() != (2, 1) {
        assert!(start.elapsed() < IN_FORCE, "on disk: {:?}", gateway.devices_on_disk());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let gateway = gateway.restart_without_directory().await;
    let domain = gateway.domain(SubjectField::SanUri);
    for (n, code) in [(0, ""), (1, "device_disabled")] {
        let mut connection = gateway.connect(&gateway.device(domain, n)).await;
        gateway.until_refused(&mut connection, identity(domain, n), code).await;
    }
    gateway.until_ready().await;
    assert_eq!(gateway.devices_of("quickstart").await["from_disk"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_registry_a_gateway_is_not_ready_and_admits_no_device() {
    let hub = Gateway::start(&[], |text| with_devices(&text)).await;
    let domain = hub.domain(SubjectField::SanUri);
    let list = hub.world.configuration(domain);
    let directory = Misbehaving::start().await;
    let mut entry = list.clone();
    entry["id"] = "fleet".into();
    directory.answer(move |seen, _| match seen.target.contains("/devices/") {
        true => Reply::status(500),
        false => Reply::json(&json!({ "value": [entry] })),
    });
    let keys = "every = \"1s\"\ndevices = \"registered\"";
    let gateway = Gateway::start(&[], |text| {
        following(&text, &[("hub", &directory.url, "x", keys)])
            .replace("[token]\n", "[token]\nclient_auth = \"report\"\n")
    })
    .await;
    let mut open = gateway.connect(&gateway.guest(domain)).await;
    let answer = gateway.until_refused(&mut open, identity(domain, 0), "device_unknown").await;
    let detail = answer.body["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("never loaded"), "{detail}");
    // The configurations are loaded; the devices are reported as missing.
    let start = Instant::now();
    loop {
        let (status, text) = gateway.admin("/readyz").await;
        let status_json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(status, 503);
        if status_json["missing"] == json!(["devices"]) {
            break;
        }
        assert!(start.elapsed() < IN_FORCE, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(gateway.devices_of("hub").await["last_error"].is_string());
}
