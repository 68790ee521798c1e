use super::*;
use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::sync::{mpsc, watch};

use crate::runtime::live::{Active, ListenerTls};
use crate::token::keys::{Algorithm, SigningKey, SigningKeys};
use crate::trust::snapshot::Snapshot;
use crate::x509::certificate::Fingerprint;

fn config(listen: &str, tokens: &[&str]) -> Config {
    let token = |name: &&str| Token {
        name: (*name).to_owned(),
        sha256: Fingerprint::of(name.as_bytes()).0,
        permissions: vec![Permission::Operate],
    };
    let listen: SocketAddr = listen.parse().expect("an address");
    let (tokens, open_reads) = (tokens.iter().map(token).collect(), listen.ip().is_loopback());
    Config { listen, tls: !open_reads, tokens, open_reads }
}

/// State without configurations, whose TLS configurations are not used.
fn live() -> Live {
    let key = rcgen::KeyPair::generate().expect("a key");
    let signing = SigningKey::from_pkcs8(Algorithm::Es256, &key.serialize_der());
    let keys = SigningKeys::new(Arc::new(signing.expect("a key")), &[]).expect("keys");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
    let tls = Arc::new(tls);
    let (token, directory, public) = (Arc::clone(&tls), Arc::clone(&tls), tls);
    let active = Active {
        trust: Arc::new(Snapshot::default()),
        keys: Arc::new(keys),
        policy: Arc::default(),
        tls: Arc::new(ListenerTls { token, directory, public, hosts: Arc::default() }),
    };
    Live::start(|_| Ok::<_, ()>(active)).expect("a cell").0
}

/// An admin plane without sources, whose CRL source has stopped.
fn admin(ready: &Ready) -> Admin {
    let (_, in_force) = watch::channel(Default::default());
    let (updates, _) = mpsc::channel(1);
    let (config, metrics) = (crl::Config::default(), crl::Metrics::default());
    let lists = crl::Source::new(config, in_force, updates, metrics, crl::system_clock());
    let (_, lists) = lists.expect("a source");
    let parts = Parts {
        ready: ready.clone(),
        registry: Registry::default(),
        live: live(),
        lists,
        sources: watch::channel(Vec::new()).1,
        keys: keyring::Handle::default(),
        configuration: reload::Handle::new(reload::Status::default()).0,
    };
    Admin::new(&self::config("127.0.0.1:0", &[]), parts)
}

async fn send(admin: &Admin, method: Method, path: &str, body: &'static str) -> (u16, String) {
    let reply = admin.answer(&method, path, Bytes::from_static(body.as_bytes())).await;
    let status = reply.status();
    let body = reply.into_body().collect().await.expect("whole").to_bytes();
    (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn readiness_names_the_missing_parts() {
    let ready = Ready::default();
    let latch = ready.latch("trust");
    let admin = admin(&ready);
    let (status, body) = send(&admin, Method::GET, "/readyz", "").await;
    assert_eq!((status, body.contains("trust")), (503, true));
    drop(latch);
    assert_eq!(send(&admin, Method::GET, "/readyz", "").await.0, 200);
}

#[tokio::test]
async fn routes_by_path_and_method() {
    let admin = admin(&Ready::default());
    for (method, path, status) in [
        (Method::GET, "/livez", 200),
        (Method::POST, "/livez", 405),
        (Method::GET, "/trust/sync", 405),
        (Method::POST, "/trust/sync", 200),
        (Method::GET, "/x", 404),
    ] {
        assert_eq!(send(&admin, method, path, "").await.0, status, "{path}");
    }
    let (_, status) = send(&admin, Method::GET, "/status.json", "").await;
    assert!(status.contains(r#""generation":0"#), "{status}");
    let (_, metrics) = send(&admin, Method::GET, "/metrics", "").await;
    assert!(metrics.contains("trust_generation 0") && metrics.ends_with("# EOF\n"), "{metrics}");
}

#[tokio::test]
async fn an_action_rejects_a_body_that_is_not_valid() {
    let admin = admin(&Ready::default());
    for (path, body, status, expected) in [
        ("/verify", "", 400, "missing field `chainPem`"),
        ("/verify", r#"{"chainPem":"","at":"soon"}"#, 400, "`soon` is not a time"),
        ("/verify", r#"{"chainPem":"-----BEGIN CERTIFICATE-----"}"#, 400, "not valid PEM"),
        ("/verify", r#"{"chainPem":""}"#, 200, "reject"),
        ("/verify", r#"{"chainPem":"","tenant":"x"}"#, 400, "unknown field `tenant`"),
        ("/trust/sync", "{", 400, "the request body"),
        ("/trust/diff", r#"{"answer":{}}"#, 400, "no directory is configured"),
        ("/trust/diff", "", 400, "missing field `answer`"),
        ("/trust/approve", r#"{"source":"x"}"#, 404, "no source is called `x`"),
        ("/trust/approve", r#"{"source":7}"#, 400, "expected a string"),
        ("/trust/approve", r#"{"source":"x","digest":7}"#, 400, "expected a string"),
        ("/crl/refresh", r#"{"acceptRollback":true}"#, 400, "needs one address"),
        ("/config/reload", r#"{"force":true}"#, 400, "unknown field `force`"),
        ("/config/reload", "", 409, "the gateway is stopping"),
        ("/config/diff", r#"{"toml":7}"#, 400, "expected a string"),
        ("/keys/rotate", "", 409, "the signing keys do not rotate"),
        ("/keys/revoke", "", 400, "missing field `kid`"),
        ("/keys/revoke", r#"{"kid":"x"}"#, 409, "the signing keys do not rotate"),
    ] {
        let (got, text) = send(&admin, Method::POST, path, body).await;
        assert!(got == status && text.contains(expected), "{path} {body}: {got} {text}");
    }
}

/// Status of a POST with these headers, from its head alone.
fn admitted(config: &Config, path: &str, pairs: &[(header::HeaderName, &'static str)]) -> u16 {
    let headers = pairs
        .iter()
        .map(|(n, v)| (n.clone(), header::HeaderValue::from_static(v)))
        .collect::<HeaderMap>();
    match Gate::new(config).admit(&Method::POST, path, &headers) {
        Ok(()) => 200,
        Err(reply) => reply.status().as_u16(),
    }
}

#[test]
fn requests_of_web_pages_are_refused() {
    let config = config("127.0.0.1:0", &[]);
    let status = |pairs: &[_]| admitted(&config, "/trust/sync", pairs);
    assert_eq!(status(&[(header::HOST, "127.0.0.1:9090")]), 200);
    assert_eq!(status(&[(header::HOST, "localhost")]), 200);
    assert_eq!(status(&[(header::HOST, "[::1]:9090")]), 200);
    assert_eq!(status(&[]), 403);
    assert_eq!(status(&[(header::HOST, "evil.example:9090")]), 403);
    assert_eq!(
        status(&[(header::HOST, "localhost"), (header::ORIGIN, "https://evil.example")]),
        403
    );
}

#[test]
fn every_path_except_probes_needs_a_token() {
    let host = (header::HOST, "gw.example:9090");
    let with = (header::AUTHORIZATION, "Bearer operator");
    let wide = config("0.0.0.0:9090", &["operator"]);
    let local = config("127.0.0.1:9090", &["operator"]);
    let localhost = (header::HOST, "localhost");
    for (config, path, pairs, status) in [
        (&wide, "/livez", vec![host.clone()], 200),
        (&wide, "/readyz", vec![host.clone()], 200),
        (&wide, "/metrics", vec![host.clone()], 401),
        (&wide, "/status.json", vec![host.clone()], 401),
        (&wide, "/trust/sync", vec![host.clone()], 401),
        (&wide, "/nowhere", vec![host.clone()], 401),
        (&wide, "/metrics", vec![host.clone(), with.clone()], 200),
        (&wide, "/trust/sync", vec![host.clone(), with.clone()], 200),
        (&wide, "/trust/sync", vec![with.clone(), (header::ORIGIN, "https://x.example")], 403),
        (&local, "/metrics", vec![localhost.clone()], 200),
        (&local, "/trust/sync", vec![localhost.clone()], 401),
        (&local, "/trust/sync", vec![localhost, with.clone()], 200),
        (&local, "/livez", vec![host.clone()], 403),
        (&local, "/trust/sync", vec![host, with], 200),
    ] {
        assert_eq!(admitted(config, path, &pairs), status, "{path} {pairs:?}");
    }
}
