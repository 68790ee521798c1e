//! Every kind of credential with an endpoint that requires it, over the network.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anchorgate::graph::auth::{
    AssertionStyle, AuthError, Credential, ManagedIdentity, TokenEndpoint, TokenSource,
};
use anchorgate::graph::client::{Client, FetchOptions, Fetched, Limits};
use anchorgate::http::outbound::{ClientSettings, ProxyChoice, ServerAuthorities};
use anchorgate::runtime::log::Secret;
use anchorgate::trust::configurations::Device;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::Url;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::misbehaving::{Misbehaving, Reply};

fn http() -> ClientSettings {
    ClientSettings {
        authorities: ServerAuthorities::Only(Vec::new()),
        proxy: ProxyChoice::Direct,
        connect: Duration::from_secs(5),
        read: Some(Duration::from_secs(5)),
        request: Some(Duration::from_secs(5)),
    }
}

fn endpoint(server: &Misbehaving) -> TokenEndpoint {
    let url = Url::parse(&format!("{}/contoso/oauth2/v2.0/token", server.url)).expect("a URL");
    TokenEndpoint { url, client_id: "app-1".into(), scope: "https://graph.example/.default".into() }
}

fn file(folder: &TempDir, name: &str, contents: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, contents).expect("written");
    path
}

#[allow(clippy::needless_pass_by_value)] // Literals read better by value.
fn token(value: &str, expires_in: Value) -> Reply {
    Reply::json(&json!({"token_type": "Bearer", "expires_in": expires_in, "access_token": value}))
}

async fn acquire(credential: Credential) -> Result<String, AuthError> {
    let token = TokenSource::new(credential, http()).token().await?;
    Ok(token.secret.expose().to_owned())
}

fn form(body: &str, name: &str) -> Option<String> {
    url::form_urlencoded::parse(body.as_bytes())
        .find(|(n, _)| n == name)
        .map(|(_, v)| v.into_owned())
}

#[tokio::test]
async fn a_certificate_credential_sends_an_assertion() {
    let (server, folder) = (Misbehaving::start().await, tempfile::tempdir().expect("a folder"));
    let key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let pkcs8: Pkcs8V1Der<'_> = key.as_der().expect("PKCS#8");
    let pem = |label: &str, der: &[u8]| {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    };
    let credential = Credential::ClientCertificate {
        endpoint: endpoint(&server),
        certificate: file(&folder, "c.pem", pem("CERTIFICATE", b"leaf").as_bytes()),
        key: file(&folder, "k.pem", pem("PRIVATE KEY", pkcs8.as_ref()).as_bytes()),
        style: AssertionStyle::Ps256,
        send_chain: false,
    };
    server.answer(|_, _| token("good", json!(3600)));
    assert_eq!(acquire(credential).await.ok().as_deref(), Some("good"));
    let body = server.seen()[0].body.clone();
    assert_eq!(form(&body, "grant_type").as_deref(), Some("client_credentials"));
    assert_eq!(form(&body, "client_id").as_deref(), Some("app-1"));
    assert_eq!(form(&body, "scope").as_deref(), Some("https://graph.example/.default"));
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    assert_eq!(form(&body, "client_assertion_type").as_deref(), Some(kind));
    let jwt = form(&body, "client_assertion").expect("an assertion");
    let header = URL_SAFE_NO_PAD.decode(jwt.split('.').next().expect("a header")).expect("base64");
    assert!(String::from_utf8_lossy(&header).contains("\"alg\":\"PS256\""));
}

#[tokio::test]
async fn a_workload_identity_reads_its_file_for_every_token() {
    let (server, folder) = (Misbehaving::start().await, tempfile::tempdir().expect("a folder"));
    let token_file = file(&folder, "token", b"first\n");
    // Tokens expire at once: each use requests another.
    server.answer(|seen, _| {
        token(&form(&seen.body, "client_assertion").expect("an assertion"), json!(0))
    });
    let credential = Credential::WorkloadIdentity { endpoint: endpoint(&server), token_file };
    let source = TokenSource::new(credential, http());
    assert_eq!(source.token().await.expect("a token").secret.expose(), "first");
    file(&folder, "token", b"second");
    assert_eq!(source.token().await.expect("a token").secret.expose(), "second");
    std::fs::remove_file(folder.path().join("token")).expect("removed");
    let error = source.token().await.err().map(|e| e.to_string()).expect("no file, no token");
    assert!(error.contains("token: No such file"), "{error}");
}

#[tokio::test]
async fn managed_identities_use_the_local_endpoints() {
    let server = Misbehaving::start().await;
    let url = Url::parse(&format!("{}/metadata/identity/oauth2/token", server.url)).expect("a URL");
    server.answer(|seen, _| {
        assert!(seen.head.contains("metadata: true\r\n"));
        assert!(
            seen.target.contains("api-version=2018-02-01&resource=https%3A%2F%2Fgraph.example")
        );
        assert!(seen.target.ends_with("&client_id=user-1"));
        token("imds", json!("3599"))
    });
    let resource = "https://graph.example".to_owned();
    let credential = Credential::InstanceMetadata {
        url: url.clone(),
        resource: resource.clone(),
        identity: ManagedIdentity::ClientId("user-1".into()),
    };
    assert_eq!(acquire(credential).await.ok().as_deref(), Some("imds"));
    server.answer(|seen, _| {
        assert!(seen.head.contains("x-identity-header: h3ader\r\n"));
        assert!(seen.target.contains("api-version=2019-08-01"));
        token("app-service", json!(3599))
    });
    let credential = Credential::AppService {
        url,
        header: Secret::new("h3ader"),
        resource,
        identity: ManagedIdentity::System,
    };
    assert_eq!(acquire(credential).await.ok().as_deref(), Some("app-service"));
}

#[tokio::test]
async fn concurrent_callers_share_one_token_request() {
    let server = Misbehaving::start().await;
    server.answer(|_, n| token(&format!("t{n}"), json!(3600)));
    let secret = Secret::new("s");
    let credential = Credential::ClientSecret { endpoint: endpoint(&server), secret };
    let source = Arc::new(TokenSource::new(credential, http()));
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let source = Arc::clone(&source);
            tokio::spawn(async move { source.token().await.expect("a token") })
        })
        .collect();
    let mut last = None;
    for one in waiting {
        last = Some(one.await.expect("ended"));
    }
    assert_eq!(server.seen().len(), 1);
    // All callers report the token as rejected at once: that is one new token as well.
    let refused = last.expect("a token");
    let renewing: Vec<_> = (0..20)
        .map(|_| {
            let (source, refused) = (Arc::clone(&source), refused.clone());
            tokio::spawn(async move { source.replace(&refused, None).await.expect("a token") })
        })
        .collect();
    for one in renewing {
        assert_eq!(one.await.expect("ended").secret.expose(), "t1");
    }
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_hub_accepts_a_client_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ca_key, leaf_key) =
        (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a certificate");
    let leaf = CertificateParams::new(["localhost".to_owned()]).expect("names");
    let leaf =
        leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &ca_key)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(ca_pem.der().clone()).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .expect("a verifier");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("a configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("its address").port();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut tls) = acceptor.accept(stream).await else { continue };
            let client = tls.get_ref().1.peer_certificates().map_or(0, <[_]>::len);
            let mut request = vec![0; 4096];
            let read = tls.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]);
            assert_eq!(client, 1, "a certificate in every handshake");
            let body = if request.contains("POST /oauth2/token") {
                "{\"access_token\":\"hub\",\"expires_in\":300}"
            } else {
                assert!(request.contains("authorization: Bearer hub\r\n"), "{request}");
                "{\"value\":[]}"
            };
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = tls.write_all(head.as_bytes()).await;
            let _ = tls.shutdown().await;
        }
    });
    let url = Url::parse(&format!("https://localhost:{port}/oauth2/token")).expect("a URL");
    let credential = Credential::MutualTls {
        endpoint: TokenEndpoint { url, client_id: "edge-1".into(), scope: "x".into() },
        certificate: file(&folder, "c.pem", leaf.pem().as_bytes()),
        key: file(&folder, "k.pem", leaf_key.serialize_pem().as_bytes()),
    };
    let settings = ClientSettings {
        authorities: ServerAuthorities::Only(ca_pem.pem().into_bytes()),
        ..http()
    };
    let source = TokenSource::new(credential.clone(), settings);
    assert_eq!(source.token().await.expect("a token").secret.expose(), "hub");
    // The token is bound to the certificate, so the directory gets the certificate as well.
    let base = Url::parse(&format!("https://localhost:{port}")).expect("a URL");
    let bundle = Some(ca_pem.pem().into_bytes());
    let client = Client::new(&base, credential, bundle, Limits::default()).expect("a client");
    let fetched = client.fetch::<Device>(&FetchOptions::default()).await.expect("a list");
    assert!(matches!(fetched, Fetched::List { entries, .. } if entries.is_empty()));
}

#[tokio::test]
async fn token_errors_do_not_contain_the_secret() {
    let server = Misbehaving::start().await;
    let secret = Secret::new("s3cret");
    let credential = Credential::ClientSecret { endpoint: endpoint(&server), secret };
    for (reply, why) in [
        (
            Reply::Plain(
                401,
                "",
                b"{\"error\":\"invalid_client\",\"error_description\":\"AADSTS7000215\\nx\"}"
                    .to_vec(),
            ),
            "invalid_client AADSTS7000215",
        ),
        (Reply::Plain(500, "", b"<html>".to_vec()), "500"),
        (Reply::Plain(302, "location: http://127.0.0.1:1/\r\n", vec![]), "302"),
        (Reply::json(&json!({"expires_in": 1})), "no usable access_token"),
        (token("a\r\nx: y", json!(1)), "no usable access_token"),
        (Reply::Plain(200, "", vec![b' '; 300_000]), "larger than 262144 bytes"),
        (Reply::Bytes(vec![]), "token endpoint 127.0.0.1"),
    ] {
        server.answer(move |_, _| reply.clone());
        let error = acquire(credential.clone()).await.expect_err(why).to_string();
        assert!(
            error.contains(why) && !error.contains("s3cret") && !error.contains('\n'),
            "{error}"
        );
    }
    assert!(!format!("{credential:?}").contains("s3cret"));
}
