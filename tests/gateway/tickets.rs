//! Devices whose TLS library cannot read the session tickets of TLS 1.3.

use std::time::Instant;

use anchorgate::trust::subject::SubjectField;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Gateway, IN_FORCE, peer};

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_on_its_ticket_gets_a_token_on_its_next_connection() {
    let gateway = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    let domain = gateway.domain(SubjectField::SanDns);
    let (address, ca) =
        (gateway.app.addresses.token.unwrap(), gateway.world.server_root.certificate_pem());
    let device = &domain.devices[0];
    let client = peer::client(
        &ca,
        &TLS13,
        Some((peer::chain(&device.identity.chain_pem), &device.identity)),
    );
    let body = format!("grant_type=client_credentials&client_id={}", device.subject_id);
    let request = format!(
        "POST /oauth2/token HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );

    // The device sends its request, reads the ticket, which comes before the response, and rejects it.  The
    // bytes are not a valid record; for the gateway, that is the same as an alert.
    let mut stream = peer::connect(&client, address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.read_u8().await.expect("a response");
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 1);
    let record = [[0x17, 3, 3, 0, 32].as_slice(), &[7; 32]].concat();
    let tcp = stream.get_mut().0;
    tcp.write_all(&record).await.expect("sent");
    // The gateway closes, with a reset or not.
    let _ = tcp.read_to_end(&mut Vec::new()).await;
    let counter = |name: &str, count: u64| format!("{name}{{listener=\"token\"}} {count}\n");
    let failed = counter("anchorgate_closed_after_ticket_total", 1);
    let start = Instant::now();
    while !gateway.admin("/metrics").await.1.contains(&failed) {
        assert!(start.elapsed() < IN_FORCE, "the failure is not counted");
    }

    let mut stream = peer::connect(&client, address).await.expect("connected");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
    let withheld = counter("anchorgate_tickets_withheld_total", 1);
    assert!(gateway.admin("/metrics").await.1.contains(&withheld));

    // Another device with the same TLS library still resumes.
    let other = gateway.device(domain, 1);
    let id = &domain.devices[1].subject_id;
    assert_eq!(gateway.connect(&other).await.token(id).await.expect("an answer").status, 200);
    assert!(gateway.connect(&other).await.resumed);
}
