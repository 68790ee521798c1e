use super::*;
use std::sync::Arc;

use http_body_util::BodyExt;
use tokio::sync::{mpsc, watch};

use crate::runtime::clock;
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
    Config { listen, tls: !open_reads, socket: None, tokens, open_reads }
}

/// State without configurations, whose TLS configurations are not used.
pub(super) fn live() -> Live {
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
    let lists = crl::Source::new(config, in_force, updates, metrics, clock::system());
    let (_, lists) = lists.expect("a source");
    let parts = Parts {
        ready: ready.clone(),
        registry: Registry::default(),
        live: live(),
        lists,
        sources: watch::channel(Vec::new()).1,
        keys: keyring::Handle::default(),
        configuration: reload::Handle::new(reload::Status::default()).0,
        store: None,
    };
    Admin::new(&self::config("127.0.0.1:0", &[]), parts)
}

fn head(method: &Method, path: &str) -> Head {
    let request = Request::builder().method(method).uri(path).body(()).expect("a request");
    request.into_parts().0
}

async fn send(admin: &Admin, method: Method, path: &str, body: &'static str) -> (u16, String) {
    let reply = admin.answer(&head(&method, path), Bytes::from_static(body.as_bytes())).await;
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
    assert!(metrics.contains("trust_generation 0\n") && !metrics.contains("# EOF"), "{metrics}");
    let mut head = head(&Method::GET, "/metrics");
    let open = header::HeaderValue::from_static("application/openmetrics-text; version=1.0.0");
    head.headers.insert(header::ACCEPT, open);
    let reply = admin.answer(&head, Bytes::new()).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(reply.headers()[header::CONTENT_TYPE], kind);
    let metrics = reply.into_body().collect().await.expect("whole").to_bytes();
    assert!(metrics.ends_with(b"# EOF\n"), "{metrics:?}");
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

/// Status of a POST of `caller` with these headers, from its head alone.
fn admitted_as(
    caller: Caller,
    config: &Config,
    path: &str,
    pairs: &[(header::HeaderName, &'static str)],
) -> u16 {
    let mut request = Request::post(path);
    for (name, value) in pairs {
        request = request.header(name, *value);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    match Gate::new(config).admit(caller, &head) {
        Ok(()) => 200,
        Err(reply) => reply.status().as_u16(),
    }
}

fn admitted(config: &Config, path: &str, pairs: &[(header::HeaderName, &'static str)]) -> u16 {
    admitted_as(Caller::Network, config, path, pairs)
}

#[test]
fn requests_of_web_pages_are_refused() {
    let config = config("127.0.0.1:0", &[]);
    let host = |host| admitted(&config, "/status.json", &[(header::HOST, host)]);
    for good in ["127.0.0.1:9090", "localhost", "LocalHost.:1", "[::1]:9090", "127.9.9.9"] {
        assert_eq!(host(good), 200, "{good}");
    }
    for foreign in ["evil.example:9090", "localhost.evil.example", "10.0.0.1", "localhostx"] {
        assert_eq!(host(foreign), 403, "{foreign}");
    }
    for malformed in ["", ":9090", "[::1]evil", "[127.0.0.1]", "evil@localhost", "localhost:x:1"] {
        assert_eq!(host(malformed), 400, "{malformed}");
    }
    assert_eq!(admitted(&config, "/status.json", &[]), 403);
    let origin = [(header::HOST, "localhost"), (header::ORIGIN, "https://evil.example")];
    assert_eq!(admitted(&config, "/status.json", &origin), 403);
    assert_eq!(admitted_as(Caller::Socket(0), &config, "/trust/sync", &origin), 403);
    // The target of a request has a host too.
    let target = |url, host| admitted(&config, url, &[(header::HOST, host)]);
    assert_eq!(target("http://localhost/status.json", "localhost"), 200);
    assert_eq!(target("http://evil.example/status.json", "localhost"), 403);
    assert_eq!(target("http://localhost/status.json", "evil.example"), 403);
}

#[test]
fn actions_need_a_token_or_the_socket_on_loopback_too() {
    let host = [(header::HOST, "localhost")];
    let guess = [(header::HOST, "localhost"), (header::AUTHORIZATION, "Bearer guess")];
    for tokens in [&[][..], &["operator"]] {
        let config = config("127.0.0.1:9090", tokens);
        assert_eq!(admitted(&config, "/status.json", &host), 200);
        for path in ["/trust/sync", "/trust/approve", "/crl/refresh", "/keys/revoke", "/verify"] {
            assert_eq!(admitted(&config, path, &host), 401, "{path}");
            assert_eq!(admitted(&config, path, &guess), 401, "{path}");
            assert_eq!(admitted_as(Caller::Socket(0), &config, path, &[]), 200, "{path}");
        }
    }
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

#[test]
fn the_form_may_have_the_origin_of_its_own_page_only() {
    let config = config("127.0.0.1:0", &[]);
    let origin = |path: &str, origin| {
        admitted(&config, path, &[(header::HOST, "localhost:9090"), (header::ORIGIN, origin)])
    };
    assert_eq!(origin("/explain", "http://localhost:9090"), 200);
    assert_eq!(origin("/explain", "https://LOCALHOST:9090"), 200);
    for foreign in ["null", "http://localhost", "http://localhost:9091", "http://evil.example", ""]
    {
        assert_eq!(origin("/explain", foreign), 403, "{foreign}");
    }
    for path in ["/", "/status.json", "/trust/sync", "/trust/approve"] {
        assert_eq!(origin(path, "http://localhost:9090"), 403, "{path}");
    }
    // A name that was rebound to loopback has the origin of its own page.
    let rebound = [(header::HOST, "evil.example"), (header::ORIGIN, "http://evil.example")];
    assert_eq!(admitted(&config, "/explain", &rebound), 403);
}

#[test]
fn a_browser_is_asked_for_the_token_of_a_page() {
    let wide = config("0.0.0.0:9090", &["operator"]);
    let challenge = |path: &str| {
        let (head, ()) = Request::get(path).body(()).expect("a request").into_parts();
        let reply = Gate::new(&wide).admit(Caller::Network, &head).expect_err("refused");
        reply.headers()[header::WWW_AUTHENTICATE].to_str().expect("text").to_owned()
    };
    for path in ["/", "/status", "/status.css", "/explain"] {
        assert!(challenge(path).starts_with("Basic realm="), "{path}");
    }
    assert_eq!(challenge("/status.json"), "Bearer");
    // The password of a browser permits no action.
    let basic = [(header::AUTHORIZATION, "Basic eDpvcGVyYXRvcg==")];
    assert_eq!(admitted(&wide, "/explain", &basic), 200);
    assert_eq!(admitted(&wide, "/trust/sync", &basic), 401);
}

#[tokio::test]
async fn the_page_is_html_that_cannot_run_scripts() {
    let admin = admin(&Ready::default());
    for path in ["/", "/status", "/status.css"] {
        let reply = admin.answer(&head(&Method::GET, path), Bytes::new()).await;
        assert_eq!(reply.status(), 200, "{path}");
        let policy = reply.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text");
        assert!(policy.starts_with("default-src 'none'; style-src 'self';"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(reply.headers()[header::CACHE_CONTROL], "no-store");
        assert_eq!(send(&admin, Method::POST, path, "").await.0, 405, "{path}");
    }
    let (_, page) = send(&admin, Method::GET, "/", "").await;
    assert!(page.contains("<h1>anchorgate</h1>") && page.contains("generation 0"), "{page}");
    assert_eq!(send(&admin, Method::GET, "/explain", "").await.0, 405);
}

#[tokio::test]
async fn the_form_needs_the_token_of_its_page() {
    let admin = admin(&Ready::default());
    let (_, page) = send(&admin, Method::GET, "/", "").await;
    let token =
        page.split("name=\"token\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
    let token = token.expect("a token");
    let ask = async |form: String| {
        let reply = admin.answer(&head(&Method::POST, "/explain"), Bytes::from(form)).await;
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.expect("whole").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    };
    for forged in ["", "token=", "token=00000000-0000-0000-0000-000000000000", "chain=x"] {
        let (status, text) = ask(forged.to_owned()).await;
        assert!(status == 403 && text.contains("send it again"), "{forged}: {status} {text}");
    }
    let (status, text) = ask(format!("token={token}&chain=%3Cb%3E")).await;
    assert!(status == 400 && text.contains("not a chain of certificates"), "{status} {text}");
    let (status, text) = ask(format!("token={token}&chain=")).await;
    assert!(status == 200 && text.contains("certificate_missing"), "{status} {text}");
}
