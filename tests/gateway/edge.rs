//! The edge: TLS alerts of refusals, and connection limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::pki::{Authority, Subject};
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::time::Timestamp;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Gateway, now, peer};

const YEAR: i64 = 366 * 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_alert_in_tls_1_2_and_1_3() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let device = &domain.devices[0].identity;
    let subject = Subject {
        common_name: "device".into(),
        dns: vec!["device.example".into()],
        ..Subject::default()
    };
    let made_at = |years: i64| {
        domain.issuer.client(&subject, Timestamp(now().0 + years * YEAR)).expect("a certificate")
    };
    let (expired, early) = (made_at(-2), made_at(2));
    let server = domain.issuer.server(&subject, now()).expect("a certificate");
    let stranger = Authority::root("Some Root", now()).expect("a root");
    let stranger = stranger.client(&subject, now()).expect("a certificate");
    let nameless = Subject { common_name: "nameless".into(), ..Subject::default() };
    let nameless = domain.issuer.client(&nameless, now()).expect("a certificate");
    let revoked = &domain.devices[2];
    gateway.world.revoke(domain, revoked, 3, now()).expect("published");

    let of =
        |identity: &anchorgate::cli::quickstart::pki::Identity| peer::chain(&identity.chain_pem);
    let mut crowd = of(device);
    crowd.extend(std::iter::repeat_n(crowd[1].clone(), 48));
    let mut garbage = of(device);
    garbage[0] = garbage[0][..garbage[0].len() - 1].to_vec().into();
    let cases = [
        ("expired", Some((of(&expired), &expired)), AlertDescription::CertificateExpired),
        ("not yet valid", Some((of(&early), &early)), AlertDescription::CertificateExpired),
        (
            "server certificate",
            Some((of(&server), &server)),
            AlertDescription::UnsupportedCertificate,
        ),
        ("unknown CA", Some((of(&stranger), &stranger)), AlertDescription::UnknownCA),
        ("no subject", Some((of(&nameless), &nameless)), AlertDescription::CertificateUnknown),
        ("too many", Some((crowd, device)), AlertDescription::CertificateUnknown),
        ("unreadable", Some((garbage, device)), AlertDescription::BadCertificate),
        // Another device's certificate, without its key.
        ("impostor", Some((of(device), &stranger)), AlertDescription::DecryptError),
    ];
    let ca = gateway.world.server_root.certificate_pem();
    let address = gateway.app.addresses.token.unwrap();
    for version in [&TLS12, &TLS13] {
        // TLS 1.2 has no alert of its own for it (RFC 5246 section 7.4.6).
        let missing = match version.version {
            rustls::ProtocolVersion::TLSv1_2 => AlertDescription::HandshakeFailure,
            _ => AlertDescription::CertificateRequired,
        };
        for (case, shown, alert) in cases.iter().chain([&("no certificate", None, missing)]) {
            let client = peer::client(&ca, version, shown.clone());
            let got = peer::alert(&client, address).await;
            assert_eq!(got, Some(*alert), "{case}, {:?}", version.version);
        }
        let good = peer::client(&ca, version, Some((of(device), device)));
        assert_eq!(peer::alert(&good, address).await, None, "{:?}", version.version);
        let client = peer::client(&ca, version, Some((of(&revoked.identity), &revoked.identity)));
        let start = Instant::now();
        // Waits until the list is in force.
        while peer::alert(&client, address).await != Some(AlertDescription::CertificateRevoked) {
            assert!(start.elapsed() < super::IN_FORCE, "not revoked, {:?}", version.version);
        }
    }
    let (_, metrics) = gateway.admin("/metrics").await;
    for code in [
        "certificate_missing",
        "certificate_expired",
        "certificate_not_yet_valid",
        "extended_key_usage",
        "chain_untrusted",
        "subject_missing",
        "chain_too_long",
        "certificate_malformed",
        "signature_invalid",
        "certificate_revoked",
    ] {
        let counter = format!(r#"{{listener="token",result="refused",code="{code}"}}"#);
        assert!(metrics.contains(&counter), "{code} is not counted: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_listener_serves_a_new_connection_in_place_of_the_one_idle_longest() {
    let two = |text: String| text.replace("[token]\n", "[token]\nconnections = 2\n");
    let gateway = Gateway::start(&[SubjectField::SanIp], two).await;
    let domain = gateway.domain(SubjectField::SanIp);
    let id = domain.devices[0].subject_id.clone();
    let device = gateway.device(domain, 0);
    let mut connections = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect(&device).await;
        assert_eq!(connection.token(&id).await.expect("an answer").status, 200);
        connections.push(connection);
    }
    // A request that arrives before the connection has noticed is answered.
    let start = Instant::now();
    while connections[0].token(&id).await.is_ok() {
        assert!(start.elapsed() < super::IN_FORCE, "the first connection stays open");
    }
    for connection in &mut connections[1..] {
        assert_eq!(connection.token(&id).await.expect("an answer").status, 200);
    }
    let (_, metrics) = gateway.admin("/metrics").await;
    let idle = r#"connections_not_kept_total{listener="token",reason="idle"} 1"#;
    assert!(metrics.contains(idle), "{metrics}");
}

/// The time limit counts from accept: connections that wait for a handshake permit do not add up their
/// waits.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_at_the_handshake_limit() {
    let one =
        |text: String| text.replace("[token]\n", "[token]\nhandshake = \"1s\"\nhandshakes = 1\n");
    let gateway = Gateway::start(&[], one).await;
    let start = Instant::now();
    let mut silent = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut stream =
            TcpStream::connect(gateway.app.addresses.token.unwrap()).await.expect("accepted");
        silent.spawn(async move { stream.read_u8().await.map_err(|error| error.kind()) });
    }
    while let Some(closed) = silent.join_next().await {
        assert_eq!(closed.expect("no panic"), Err(std::io::ErrorKind::UnexpectedEof));
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "closed after {took:?}");
    assert!(took < Duration::from_secs(5), "the last was closed after {took:?}");
    // The last connection is counted shortly after it is closed.
    let timeouts = r#"{listener="token",result="failed",code="timeout"} 8"#;
    let counted = async {
        while !gateway.admin("/metrics").await.1.contains(timeouts) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), counted).await.expect("all timeouts are counted");
}

/// Neither a peer that sends nothing nor one that stops after its ClientHello holds the only turn.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_stop_delay_nobody() {
    let few = |text: String| {
        let bounds = "[token]\nhandshake = \"60s\"\nhandshakes = 2\nlisten";
        text.replace("[token]\nlisten", bounds)
    };
    let gateway = Gateway::start(&[SubjectField::SanDns], few).await;
    let address = gateway.app.addresses.token.unwrap();
    let identity = &gateway.domain(SubjectField::SanDns).devices[0].identity;
    let shown = (peer::chain(&identity.chain_pem), identity);
    let ca = gateway.world.server_root.certificate_pem();
    let client = peer::client(&ca, &TLS13, Some(shown));
    let name = || ServerName::try_from("localhost").expect("a name");
    let connect = || async { TcpStream::connect(address).await.expect("connected") };
    let mut stopped = Vec::new();
    for _ in 0..16 {
        stopped.push(connect().await);
    }
    for _ in 0..2 {
        let mut stream = connect().await;
        let mut hello = Vec::new();
        let mut session = ClientConnection::new(Arc::clone(client.config()), name()).expect("one");
        session.write_tls(&mut hello).expect("a ClientHello");
        stream.write_all(&hello).await.expect("sent");
        // The answer shows that the handshake has begun.
        stream.read_u8().await.expect("a ServerHello");
        stopped.push(stream);
    }
    let stream = connect().await;
    timeout(Duration::from_secs(30), client.connect(name(), stream))
        .await
        .expect("no wait for others")
        .expect("a handshake");
}
