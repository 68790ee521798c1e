//! Connections through a load balancer that sends the PROXY protocol, version 2.

use std::net::SocketAddr;

use anchorgate::trust::subject::SubjectField;
use crc::{CRC_32_ISCSI, Crc};
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Gateway, IN_FORCE, peer};

/// Makes a header for a client's IPv4 address, with a checksum.
fn header(client: [u8; 4]) -> Vec<u8> {
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let addresses = [&client[..], &[198, 51, 100, 1], &[0x9c, 0x40], &[0x20, 0xfb]].concat();
    let field = [0x03, 0, 4, 0, 0, 0, 0];
    let length = [0, u8::try_from(addresses.len() + field.len()).expect("short")];
    let mut header = [&signature[..], &[0x21, 0x11], &length, &addresses, &field].concat();
    let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&header);
    let place = header.len() - 4;
    header[place..].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Requests a token on a connection that begins with `header`.  Returns the status, or `None` if
/// there was no handshake.
async fn token(
    client: &TlsConnector,
    address: SocketAddr,
    header: &[u8],
    client_id: &str,
) -> Option<u16> {
    let mut tcp = TcpStream::connect(address).await.expect("connected");
    tcp.write_all(header).await.expect("sent");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = client.connect(name, tcp).await.ok()?;
    let form = format!("grant_type=client_credentials&client_id={client_id}");
    let request = format!(
        "POST /oauth2/token HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
         application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    response.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_that_a_listed_balancer_tells_counts_and_no_other() {
    let edit = |text: String| {
        let listed = "[token]\nproxy_protocol_from = [\"127.0.0.0/8\"]\n";
        let text = text.replace("[token]\n", listed);
        format!("{text}\n[rate_limits]\naddress = \"1/1h\"\n")
    };
    let gateway = Gateway::start(&[], edit).await;
    let domain = gateway.domain(SubjectField::SanDns);
    gateway.create(domain).await;
    let device = &domain.devices[0];
    let ca = gateway.world.server_root.certificate_pem();
    let chain = peer::chain(&device.identity.chain_pem);
    let client = peer::client(&ca, &TLS13, Some((chain, &device.identity)));
    let at = gateway.app.addresses.token.unwrap();
    let token_from = |address| {
        let (client, id) = (&client, &device.subject_id);
        async move { token(client, at, &header(address), id).await }
    };

    // Until the configuration is in force, the handshake is refused before a request is counted.
    let start = std::time::Instant::now();
    while token_from([192, 0, 2, 1]).await != Some(200) {
        assert!(start.elapsed() < IN_FORCE, "not served");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(token_from([192, 0, 2, 1]).await, Some(429), "the second from this address");
    assert_eq!(token_from([192, 0, 2, 2]).await, Some(200), "another address");

    // A health check of the balancer itself; the request on it is from the balancer's address.
    let local = [&header([0; 4])[..12], &[0x20, 0, 0, 0]].concat();
    assert_eq!(token(&client, at, &local, &device.subject_id).await, Some(200));

    let mut changed = header([192, 0, 2, 3]);
    changed[19] = 4;
    for wrong in [&changed[..], b""] {
        assert_eq!(token(&client, at, wrong, &device.subject_id).await, None);
    }
    // The public listener has no balancer, and a header is not a TLS record.
    let public = gateway.app.addresses.public.unwrap();
    assert_eq!(token(&client, public, &header([192, 0, 2, 4]), "x").await, None);
    // Without clients that send assertions, it has no token endpoint.
    assert_eq!(token(&client, public, b"", "x").await, Some(404));

    let (_, metrics) = gateway.admin("/metrics").await;
    let failed = "{listener=\"token\",result=\"failed\",code=\"proxy_header\"} 2";
    assert!(metrics.contains(failed), "{metrics}");
}
