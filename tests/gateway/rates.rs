//! Rate limits of token requests.

use anchorgate::trust::subject::SubjectField;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Gateway, peer};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_above_its_rate_is_told_when_to_return_and_delays_no_other() {
    let edit = |text: String| format!("{text}\n[rate_limits]\nsubject = \"2/1h\"\n");
    let gateway = Gateway::start(&[SubjectField::SanDns], edit).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let [greedy, modest] = [&domain.devices[0], &domain.devices[1]];

    // The start has used one token of the first device.
    let mut connection = gateway.connect(&gateway.device(domain, 0)).await;
    let answer = connection.token(&greedy.subject_id).await.expect("a response");
    assert_eq!(answer.status, 200);
    let answer = connection.token(&greedy.subject_id).await.expect("a response");
    assert_eq!(answer.status, 429);
    assert_eq!(answer.body["error"], "temporarily_unavailable");
    assert!(answer.body.get("access_token").is_none());
    // The connection stays open.  A request that is not authorized is not counted.
    let answer = connection.token("unknown").await.expect("a response");
    assert_eq!(answer.status, 401);

    let ca = gateway.world.server_root.certificate_pem();
    let identity = &greedy.identity;
    let client = peer::client(&ca, &TLS13, Some((peer::chain(&identity.chain_pem), identity)));
    let mut stream =
        peer::connect(&client, gateway.app.addresses.token.unwrap()).await.expect("connected");
    let form = format!("grant_type=client_credentials&client_id={}", greedy.subject_id);
    let request = format!(
        "POST /oauth2/token HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
         application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    let response = response.to_lowercase();
    assert!(response.starts_with("http/1.1 429"), "{response}");
    let after = response.split("retry-after: ").nth(1).and_then(|rest| rest.lines().next());
    let seconds: u64 = after.expect("Retry-After").parse().expect("seconds");
    // A token is refilled in half an hour; the response may add half of that.
    assert!((1_700..=2_700).contains(&seconds), "{seconds}");

    let mut other = gateway.connect(&gateway.device(domain, 1)).await;
    assert_eq!(other.token(&modest.subject_id).await.expect("a response").status, 200);
    let (_, metrics) = gateway.admin("/metrics").await;
    let count = "anchorgate_rate_limited_requests_total{limit=\"subject\"} 2";
    assert!(metrics.contains(count), "{metrics}");
    assert!(metrics.contains("refusal=\"rate_limited\"} 2"), "{metrics}");
}
