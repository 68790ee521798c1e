//! A TLS client with full control over version, certificate and key, and with access to alerts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anchorgate::cli::quickstart::pki::Identity;
use anchorgate::tls::provider;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, ClientConfig, Error, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Presents this chain and signs with this key, even if they do not belong together.
#[derive(Debug)]
struct FixedIdentity(Arc<CertifiedKey>);

impl ResolvesClientCert for FixedIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The certificates of a PEM text.
pub fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(|c| c.expect("a certificate")).collect()
}

/// A client that trusts `ca_pem` and presents the chain with the key of the identity, or no certificate.
pub fn client(
    ca_pem: &str,
    version: &'static SupportedProtocolVersion,
    shown: Option<(Vec<CertificateDer<'static>>, &Identity)>,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for ca in chain(ca_pem) {
        roots.add(ca).expect("a root");
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some((chain, identity)) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
            let key = provider().key_provider.load_private_key(key).expect("a key");
            let shown = FixedIdentity(Arc::new(CertifiedKey::new(chain, key)));
            builder.with_client_cert_resolver(Arc::new(shown))
        }
    };
    // Every handshake is a full one, so that the certificate is presented and judged.
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

/// Makes a handshake with the server at `address`, up to the client's completion.
pub async fn connect(
    client: &TlsConnector,
    address: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    client.connect(ServerName::try_from("localhost").expect("a name"), tcp).await
}

/// The alert with which the server rejects a handshake; `None` if it responds to a request.
pub async fn alert(client: &TlsConnector, address: SocketAddr) -> Option<AlertDescription> {
    let outcome = async {
        let mut stream = connect(client, address).await?;
        // A TLS 1.3 server decides after the client has completed the handshake.
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        stream.read_u8().await
    };
    let error = outcome.await.err()?;
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => Some(*alert),
        _ => panic!("no alert: {error}"),
    }
}
