//! The status page of a running gateway, as a browser without scripts sees it.

use std::time::{Duration, Instant};

use anchorgate::trust::subject::SubjectField;
use reqwest::header::{CONTENT_SECURITY_POLICY, ORIGIN};
use serde_json::json;

use super::{Gateway, IN_FORCE};

/// The form's token in a page.
fn token(page: &str) -> &str {
    let after = page.split("name=\"token\" value=\"").nth(1).expect("a form");
    after.split('"').next().expect("an end")
}

/// Sends the form, as a page of `origin` would.
async fn explain(gateway: &Gateway, origin: &str, token: &str, chain: &str) -> (u16, String) {
    let url = format!("http://{}/explain", gateway.app.addresses.admin);
    let form = [("token", token), ("chain", chain)];
    let request = gateway.http.post(url).header(ORIGIN, origin).form(&form);
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_shows_traffic_and_explains_refusals() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    gateway.until_ready().await;
    let stranger = gateway.device(gateway.domain(SubjectField::SanIp), 0);
    let refused = stranger.connect(gateway.app.addresses.token.unwrap()).await;
    if let Ok(mut connection) = refused {
        // With TLS 1.3 the client learns of the refusal when it reads.
        connection.token("x").await.expect_err("refused in the handshake");
    }
    let start = Instant::now();
    let page = loop {
        let (status, page) = gateway.admin("/").await;
        assert_eq!(status, 200);
        if page.contains("<code>chain_untrusted</code>") {
            break page;
        }
        assert!(start.elapsed() < IN_FORCE, "the refusal is not shown: {page}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for expected in [
        "good\">ready<",
        "aria-label=\"Tokens issued: ",
        "No path to an anchor was found.",
        "dns-issuer.crl",
        "freshness good",
        "<h3>quickstart</h3>",
        "<strong>anchor</strong> CN=",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("<script"), "{page}");

    let admin = format!("http://{}", gateway.app.addresses.admin);
    let chain = |file: &str| {
        std::fs::read_to_string(gateway.world.dir.join("pki").join(file)).expect("a chain")
    };
    let (status, text) = explain(&gateway, &admin, token(&page), &chain("ip-1-chain.pem")).await;
    assert!(status == 200 && text.contains("chain_untrusted"), "{status} {text}");
    let accepted = chain("dns-1-chain.pem").replace('\n', "\r\n");
    let (status, text) = explain(&gateway, &admin, token(&page), &accepted).await;
    assert!(status == 200 && text.contains("good\">accepted<"), "{status} {text}");
    assert!(text.contains("<ol class=\"path\"><li>CN="), "{text}");
    let (status, text) = explain(&gateway, "http://evil.example", token(&page), "").await;
    assert!(status == 403 && text.contains("Origin"), "{status} {text}");
    let (status, _) = explain(&gateway, &admin, "guess", "").await;
    assert_eq!(status, 403);
    let long = "x".repeat(600 * 1024);
    assert_eq!(explain(&gateway, &admin, token(&page), &long).await.0, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_escapes_names_of_a_hostile_directory() {
    let gateway = Gateway::start(&[], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let mut configuration = gateway.world.configuration(domain);
    configuration["displayName"] = json!("<script>alert('x')</script>\u{202e}\"");
    let created = gateway.http.post(gateway.directory("")).json(&configuration);
    let created = created.bearer_auth(&gateway.world.directory_token).send().await;
    assert_eq!(created.expect("an answer").status(), 201);
    gateway.wait_until_served(domain).await;
    let url = format!("http://{}/status", gateway.app.addresses.admin);
    let answer = gateway.http.get(url).send().await.expect("an answer");
    let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'self'"), "{policy}");
    let page = answer.text().await.expect("a text");
    let escaped = "<h3>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\\u{202e}&quot;</h3>";
    assert!(page.contains(escaped) && !page.contains("<script"), "{page}");
}
