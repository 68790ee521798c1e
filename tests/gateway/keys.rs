//! Rotation of the gateway's own keys while it runs.

use std::path::Path;
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::pki::Subject;
use anchorgate::trust::subject::SubjectField;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use rustls::pki_types::CertificateDer;
use rustls::version::TLS13;
use serde_json::Value;

use super::hub::following;
use super::{App, Gateway, IN_FORCE, config, now, peer};

impl Gateway {
    /// The server certificate on a new connection to the public listener.
    async fn server_certificate(&self) -> CertificateDer<'static> {
        let client = peer::client(&self.world.server_root.certificate_pem(), &TLS13, None);
        let stream =
            peer::connect(&client, self.app.addresses.public.unwrap()).await.expect("connected");
        stream.get_ref().1.peer_certificates().expect("a chain")[0].clone().into_owned()
    }

    pub(super) async fn jwks(&self) -> JwkSet {
        let url =
            format!("https://localhost:{}/jwks.json", self.app.addresses.public.unwrap().port());
        let answer = self.http.get(url).send().await.expect("an answer");
        answer.json().await.expect("a key set")
    }

    pub(super) async fn issue_token(&self, field: SubjectField) -> String {
        let domain = self.domain(field);
        let mut connection = self.connect(&self.device(domain, 0)).await;
        let answer = connection.token(&domain.devices[0].subject_id).await.expect("an answer");
        answer.body["access_token"].as_str().expect("a token").to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_server_certificate_is_presented_without_dropping_connections() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let mut open = gateway.connect(&gateway.device(domain, 0)).await;
    let id = &domain.devices[0].subject_id;
    assert_eq!(open.token(id).await.expect("an answer").status, 200);
    let old = gateway.server_certificate().await;

    let subject = Subject {
        common_name: "localhost".into(),
        dns: vec!["localhost".into()],
        ..Subject::default()
    };
    let new = gateway.world.server_root.server(&subject, now()).expect("a certificate");
    let pki = gateway.world.dir.join("pki");
    // An incomplete change is not applied, and the old certificate stays.
    std::fs::write(pki.join("server.key"), &new.key_pem).expect("written");
    gateway.app.reload();
    assert_eq!(gateway.server_certificate().await, old);
    std::fs::write(pki.join("server.pem"), &new.chain_pem).expect("written");
    gateway.app.reload();
    let start = Instant::now();
    while gateway.server_certificate().await == old {
        assert!(start.elapsed() < IN_FORCE, "the old certificate is still presented");
    }
    assert_eq!(gateway.server_certificate().await.as_ref(), new.certificate.der());
    assert_eq!(open.token(id).await.expect("the connection stays").status, 200);
    gateway.wait_until_served(domain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_certificate_without_the_advertised_host_is_reported() {
    let gateway = Gateway::start(&[], |text| text).await;
    let count = |text: &str| {
        let name = "anchorgate_server_certificate_name_mismatches ";
        text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
    };
    let (_, metrics) = gateway.admin("/metrics").await;
    assert_eq!(count(&metrics).as_deref(), Some("0"));
    let subject = Subject { dns: vec!["elsewhere.example".into()], ..Subject::default() };
    let new = gateway.world.server_root.server(&subject, now()).expect("a certificate");
    let pki = gateway.world.dir.join("pki");
    std::fs::write(pki.join("server.key"), &new.key_pem).expect("written");
    std::fs::write(pki.join("server.pem"), &new.chain_pem).expect("written");
    gateway.app.reload();
    let start = Instant::now();
    loop {
        let (_, ready) = gateway.admin("/readyz").await;
        if ready.contains("the server certificate does not name `localhost`") {
            break;
        }
        assert!(start.elapsed() < IN_FORCE, "not reported: {ready}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, metrics) = gateway.admin("/metrics").await;
    assert_ne!(count(&metrics).as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_signing_key_is_published_before_and_after_it_signs() {
    let published = |text: String| {
        text.replace("[oauth]\n", "[oauth]\npublished_keys = [\"data/other.pem\"]\n")
    };
    // The file must exist at the start: a configured key that is missing is an error.
    let gateway = Gateway::start_with(&[SubjectField::SanUri], published, |world| {
        let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        std::fs::create_dir_all(world.dir.join("data")).expect("made");
        std::fs::write(world.dir.join("data/other.pem"), key).expect("written");
    })
    .await;
    let kid = |token: &str| jsonwebtoken::decode_header(token).expect("a header").kid;
    let before = gateway.issue_token(SubjectField::SanUri).await;
    let keys = gateway.jwks().await;
    assert_eq!(keys.keys.len(), 2, "the next key is published before it signs");

    let data = gateway.world.dir.join("data");
    let read = |name: &str| std::fs::read_to_string(data.join(name)).expect("there");
    let (current, next) = (read("signing-key.pem"), read("other.pem"));
    std::fs::write(data.join("signing-key.pem"), next).expect("written");
    std::fs::write(data.join("other.pem"), current).expect("written");
    gateway.app.reload();
    let start = Instant::now();
    let mut after = gateway.issue_token(SubjectField::SanUri).await;
    while kid(&after) == kid(&before) {
        assert!(start.elapsed() < IN_FORCE, "the old key still signs");
        after = gateway.issue_token(SubjectField::SanUri).await;
    }
    // Both tokens verify with the key set from before the rotation and with the current one.
    for keys in [&keys, &gateway.jwks().await] {
        for token in [&before, &after] {
            assert_eq!(verify(token, keys), jsonwebtoken::Algorithm::ES256);
        }
    }
}

/// Checks a token with the key set, as a resource server would.
fn verify(token: &str, keys: &JwkSet) -> jsonwebtoken::Algorithm {
    let header = jsonwebtoken::decode_header(token).expect("a header");
    let key = keys.find(&header.kid.expect("a kid")).expect("published");
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&["https://api.quickstart.example"]);
    let key = DecodingKey::from_jwk(key).expect("a key");
    jsonwebtoken::decode::<Value>(token, &key, &validation).expect("a good token");
    header.alg
}

#[tokio::test(flavor = "multi_thread")]
async fn another_signing_algorithm_begins_with_a_new_key_beside_the_old_one() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let before = gateway.issue_token(SubjectField::SanDns).await;
    let Gateway { world, app, lists, http, _dir } = gateway;
    assert!(app.stop().await);
    let file = world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let changed = text.replacen("[oauth]\n", "[oauth]\nsigning_algorithm = \"EdDSA\"\n", 1);
    std::fs::write(&file, changed).expect("written");
    let check = std::process::Command::new(env!("CARGO_BIN_EXE_anchorgate"))
        .args(["check-config", "--config"])
        .arg(&file)
        .output()
        .expect("the program runs");
    assert!(check.status.success(), "{check:?}");

    let config = config::load(&file).unwrap_or_else(|faults| panic!("{faults}"));
    let app = App::start(config).await.expect("started");
    let gateway = Gateway { world, app, lists, http, _dir };
    gateway.wait_until_served(gateway.domain(SubjectField::SanDns)).await;
    let after = gateway.issue_token(SubjectField::SanDns).await;
    let keys = gateway.jwks().await;
    assert_eq!(keys.keys.len(), 2);
    assert_eq!(verify(&before, &keys), jsonwebtoken::Algorithm::ES256, "still valid");
    assert_eq!(verify(&after, &keys), jsonwebtoken::Algorithm::EdDSA);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_resumes_on_every_replica_that_has_the_ticket_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    for file in [&first, &second] {
        std::fs::write(file, [7; 48]).expect("written");
    }
    let with = |text: String, file: &Path| {
        text.replace("[tls]\n", &format!("[tls]\nticket_keys = [\"{}\"]\n", file.display()))
    };
    let one = Gateway::start(&[SubjectField::SanDns], |text| with(text, &first)).await;
    let url = format!("http://{}", one.world.ports.directory_http);
    let source = ("hub", &*url, &*one.world.directory_token, "");
    let other = Gateway::start(&[], |text| following(&with(text, &second), &[source])).await;
    let domain = one.domain(SubjectField::SanDns);
    other.served(domain).await;

    // The device trusts only the first gateway's certificate: with the other gateway it must resume or fail.
    let (device, id) = (one.device(domain, 1), &domain.devices[1].subject_id);
    let mut connection = one.connect(&device).await;
    assert_eq!(connection.token(id).await.expect("an answer").status, 200);
    let mut resumed = other.connect(&device).await;
    assert!(resumed.resumed);
    // The resumed session is judged by this gateway as well.
    assert_eq!(resumed.token(id).await.expect("an answer").status, 200);

    std::fs::write(&second, [8; 48]).expect("written");
    other.app.reload();
    let start = Instant::now();
    while device.connect(other.app.addresses.token.unwrap()).await.is_ok() {
        assert!(start.elapsed() < IN_FORCE, "the old ticket key still opens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The first gateway is not affected: a full handshake, and a session that resumes.
    assert_eq!(one.connect(&device).await.token(id).await.expect("an answer").status, 200);
    assert!(one.connect(&device).await.resumed);
}
