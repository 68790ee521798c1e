//! Operators' permissions and actions.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::certificate::Fingerprint;
use reqwest::Method;
use reqwest::header::AUTHORIZATION;
use tokio::net::TcpStream;

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
    let (port, admin) = admin.split_once('\n').expect("a line");
    let (_, admin) = admin.split_once('\n').expect("the line of the token");
    format!("{head}[admin]\ntls = true\nlisten = \"0.0.0.0:{port}\n{admin}\n{tokens}")
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
async fn actions_need_a_token_on_loopback_and_none_on_the_socket() {
    let gateway = Gateway::start(&[], |text| text).await;
    let base = format!("http://{}", gateway.app.addresses.admin);
    let socket = gateway.world.dir.join("data/admin.sock");
    let mode = std::fs::metadata(&socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for command in ["trust sync", "crl refresh", "trust show", "ready", "crl show"] {
        let (code, text) = gateway.program(command).await;
        assert_eq!(code, Some(0), "{command}: {text}");
        // An action through the address needs a token, a read does not.
        let is_action = ["trust sync", "crl refresh"].contains(&command);
        let (code, text) = gateway.program(&format!("{command} --admin {base}")).await;
        assert_eq!(code, Some(i32::from(is_action)), "{command}: {text}");
        assert!(!is_action || text.contains("a bearer token is required"), "{text}");
        let file = gateway.world.dir.join("admin-token");
        let with = format!("{command} --admin {base} --admin-token-file {}", file.display());
        let (code, text) = gateway.program(&with).await;
        assert_eq!(code, Some(0), "{command}: {text}");
    }
    // A page of another origin, and a name that was rebound to loopback.
    for (host, status) in [("evil.example", 403), ("evil@127.0.0.1", 400), ("localhost", 200)] {
        let request = gateway.http.get(format!("{base}/status.json")).header("host", host);
        assert_eq!(request.send().await.expect("an answer").status(), status, "{host}");
    }
    let missing = gateway.world.dir.join("none.sock");
    let (code, text) = gateway.program(&format!("ready --admin unix:{}", missing.display())).await;
    assert!(code == Some(1) && text.contains("none.sock"), "{text}");
    assert!(gateway.app.stop().await);
    assert!(!socket.exists(), "removed at the stop");
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

/// Peers that send nothing, or stop after their first bytes, hold no operator back.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_do_not_block_the_admin_plane() {
    let gateway = Gateway::start(&[], |text| expose_admin(&text)).await;
    let port = gateway.app.addresses.admin.port();
    let mut silent = Vec::new();
    // The number of concurrent handshakes, and as many again.
    for n in 0..32 {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
        if n % 2 == 1 {
            // The start of a ClientHello of 512 bytes.
            stream.writable().await.expect("open");
            stream.try_write(&[22, 3, 1, 2, 0, 1, 0]).expect("sent");
        }
        silent.push(stream);
    }
    let url = format!("https://localhost:{port}/status.json");
    let asked = gateway.http.get(url).bearer_auth(SCRAPER).timeout(IN_FORCE).send().await;
    assert_eq!(asked.expect("an answer").status(), 200);
    drop(silent);
}
