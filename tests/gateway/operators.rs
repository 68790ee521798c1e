//! Who may operate the gateway, and what operators may have it do to open connections.

use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Fingerprint;
use reqwest::Method;
use reqwest::header::AUTHORIZATION;

use super::{Gateway, IN_FORCE, now};

const OPERATOR: &str = "the operator's token";
const SCRAPER: &str = "the scraper's token";

/// The admin plane on every address, with TLS and tokens.
fn wide(text: &str) -> String {
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
async fn a_wide_admin_plane_asks_for_tokens_over_tls() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| wide(&text)).await;
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
async fn a_list_that_goes_back_is_refused_until_the_operator_takes_it_anew() {
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
    let (code, text) = refresh(" --anew").await;
    assert!(code == Some(0) && text.contains("number 6"), "{text}");
    let (code, _) = gateway.program("crl refresh --anew").await;
    assert_eq!(code, Some(64), "of one address only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_hung_up_on_and_nobody_else_is() {
    let close = |text: String| text.replace("[token]\n", "[token]\nclose_refused = true\n");
    let gateway = Gateway::start(&[SubjectField::SanDns], close).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let (neighbour, doomed) = (&domain.devices[0], &domain.devices[2]);
    let mut idle = gateway.connect(&gateway.device(domain, 2)).await;
    let mut beside = gateway.connect(&gateway.device(domain, 0)).await;
    assert_eq!(idle.token(&doomed.subject_id).await.expect("an answer").status, 200);
    assert_eq!(beside.token(&neighbour.subject_id).await.expect("an answer").status, 200);

    gateway.world.revoke(domain, doomed, 3, now()).expect("published");
    let start = Instant::now();
    // Nothing is asked on it meanwhile.
    while !idle.is_closed() {
        assert!(start.elapsed() < IN_FORCE, "still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!beside.is_closed());
    assert_eq!(beside.token(&neighbour.subject_id).await.expect("an answer").status, 200);
}
