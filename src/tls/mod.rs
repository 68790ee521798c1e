//! Rank 3: the edge.  Every rustls type of the server side is in here.

pub mod acceptor;
pub mod closing;
pub mod metrics;
mod per_address;
pub mod tickets;
pub mod verifier;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use crate::runtime::live::{EdgeTls, WeakLive};
use crate::tls::metrics::Metrics;
use crate::tls::tickets::Secrets;
use crate::tls::verifier::Verifier;

/// What the token listener does with a bad client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// Refuses it in the handshake, with the alert that fits.
    #[default]
    Required,
    /// Completes the handshake and answers each request 401 with the refusal's code, for
    /// commissioning and support.
    Report,
}

/// Protocol settings of the edge.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// What a bad client certificate meets.
    pub client_auth: ClientAuth,
    /// TLS 1.3 only; TLS 1.2 is otherwise accepted with ECDHE, AEAD and extended master secret.
    pub tls13_only: bool,
    /// No session resumption.
    pub no_resumption: bool,
    /// What tickets are sealed with, for sessions that resume on every replica; none: drawn here.
    pub tickets: Secrets,
}

/// Why a TLS configuration was not built.
#[derive(Debug, thiserror::Error)]
#[error("TLS configuration: {0}")]
pub struct TlsError(#[from] rustls::Error);

/// The one crypto provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The listeners' TLS configurations.  To be built again when a parameter changes, and only then: a
/// new one forgets all sessions whose tickets were not sealed with [`Config::tickets`].
///
/// # Errors
/// What rustls does not accept.
pub fn edge(
    config: &Config,
    identity: &Arc<CertifiedKey>,
    live: &WeakLive,
    metrics: &Metrics,
) -> Result<EdgeTls, TlsError> {
    let provider = provider();
    let verifier: Arc<dyn ClientCertVerifier> = match config.client_auth {
        ClientAuth::Required => {
            Arc::new(Verifier::required(live.clone(), metrics.clone(), &provider))
        }
        ClientAuth::Report => Arc::new(Verifier::report(metrics.clone(), &provider)),
    };
    let versions: &[_] = if config.tls13_only { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder =
        || ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(identity)));
    let mut token =
        builder()?.with_client_cert_verifier(verifier).with_cert_resolver(resolver.clone());
    let mut directory = builder()?
        .with_client_cert_verifier(Arc::new(Verifier::report(metrics.clone(), &provider)))
        .with_cert_resolver(resolver.clone());
    let mut public = builder()?.with_no_client_auth().with_cert_resolver(resolver);
    let listeners = [("token", &mut token), ("directory", &mut directory), ("public", &mut public)];
    for (name, server) in listeners {
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Without extended master secret a TLS 1.2 session can be spliced (RFC 7627).
        server.require_ems = true;
        // TLS 1.2 session IDs would be resumed from memory whatever the tickets say.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = if config.no_resumption { 0 } else { 1 };
        if !config.no_resumption {
            // One ticketer each: rustls does not bind a ticket to the verifier, and a session of the
            // public listener has no certificate.
            server.ticketer = match config.tickets.is_empty() {
                true => aws_lc_rs::Ticketer::new()?,
                false => config.tickets.ticketer(name)?,
            };
        }
    }
    Ok(EdgeTls { token: Arc::new(token), directory: Arc::new(directory), public: Arc::new(public) })
}
