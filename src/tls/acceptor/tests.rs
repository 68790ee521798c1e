//! Tests of the acceptor with real connections.

use super::*;
use crate::http::reply;
use crate::tls::Resumption;
use crate::tls::closing::tests::{Issuer, authority_params, live, live_with, snapshot};
use hyper::StatusCode;
use rcgen::{
    CertificateParams, CertifiedIssuer, KeyPair, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
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
    let params = CertificateParams::new(["device.example".to_owned()]).expect("a name");
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let leaf = params.signed_by(&key, issuer).expect("a leaf").der().clone();
    let chain = vec![leaf, issuer.der().clone()];
    let key = key.serialize_der().try_into().expect("a key");
    ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
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
        bounds: Bounds::default(),
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

#[tokio::test]
async fn clients_that_close_after_their_ticket_are_counted() {
    let (trust, root) = snapshot(None);
    for (resumption, is_silent, expected) in
        [(Resumption::Both, true, 1), (Resumption::Both, false, 0), (Resumption::Tls12, true, 0)]
    {
        let config = crate::tls::Config { resumption, ..crate::tls::Config::default() };
        let (live, _writer) = live_with(trust.clone(), &config);
        let metrics = Metrics::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let edge = TlsListener {
            name: "token",
            tls: |tls| &tls.token,
            bounds: Bounds::default(),
            live,
            metrics: metrics.clone(),
            keeps_chains: true,
            memory: Pressure::default(),
            open: None,
        };
        let stop = CancellationToken::new();
        let handler = |_, _| async { reply::empty(StatusCode::OK) };
        let server = tokio::spawn(serve(edge, listener, stop.clone(), handler));
        let device = device(&root);
        if is_silent {
            let stream = TcpStream::connect(address).await.expect("connected");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut stream = device.connect(name, stream).await.expect("a handshake");
            stream.shutdown().await.expect("closed");
            assert_eq!(stream.read_to_end(&mut Vec::new()).await.expect("the end"), 0);
        } else {
            request(&device, address).await;
        }
        stop.cancel();
        server.await.expect("ended");
        assert_eq!(metrics.count_closed_after_ticket("token"), expected, "{resumption:?}");
    }
}
