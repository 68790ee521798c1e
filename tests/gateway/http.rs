//! HTTP of the listeners: hosts, framing, and responses to requests whose body is still arriving.

use std::net::SocketAddr;

use anchorgate::trust::subject::SubjectField;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Gateway, peer};

/// Sends a request, and returns the status of the response and its header.
async fn send(client: &TlsConnector, address: SocketAddr, request: &[u8]) -> (u16, String) {
    exchange(peer::connect(client, address).await.expect("a handshake"), request).await
}

async fn exchange(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    request: &[u8],
) -> (u16, String) {
    stream.write_all(request).await.expect("the server reads the request");
    let mut response = Vec::new();
    let mut buffer = [0; 4096];
    while !response.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await.expect("a response");
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&response));
        response.extend_from_slice(&buffer[..read]);
    }
    let text = String::from_utf8_lossy(&response).into_owned();
    (text[9..12].parse().expect("a status"), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_serve_their_hosts_and_answer_before_a_body_has_arrived() {
    let with_names =
        |text: String| text.replace("[tls]\n", "[tls]\nnames = [\"*.devices.example\"]\n");
    let gateway = Gateway::start(&[SubjectField::SanDns], with_names).await;
    let ca = gateway.world.server_root.certificate_pem();
    let identity = &gateway.domain(SubjectField::SanDns).devices[0].identity;
    let device = peer::client(&ca, &TLS13, Some((peer::chain(&identity.chain_pem), identity)));
    let addresses = gateway.app.addresses;
    let directory = addresses.directory.expect("a directory");
    for address in [addresses.token.unwrap(), addresses.public.unwrap(), directory] {
        let address = SocketAddr::from(([127, 0, 0, 1], address.port()));
        for (host, status) in [
            ("", 400),
            ("host: localhost\r\nhost: localhost\r\n", 400),
            ("host: evil@localhost\r\n", 400),
            ("host: [::1]evil\r\n", 400),
            ("host: evil.example\r\n", 421),
            ("host: 192.0.2.1\r\n", 421),
            ("host: localhost\r\ntransfer-encoding: gzip, chunked\r\n", 501),
            ("host: localhost\r\ntransfer-encoding: chunked, chunked\r\n", 400),
            // The path is not known, or needs a token: a handler answered.
            ("host: LOCALHOST:1\r\n", 0),
            ("host: 127.0.0.1\r\n", 0),
            ("host: gw.devices.example\r\n", 0),
        ] {
            let request = format!("GET /nowhere HTTP/1.1\r\n{host}\r\n");
            let (got, text) = send(&device, address, request.as_bytes()).await;
            let expected = if status == 0 { got == 404 || got == 401 } else { got == status };
            assert!(expected, "{address} {host:?}: {text}");
        }
        let (got, text) =
            send(&device, address, b"GET /#x HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert_eq!(got, 400, "{text}");
        for size in [100_000, 4_000_000] {
            let head = format!(
                "DELETE /oauth2/token HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"
            );
            let request = [head.as_bytes(), &vec![b'x'; size]].concat();
            let (got, text) = send(&device, address, &request).await;
            assert!([401, 404, 405].contains(&got), "{address}: {text}");
            assert!(text.contains("\r\nconnection: close\r\n"), "{address}: {text}");
        }
    }
    for host in ["evil@127.0.0.1", "[::1]evil"] {
        let stream = TcpStream::connect(addresses.admin).await.expect("connected");
        let request = format!("GET /livez HTTP/1.1\r\nhost: {host}\r\n\r\n");
        assert_eq!(exchange(stream, request.as_bytes()).await.0, 400, "{host}");
    }
}
