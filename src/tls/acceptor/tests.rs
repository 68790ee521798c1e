//! Tests of the acceptor with real connections.

use super::*;
use crate::http::reply;
use crate::tls::Resumption;
use crate::tls::closing::tests::{Issuer, authority_params, live, live_with, snapshot};
use crate::trust::snapshot::Snapshot;
use hyper::StatusCode;
use rcgen::{
    CertificateParams, CertifiedIssuer, KeyPair, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error as TlsError, HandshakeKind,
    SignatureScheme, SupportedProtocolVersion,
};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Accepts every server certificate.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crate::tls::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Returns a client that presents a new certificate below `issuer`, with a key for `algorithm`.
pub(in crate::tls) fn client(
    issuer: &Issuer,
    algorithm: &'static SignatureAlgorithm,
) -> ClientConfig {
    client_of(issuer, algorithm, rustls::DEFAULT_VERSIONS)
}

fn client_of(
    issuer: &Issuer,
    algorithm: &'static SignatureAlgorithm,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let params = CertificateParams::new(["device.example".to_owned()]).expect("a name");
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let leaf = params.signed_by(&key, issuer).expect("a leaf").der().clone();
    let chain = vec![leaf, issuer.der().clone()];
    let key = key.serialize_der().try_into().expect("a key");
    ClientConfig::builder_with_provider(crate::tls::provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_auth_cert(chain, key)
        .expect("a configuration")
}

fn device(issuer: &Issuer) -> TlsConnector {
    TlsConnector::from(Arc::new(client(issuer, &PKCS_ECDSA_P256_SHA256)))
}

/// Sends a request on a new connection and returns the cipher suite of the connection.
async fn request(device: &TlsConnector, address: SocketAddr) -> CipherSuite {
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = device.connect(name, stream).await.expect("a handshake");
    let suite = stream.get_ref().1.negotiated_cipher_suite().expect("negotiated").suite();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.expect("a response");
    assert!(response.starts_with(b"HTTP/1.1 200"));
    suite
}

#[tokio::test]
async fn connections_share_their_intermediates() {
    let (trust, root) = snapshot(None);
    let key = KeyPair::generate().expect("a key");
    let issuer = CertifiedIssuer::signed_by(authority_params("intermediate"), key, &root);
    let issuer = issuer.expect("an intermediate");
    let (live, _writer) = live(trust);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (peers, mut served) = mpsc::unbounded_channel();
    let handler = move |peer, _| {
        let _ = peers.send(peer);
        async { reply::empty(StatusCode::OK) }
    };
    let edge = TlsListener {
        name: "token",
        tls: |tls| &tls.token,
        bounds: watch::channel(Bounds::default()).1,
        live,
        metrics: Metrics::default(),
        keeps_chains: true,
        memory: Pressure::default(),
        open: None,
    };
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(edge, listener, stop.clone(), handler));
    let (first, second) = (device(&issuer), device(&issuer));
    let mut chains = Vec::new();
    for (device, resumed) in [(&first, false), (&second, false), (&first, true)] {
        // The client prefers AES-256 with SHA-384.
        let suite = request(device, address).await;
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        let peer: Arc<Peer> = served.recv().await.expect("a request");
        assert_eq!(peer.resumed, resumed);
        chains.push(peer.chain.clone().expect("a chain"));
    }
    let [a, b, again] = &chains[..] else { panic!("{} chains", chains.len()) };
    assert_ne!(a.leaf().fingerprint, b.leaf().fingerprint);
    assert_eq!(a.leaf().fingerprint, again.leaf().fingerprint);
    for other in [b, again] {
        assert!(Arc::ptr_eq(&a.certificates()[1], &other.certificates()[1]));
    }
    stop.cancel();
    server.await.expect("ended");
}

/// A token listener with its own metrics, until it is stopped.
struct Server {
    address: SocketAddr,
    metrics: Metrics,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _writer: crate::runtime::live::Writer,
}

impl Server {
    async fn start(trust: Snapshot, resumption: Resumption) -> Self {
        let config = crate::tls::Config { resumption, ..crate::tls::Config::default() };
        let (live, writer) = live_with(trust, &config);
        let metrics = Metrics::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let edge = TlsListener {
            name: "token",
            tls: |tls| &tls.token,
            bounds: watch::channel(Bounds::default()).1,
            live,
            metrics: metrics.clone(),
            keeps_chains: true,
            memory: Pressure::default(),
            open: None,
        };
        let stop = CancellationToken::new();
        let handler = |_, _| async { reply::empty(StatusCode::OK) };
        let task = tokio::spawn(serve(edge, listener, stop.clone(), handler));
        Self { address, metrics, stop, task, _writer: writer }
    }

    /// Waits until this number of connections were closed after their ticket.
    async fn until_failed(&self, count: u64) {
        let counted = async {
            while self.metrics.count_tickets("token")[0] < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), counted).await.expect("a failure");
    }

    /// Stops the server when its connections have ended.  Returns the numbers of connections that were
    /// closed after their ticket, and of tickets withheld.
    async fn stop(self) -> [u64; 2] {
        self.stop.cancel();
        self.task.await.expect("ended");
        self.metrics.count_tickets("token")
    }
}

/// Makes a handshake and closes without a request, until the server has closed too.
async fn close_after_ticket(device: &TlsConnector, address: SocketAddr) {
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = device.connect(name, stream).await.expect("a handshake");
    stream.shutdown().await.expect("closed");
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.expect("the end"), 0);
}

#[tokio::test]
async fn clients_that_close_after_their_ticket_are_counted() {
    let (trust, root) = snapshot(None);
    for (resumption, is_silent, expected) in
        [(Resumption::Both, true, 1), (Resumption::Both, false, 0), (Resumption::Tls12, true, 0)]
    {
        let server = Server::start(trust.clone(), resumption).await;
        let device = device(&root);
        if is_silent {
            close_after_ticket(&device, server.address).await;
        } else {
            request(&device, server.address).await;
        }
        assert_eq!(server.stop().await, [expected, 0], "{resumption:?}");
    }
}

/// Sends a request on a new connection, without a memory of sessions if `device` has none, and returns the
/// number of TLS 1.3 tickets that came.
async fn tickets(device: &TlsConnector, address: SocketAddr) -> u32 {
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = device.connect(name, stream).await.expect("a handshake");
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.expect("a response");
    assert!(response.starts_with(b"HTTP/1.1 200"));
    stream.get_ref().1.tls13_tickets_received()
}

/// Returns a device that makes full handshakes only.
fn forgetful(issuer: &Issuer) -> TlsConnector {
    let mut config = client(issuer, &PKCS_ECDSA_P256_SHA256);
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn a_client_that_cannot_read_its_ticket_gets_no_other() {
    let (trust, root) = snapshot(None);
    let server = Server::start(trust, Resumption::Both).await;
    let wolf = forgetful(&root);
    close_after_ticket(&wolf, server.address).await;
    server.until_failed(1).await;
    assert_eq!(tickets(&wolf, server.address).await, 0);

    // After its request, it rejects the ticket.  The bytes are not a valid record, as an alert would be.
    let other = forgetful(&root);
    let stream = TcpStream::connect(server.address).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = other.connect(name, stream).await.expect("a handshake");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n").await.expect("sent");
    let tcp = stream.get_mut().0;
    tcp.write_all(&[
        0x17, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
    ])
    .await
    .expect("sent");
    // The server closes, with a reset or not.
    let _ = tcp.read_to_end(&mut Vec::new()).await;
    server.until_failed(2).await;
    assert_eq!(tickets(&other, server.address).await, 0);

    // The same library with another certificate is not affected, and goes on after it has resumed.
    let good = device(&root);
    assert_eq!(tickets(&good, server.address).await, 1);
    assert_eq!(tickets(&good, server.address).await, 1);
    assert_eq!(server.stop().await, [2, 2]);
}

#[tokio::test]
async fn sessions_of_a_version_resume_if_its_tickets_are_issued() {
    use rustls::version::{TLS12, TLS13};
    let (trust, root) = snapshot(None);
    for (resumption, of_tls12, of_tls13) in [
        (Resumption::Both, true, true),
        (Resumption::Tls12, true, false),
        (Resumption::Tls13, false, true),
        (Resumption::Off, false, false),
    ] {
        for (version, expected) in [(&TLS12, of_tls12), (&TLS13, of_tls13)] {
            let server = Server::start(trust.clone(), resumption).await;
            let config = client_of(&root, &PKCS_ECDSA_P256_SHA256, &[version]);
            let device = TlsConnector::from(Arc::new(config));
            request(&device, server.address).await;
            let stream = TcpStream::connect(server.address).await.expect("connected");
            let name = ServerName::try_from("localhost").expect("a name");
            let stream = device.connect(name, stream).await.expect("a handshake");
            let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, expected, "{resumption:?}, {:?}", version.version);
            drop(stream);
            server.stop().await;
        }
    }
}
