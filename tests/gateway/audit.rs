//! Audit lines of decisions, and secrets that must not be logged.

use std::io;
use std::sync::{Mutex, Once};

use anchorgate::cli::quickstart::pki::{Authority, Identity, Subject};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Fingerprint;
use reqwest::Method;
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use super::{Gateway, now, peer};

/// The log of this process, as a log collector gets it.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().expect("no panic while it is held").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Captures all log lines of this crate, and of others those that the default filter passes.
pub(super) fn capture() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter("info,anchorgate=trace")
            .with_writer(|| Log)
            .json()
            .flatten_event(true)
            .init();
    });
}

pub(super) fn log() -> String {
    String::from_utf8(LOG.lock().expect("no panic while it is held").clone()).expect("UTF-8")
}

/// The audit lines about one certificate.
fn audited(identity: &Identity) -> Vec<Value> {
    let certificate = identity.certificate.fingerprint.to_string();
    log()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|line| line["target"] == "audit" && line["certificate"] == *certificate)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_decision_is_one_audit_line_and_no_secret_is_logged() {
    capture();
    let gateway = Gateway::start(&[SubjectField::SanEmail], |text| text).await;
    let domain = gateway.domain(SubjectField::SanEmail);
    let device = &domain.devices[1];
    let mut connection = gateway.connect(&gateway.device(domain, 1)).await;
    let issued = connection.token(&device.subject_id).await.expect("an answer");
    let wrong = connection.token("unknown\r\nx: y").await.expect("an answer");
    assert_eq!((issued.status.as_u16(), wrong.status.as_u16()), (200, 401));

    let lines = audited(&device.identity);
    let [first, second] = &lines[..] else { panic!("{lines:#?}") };
    assert_eq!((&first["schema"], &first["event"]), (&1.into(), &"token".into()));
    assert_eq!(first["outcome"], "issued");
    assert_eq!(first["subject"], *device.subject_id);
    assert_eq!(first["client_id"], *device.subject_id);
    assert_eq!(first["audience"], "https://api.quickstart.example");
    assert!(first["configuration"].is_string() && first["jti"].is_string(), "{first}");
    assert_eq!(
        (&second["outcome"], &second["error"], &second["refusal"]),
        (&"refused".into(), &"invalid_client".into(), &"client_unknown".into())
    );
    // What was escaped ends with a part of its SHA-256.
    let client_id = second["client_id"].as_str().expect("a text");
    assert!(client_id.starts_with("unknown\\u{d}\\u{a}x: y "), "{client_id}");
    for line in &lines {
        assert!(line["address"].as_str().is_some_and(|a| a.starts_with("127.0.0.1:")), "{line}");
        assert_eq!(line["connection"], first["connection"]);
    }

    let log = log();
    let key: String = device.identity.key_pem.lines().filter(|l| !l.starts_with("---")).collect();
    let signing = std::fs::read_to_string(gateway.world.dir.join("data/signing-key.pem"));
    let signing: String =
        signing.expect("there").lines().filter(|l| !l.starts_with("---")).collect();
    let token = issued.body["access_token"].as_str().expect("a token");
    for secret in [token, &gateway.world.directory_token, &key, &signing] {
        assert!(secret.len() > 40 && !log.contains(secret), "a secret is logged");
        // Nor is a useful part of it.
        assert!(!log.contains(&secret[secret.len() - 40..]), "a part of a secret is logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_handshake_is_audited_with_code_and_address() {
    capture();
    let gateway = Gateway::start(&[], |text| text).await;
    let domain = gateway.domain(SubjectField::SanIp);
    // In force before the first handshake: the records of refused strangers are bounded.
    gateway.create(domain).await;
    gateway.configurations(1).await;
    let (code, text) = gateway.program("crl refresh").await;
    assert_eq!(code, Some(0), "{text}");
    gateway.wait_until_served(domain).await;
    let device = &domain.devices[1].identity;
    let subject = Subject { common_name: "x".into(), ..Subject::default() };
    let stranger = Authority::root("Some Root", now()).expect("a root");
    let stranger = stranger.client(&subject, now()).expect("a certificate");
    let many = domain.issuer.client(&subject, now()).expect("a certificate");
    let crowd = vec![peer::chain(&many.certificate_pem)[0].clone(); 49];
    let ca = gateway.world.server_root.certificate_pem();
    for version in [&TLS12, &TLS13] {
        for (shown, key) in [
            (peer::chain(&stranger.chain_pem), &stranger),
            // Another device's certificate.
            (peer::chain(&device.chain_pem), &stranger),
            (crowd.clone(), &many),
        ] {
            let client = peer::client(&ca, version, Some((shown, key)));
            assert!(peer::alert(&client, gateway.app.addresses.token.unwrap()).await.is_some());
        }
    }
    for (identity, code) in
        [(&stranger, "chain_untrusted"), (device, "signature_invalid"), (&many, "chain_too_long")]
    {
        let lines = audited(identity);
        assert_eq!(lines.len(), 2, "one for each TLS version: {lines:#?}");
        for line in lines {
            assert_eq!(
                (&line["event"], &line["outcome"]),
                (&"handshake".into(), &"refused".into())
            );
            assert_eq!(line["refusal"], code, "{line}");
            assert!(line["detail"].is_string() && line["serial"].is_string(), "{line}");
            let address = line["address"].as_str();
            assert!(address.is_some_and(|a| a.starts_with("127.0.0.1:")), "{line}");
            assert!(line["connection"].is_u64(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_changes_and_refusals_are_audited() {
    capture();
    let (token, name) = ("read-only token", "reader");
    let sha256 = Fingerprint::of(token.as_bytes());
    let entry = format!(
        "[[directory.tokens]]\nname = \"{name}\"\nsha256 = \"{sha256}\"\n\
         permissions = [\"MutualTlsOauthConfiguration.Read.All\"]\n\n[[graph]]"
    );
    let gateway = Gateway::start(&[], |text| text.replacen("[[graph]]", &entry, 1)).await;
    let made = gateway.create(gateway.domain(SubjectField::SanDns)).await;
    let one = gateway.directory(&format!("/{made}"));
    let ask = async |method: Method| {
        let request = gateway.http.request(method, &one).bearer_auth(token);
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!((ask(Method::GET).await, ask(Method::DELETE).await), (200, 403));
    let lines: Vec<Value> = log()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .filter(|line| line["target"] == "audit")
        .collect();
    let denied: Vec<_> = lines.iter().filter(|line| line["actor"] == name).collect();
    let [denied] = &denied[..] else { panic!("{denied:#?}") };
    assert_eq!(
        (&denied["event"], &denied["outcome"], &denied["permission"]),
        (&"directory".into(), &"refused".into(), &"WriteMutualTls".into())
    );
    let created = lines.iter().find(|line| line["object"] == *made).expect("a line");
    assert_eq!(created["outcome"], "changed");
    assert_eq!(created["object_type"], "mutualTlsOauthConfiguration");
    assert_eq!(created["action"], "create");
    assert!(!log().contains(token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_before_a_certificate_is_audited_with_the_reason() {
    capture();
    let gateway = Gateway::start(&[], |text| text).await;
    // A client that trusts another root ends the handshake.
    let other = gateway.domain(SubjectField::SanDns).root.certificate_pem();
    let client = peer::client(&other, &TLS13, None);
    let tcp = tokio::net::TcpStream::connect(gateway.app.addresses.public.unwrap())
        .await
        .expect("a stream");
    let address = tcp.local_addr().expect("an address").to_string();
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    client.connect(name, tcp).await.expect_err("an unknown authority");
    let record = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            let log = log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) =
                lines.into_iter().find(|l| l["target"] == "audit" && l["address"] == *address)
            {
                return line;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    let record = record.await.expect("an audit record");
    assert_eq!((&record["event"], &record["outcome"]), (&"handshake".into(), &"refused".into()));
    let detail = record["detail"].as_str().expect("a detail");
    assert!(detail.contains("public listener") && detail.contains("UnknownCA"), "{detail}");
}
