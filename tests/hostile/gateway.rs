//! Devices, strangers, the network and local processes against a whole gateway.

use std::time::{Duration, Instant};

use anchorgate::app::App;
use anchorgate::cli::quickstart::client::{Connection, Device};
use anchorgate::cli::quickstart::pki::{Authority, Subject};
use anchorgate::cli::quickstart::serve_lists;
use anchorgate::cli::quickstart::world::{Domain, Ports, World};
use anchorgate::config;
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::time::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Upper limit for a change to come into force; far above the expected time.
pub(super) const IN_FORCE: Duration = Duration::from_secs(30);

pub(super) struct Gateway {
    pub(super) world: World,
    pub(super) app: App,
    _lists: tokio_util::sync::DropGuard,
    _dir: TempDir,
}

fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

impl Gateway {
    /// Starts a gateway that trusts the devices of `fields`.
    pub(super) async fn start(fields: &[SubjectField], edit: impl Fn(String) -> String) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let ports = Ports::free().expect("ports");
        let world = World::create(&dir.path().join("world"), ports, now()).expect("a world");
        let file = world.dir.join("anchorgate.toml");
        let text = std::fs::read_to_string(&file).expect("written");
        std::fs::write(&file, edit(text)).expect("written");
        let lists = CancellationToken::new();
        tokio::spawn(serve_lists(&world, lists.clone()).expect("a free port"));
        let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
        let app = App::start(config).await.expect("started");
        let gateway = Self { world, app, _lists: lists.drop_guard(), _dir: dir };
        for field in fields {
            gateway.trust(*field).await;
        }
        gateway
    }

    async fn trust(&self, field: SubjectField) {
        let directory = format!(
            "http://{}/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations",
            self.world.ports.directory_http
        );
        let request =
            reqwest::Client::new().post(directory).bearer_auth(&self.world.directory_token);
        let domain = self.domain(field);
        let answer = request.json(&self.world.configuration(domain)).send().await;
        assert_eq!(answer.expect("an answer").status(), 201);
        let (start, id) = (Instant::now(), &domain.devices[0].subject_id);
        while !self.is_served(&self.device(domain, 0), id).await {
            assert!(start.elapsed() < IN_FORCE, "{id} is not served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_served(&self, device: &Device, id: &str) -> bool {
        match self.connect(device).await {
            Ok(mut connection) => connection.token(id).await.is_ok_and(|a| a.status == 200),
            Err(_) => false,
        }
    }

    fn domain(&self, field: SubjectField) -> &Domain {
        self.world.domains.iter().find(|d| d.field == field).expect("one for each field")
    }

    fn device(&self, domain: &Domain, n: usize) -> Device {
        let identity = &domain.devices[n].identity;
        self.device_of(&identity.chain_pem, &identity.key_pem)
    }

    fn device_of(&self, chain: &str, key: &str) -> Device {
        Device::new(&self.world.server_root.certificate_pem(), chain, key).expect("a device")
    }

    async fn connect(&self, device: &Device) -> anyhow::Result<Connection> {
        device.connect(self.app.addresses.token.unwrap()).await
    }

    /// The status of a request to the admin plane by a process without the token.
    async fn admin(&self, post: bool, path: &str, host: &str) -> u16 {
        let url = format!("http://{}{path}", self.app.addresses.admin);
        let client = reqwest::Client::new();
        let request = if post { client.post(url) } else { client.get(url) };
        request.header("host", host).send().await.expect("an answer").status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_no_token_in_the_name_of_another() {
    let fields = [SubjectField::SanDns, SubjectField::SanUri];
    let gateway = Gateway::start(&fields, |text| text).await;
    let (own, foreign) = (gateway.domain(fields[0]), gateway.domain(fields[1]));
    let mut connection = gateway.connect(&gateway.device(own, 0)).await.expect("connected");
    let mine = &own.devices[0].subject_id;
    for other in [
        &own.devices[1].subject_id,
        &foreign.devices[0].subject_id,
        &format!("{mine}\u{200b}"),
        &format!("{mine}/"),
        &format!("x.{mine}"),
    ] {
        let answer = connection.token(other).await.expect("an answer");
        assert_eq!(answer.status, 401, "{other}: {answer:?}");
    }
    let answer = connection.token(mine).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_gets_no_token_and_learns_no_reason() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let id = &gateway.domain(SubjectField::SanDns).devices[0].subject_id;
    let subject = Subject { common_name: id.clone(), dns: vec![id.clone()], ..Subject::default() };
    // The same name under an authority of the stranger's, with the name of the true one.
    let root = Authority::root("Quickstart dns Root", now()).expect("a root");
    let issuer = root.intermediate("Quickstart dns Issuer", now()).expect("an issuer");
    let forged = issuer.client(&subject, now()).expect("a certificate");
    let stranger = gateway.device_of(&forged.chain_pem, &forged.key_pem);
    let refused = match gateway.connect(&stranger).await {
        Ok(mut connection) => connection.token(id).await.map(|answer| answer.status),
        Err(error) => Err(error),
    };
    let error = format!("{:#}", refused.expect_err("no connection"));
    for word in ["Root", "Issuer", "signature", "configuration"] {
        assert!(!error.contains(word), "{error}");
    }
    // The public listener issues nothing to a client without a certificate.
    let root = gateway.world.server_root.certificate_pem();
    let root = reqwest::Certificate::from_pem(root.as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([root]).build().expect("a client");
    let url =
        format!("https://localhost:{}/oauth2/token", gateway.app.addresses.public.unwrap().port());
    let form = [("grant_type", "client_credentials"), ("client_id", id)];
    let answer = client.post(url).form(&form).send().await.expect("an answer");
    assert!([400, 401, 404].contains(&answer.status().as_u16()), "{answer:?}");
    let body: Value = answer.json().await.unwrap_or_default();
    assert_eq!(body.get("access_token"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_costs_memory_ends_the_handshake() {
    let report = |text: String| text.replace("[token]\n", "[token]\nclient_auth = \"report\"\n");
    let gateway = Gateway::start(&[SubjectField::SanDns], report).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let (id, identity) = (&domain.devices[0].subject_id, &domain.devices[0].identity);
    let with =
        |junk: &str| gateway.device_of(&format!("{}{junk}", identity.chain_pem), &identity.key_pem);
    // Each is below the limit of a name, all together are above that of a chain.
    let junk: String = (0..6)
        .map(|n| Authority::root(&format!("{n}{}", "x".repeat(7_000)), now()).expect("a root"))
        .map(|root| root.certificate_pem())
        .collect();
    let few = Authority::root("Unneeded", now()).expect("a root").certificate_pem();
    assert!(gateway.is_served(&with(&few), id).await);
    assert!(!gateway.is_served(&with(&junk), id).await, "more than 24 KiB");
    assert!(!gateway.is_served(&with(&few.repeat(48)), id).await, "more than 48 certificates");
    assert!(gateway.is_served(&with(""), id).await, "the device itself is not locked out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_process_without_the_token_performs_no_action() {
    let gateway = Gateway::start(&[], |text| text).await;
    for path in [
        "/trust/sync",
        "/trust/approve",
        "/trust/diff",
        "/crl/refresh",
        "/keys/rotate",
        "/keys/revoke",
        "/config/reload",
        "/config/diff",
        "/verify",
    ] {
        assert_eq!(gateway.admin(true, path, "localhost").await, 401, "{path}");
    }
    // A page in the operator's browser reaches loopback by its own name.
    for path in ["/status.json", "/metrics", "/readyz"] {
        assert_eq!(gateway.admin(false, path, "rebound.example").await, 403, "{path}");
        assert_eq!(gateway.admin(false, path, "[::1]rebound").await, 400, "{path}");
    }
    // Files with secrets belong to the owner.
    use std::os::unix::fs::PermissionsExt as _;
    for file in ["admin-token", "data/admin.sock", "data/signing-key.pem"] {
        let path = gateway.world.dir.join(file);
        let mode = std::fs::metadata(&path).expect(file).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} has mode {mode:o}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_sees_no_request_and_uses_no_token() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    for address in [gateway.app.addresses.token.unwrap(), gateway.app.addresses.public.unwrap()] {
        let mut stream = TcpStream::connect(address).await.expect("connected");
        let request =
            b"POST /oauth2/token HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    }
    // A copied token names the certificate whose key its user must prove.
    let domain = gateway.domain(SubjectField::SanDns);
    let mut connection = gateway.connect(&gateway.device(domain, 0)).await.expect("connected");
    let answer = connection.token(&domain.devices[0].subject_id).await.expect("an answer");
    let token = answer.body["access_token"].as_str().expect("a token");
    let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token).expect("a JWT").claims;
    let bound = claims["cnf"]["x5t#S256"].as_str().expect("a binding");
    use base64::Engine as _;
    let hash = domain.devices[0].identity.certificate.fingerprint.0;
    assert_eq!(bound, base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash));
}
