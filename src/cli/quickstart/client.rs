//! A device: TLS connections with a client certificate, and requests on them.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ALL_VERSIONS, ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::tls::provider;

/// TLS settings of a device: its certificate, and the sessions that it can resume.
#[derive(Clone)]
pub struct Device {
    config: Arc<ClientConfig>,
}

/// One open connection of a device.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
    /// Cancelled when the driver has dropped the connection.
    ended: CancellationToken,
    /// The TLS session was resumed, without sending the certificate.
    pub resumed: bool,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// JSON of the body; null for an empty body.
    pub body: serde_json::Value,
}

impl Device {
    /// A device with this chain and key, that trusts servers with a certificate of `ca_pem`.
    ///
    /// # Errors
    /// A text is not valid PEM, or the key does not belong to the certificate.
    pub fn new(ca_pem: &str, chain_pem: &str, key_pem: &str) -> anyhow::Result<Self> {
        Self::with_versions(ALL_VERSIONS, ca_pem, chain_pem, key_pem)
    }

    /// Like [`Device::new`], with these TLS versions.
    ///
    /// # Errors
    /// As [`Device::new`].
    pub(super) fn with_versions(
        versions: &[&'static SupportedProtocolVersion],
        ca_pem: &str,
        chain_pem: &str,
        key_pem: &str,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(ca?)?;
        }
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .context("certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).context("private key")?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.resumption = Resumption::in_memory_sessions(8);
        Ok(Self { config: Arc::new(config) })
    }

    /// Opens a connection to `address`.  The server's certificate must be for `localhost`.
    ///
    /// # Errors
    /// The connection or the handshake fails.  With TLS 1.3, a refusal of the client certificate
    /// becomes visible only with the first request.
    pub async fn connect(&self, address: SocketAddr) -> anyhow::Result<Connection> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let tls = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await?;
        let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let driver = tokio::spawn(async move {
            let _guard = guard;
            connection.await
        });
        Ok(Connection { sender, driver, ended, resumed })
    }
}

impl Connection {
    /// True if either end has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.driver.is_finished()
    }

    /// Requests a token.
    ///
    /// # Errors
    /// The connection is closed, or the body of the response is not JSON.
    pub async fn token(&mut self, client_id: &str) -> anyhow::Result<Answer> {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "client_credentials")
            .append_pair("client_id", client_id)
            .finish();
        self.post("/oauth2/token", form).await
    }

    /// Posts a form.
    ///
    /// # Errors
    /// As for [`Connection::token`].
    pub async fn post(&mut self, path: &str, form: String) -> anyhow::Result<Answer> {
        let request = Request::post(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(form)))?;
        let sent = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let sent = tokio::select! {
            biased;
            sent = sent => sent.map_err(Some),
            // hyper does not always report the end of the connection to a request sent at that
            // moment.
            () = self.ended.cancelled() => Err(None),
        };
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Err(self.end_reason(error).await),
        };
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let body = if body.is_empty() {
            serde_json::Value::Null
        } else {
            serde_json::from_slice(&body).context("the response is not JSON")?
        };
        Ok(Answer { status, body })
    }

    /// The reason why the connection ended: the error of TLS, if there is one.
    async fn end_reason(&mut self, error: Option<hyper::Error>) -> anyhow::Error {
        const ENDED: &str = "the connection ended";
        let of_connection = match (&mut self.driver).await {
            Ok(Err(of_connection)) => Some(of_connection),
            _ => error,
        };
        of_connection.map_or_else(|| anyhow!(ENDED), |why| anyhow::Error::new(why).context(ENDED))
    }
}
