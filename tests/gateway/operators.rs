//! Operators' permissions and actions.

use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Fingerprint;
use reqwest::Method;
use reqwest::header::AUTHORIZATION;

use super::{Gateway, IN_FORCE, now};

const OPERATOR: &str = "the operator's token";
const SCRAPER: &str = "the scraper's token";

/// Exposes the admin plane on every address, with TLS and tokens.
fn expose_admin(text: &str) -> String {
    let token = |name: &str, token: &str, permission: &str| {
        let hash = Fingerprint::of(token.as_bytes());
        format!(
            "[[admin.tokens]]\nname = \"{name}\"\nsha256 = \"{hash}\"\npermissions = \
             [\"{permission}\"]\n"
        )
    };
    let tokens = token("operator", OPERATOR, "operate") + &token("scraper", SCRAPER, "read");
    let (head, admin) = text.split_once("[admin]\nlisten = \"127.0.0.1:").expect("loopback");
    format!("{head}[admin]\ntls = true\nlisten = \"0.0.0.0:{admin}\n{tokens}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exposed_admin_plane_requires_tokens_over_tls() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| expose_admin(&text)).await;
    let port = gateway.app.addresses.admin.port();
    let base = format!("https://localhost:{port}");
    let ask = async |method: Method, path: &str, token: Option<&str>| {
        let request = gateway.http.request(method, format!("{base}{path}"));
        let request = match token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        request.send().await.expect("an answer").status().as_u16()
    };
    assert!(gateway.http.get(format!("http://localhost:{port}/livez")).send().await.is_err());
    assert_eq!(ask(Method::GET, "/livez", None).await, 200);
    assert_eq!(ask(Method::GET, "/metrics", None).await, 401);
    assert_eq!(ask(Method::GET, "/metrics", Some(SCRAPER)).await, 200);
    assert_eq!(ask(Method::POST, "/crl/refresh", None).await, 401);
    assert_eq!(ask(Method::POST, "/crl/refresh", Some("guess")).await, 401);
    assert_eq!(ask(Method::POST, "/crl/refresh", Some(SCRAPER)).await, 403);
    assert_eq!(ask(Method::POST, "/crl/refresh", Some(OPERATOR)).await, 200);

    let file = |name: &str, text: &str| {
        let path = gateway.world.dir.join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let ca = file("admin-ca.pem", &gateway.world.server_root.certificate_pem());
    let token = file("admin-token", &format!("{OPERATOR}\n"));
    let to = format!("--admin {base} --admin-ca-bundle {ca}");
    let (code, text) = gateway.program(&format!("crl refresh {to}")).await;
    assert!(code == Some(1) && text.contains("401"), "{text}");
    let (code, text) =
        gateway.program(&format!("crl refresh {to} --admin-token-file {token}")).await;
    assert!(code == Some(0) && text.contains("dns-issuer.crl"), "{text}");
    assert!(text.contains("require for CN="), "{text}");
    let plain = format!("crl refresh --admin http://gw.example --admin-token-file {token}");
    let (code, text) = gateway.program(&plain).await;
    assert!(code == Some(1) && text.contains("plain text"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rejects_an_older_list_until_the_operator_accepts_the_rollback() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    gateway.until_ready().await;
    let domain = gateway.domain(SubjectField::SanDns);
    let url = format!("http://{}/dns-issuer-delta.crl", gateway.world.ports.crl);
    let refresh = async |more: &str| gateway.program(&format!("crl refresh {url}{more}")).await;
    let publish = |number| {
        gateway.world.revoke(domain, &domain.devices[2], number, now()).expect("published");
    };
    publish(7);
    let (code, text) = refresh("").await;
    assert!(code == Some(0) && text.contains("number 7"), "{text}");
    publish(6);
    let (code, text) = refresh("").await;
    assert!(code == Some(1) && text.contains("number 7"), "{text}");
    let (code, text) = gateway.program("crl refresh").await;
    assert!(code == Some(1) && text.contains("dns-issuer.crl"), "{text}");
    let (code, text) = refresh(" --accept-rollback").await;
    assert!(code == Some(0) && text.contains("number 6"), "{text}");
    let (code, _) = gateway.program("crl refresh --accept-rollback").await;
    assert_eq!(code, Some(64), "the option requires one address");
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_connections_of_revoked_devices_only() {
    let close = |text: String| text.replace("[token]\n", "[token]\nclose_refused = true\n");
    let gateway = Gateway::start(&[SubjectField::SanDns], close).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let (neighbour, revoked) = (&domain.devices[0], &domain.devices[2]);
    let mut idle = gateway.connect(&gateway.device(domain, 2)).await;
    let mut beside = gateway.connect(&gateway.device(domain, 0)).await;
    assert_eq!(idle.token(&revoked.subject_id).await.expect("an answer").status, 200);
    assert_eq!(beside.token(&neighbour.subject_id).await.expect("an answer").status, 200);

    gateway.world.revoke(domain, revoked, 3, now()).expect("published");
    let start = Instant::now();
    // The connection stays idle.
    while !idle.is_closed() {
        assert!(start.elapsed() < IN_FORCE, "still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!beside.is_closed());
    assert_eq!(beside.token(&neighbour.subject_id).await.expect("an answer").status, 200);
}
