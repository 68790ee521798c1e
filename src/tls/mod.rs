//! TLS of the listeners.  All server-side rustls types are used here.

pub mod acceptor;
pub mod algorithms;
pub mod closing;
mod handshakes;
mod lingering;
pub mod metrics;
mod peer_chain;
mod proxied;
mod saturation;
pub mod small_tickets;
mod strangers;
pub mod ticket_readers;
mod ticket_slot;
pub mod tickets;
pub mod verifier;
mod wire;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use crate::runtime::hosts::ServedHosts;
use crate::runtime::live::{ListenerTls, WeakLive};
use crate::tls::algorithms::Algorithms;
use crate::tls::metrics::Metrics;
use crate::tls::small_tickets::{KnownCertificates, SmallTickets};
use crate::tls::ticket_readers::TicketReaders;
use crate::tls::tickets::Secrets;
use crate::tls::verifier::Verifier;
use crate::x509::certificate::Certificate;

/// Certificates that a process keeps for its tickets, unless replicas share its ticket keys.
pub(crate) const DEFAULT_LEAVES: usize = 100_000;

/// Handling of a refused client certificate on the token listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// Ends the handshake with the alert that matches the refusal.
    #[default]
    Required,
    /// Completes the handshake and answers each request with 401 and the refusal code, for
    /// commissioning and support.
    Report,
}

/// Session tickets that the listeners issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resumption {
    /// Tickets of TLS 1.2 and TLS 1.3.
    #[default]
    Both,
    /// Tickets of TLS 1.2 only.
    Tls12,
    /// Tickets of TLS 1.3 only.
    Tls13,
    /// No tickets.
    Off,
}

impl Resumption {
    /// All values, with their names in the configuration.
    pub const ALL: [(&str, Self); 4] =
        [("both", Self::Both), ("1.2", Self::Tls12), ("1.3", Self::Tls13), ("off", Self::Off)];
}

/// Protocol settings of the TLS listeners.
#[derive(Debug, Clone)]
pub struct Config {
    /// Handling of a refused client certificate.
    pub client_auth: ClientAuth,
    /// Accept TLS 1.3 only.  Otherwise TLS 1.2 is accepted with ECDHE, AEAD and extended master
    /// secret.
    pub tls13_only: bool,
    /// Cipher suites, in the order of preference, and key exchange groups.
    pub algorithms: Algorithms,
    /// Session tickets that are issued.
    pub resumption: Resumption,
    /// Secrets that seal tickets, so that sessions resume on every replica.  With no secret,
    /// each process generates its own keys.
    pub tickets: Secrets,
    /// Certificates that tickets name.
    pub known_certificates: KnownCertificates,
    /// Clients that may not be able to read tickets of TLS 1.3.
    pub ticket_readers: TicketReaders,
    /// Hosts that requests may be for, besides the names of the certificate.
    pub hosts: ServedHosts,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client_auth: ClientAuth::default(),
            tls13_only: false,
            algorithms: Algorithms::default(),
            resumption: Resumption::default(),
            tickets: Secrets::default(),
            known_certificates: KnownCertificates::new(DEFAULT_LEAVES),
            ticket_readers: TicketReaders::default(),
            hosts: ServedHosts::default(),
        }
    }
}

/// Error of building a TLS configuration.
#[derive(Debug, thiserror::Error)]
#[error("TLS configuration: {0}")]
pub struct TlsError(#[from] rustls::Error);

/// Returns the crypto provider of all TLS configurations.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Builds the TLS configurations of the listeners.
///
/// Build them again only when a parameter changes: a new configuration rejects all tickets that
/// were not sealed with [`Config::tickets`].
///
/// # Errors
/// rustls rejects the settings, or ticket keys cannot be derived.
pub fn build(
    config: &Config,
    identity: &Arc<CertifiedKey>,
    live: &WeakLive,
    metrics: &Metrics,
) -> Result<ListenerTls, TlsError> {
    let provider = Arc::new(config.algorithms.apply(&aws_lc_rs::default_provider()));
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
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        server.ignore_client_order = true;
        // Without extended master secret a TLS 1.2 session can be spliced (RFC 7627).
        server.require_ems = true;
        // Otherwise rustls resumes TLS 1.2 sessions by session ID from memory, independent of
        // tickets.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let has_tls13 = matches!(config.resumption, Resumption::Both | Resumption::Tls13);
        server.send_tls13_tickets = usize::from(has_tls13);
        if config.resumption != Resumption::Off {
            // Each listener has its own ticketer.  rustls does not bind a ticket to the verifier,
            // and a session of the public listener has no certificate.
            let sealer = match config.tickets.is_empty() {
                true => aws_lc_rs::Ticketer::new()?,
                false => config.tickets.ticketer(name)?,
            };
            let known = config.known_certificates.clone();
            let readers = config.ticket_readers.clone();
            let tickets = SmallTickets::new(sealer, known, config.resumption, readers);
            server.ticketer = Arc::new(tickets);
        }
    }
    let mut hosts = config.hosts.clone();
    // A certificate that rustls serves but this crate cannot parse adds no names.
    if let Some(Ok(leaf)) = identity.cert.first().map(|leaf| Certificate::from_der(leaf)) {
        hosts.add_certificate(&leaf);
    }
    Ok(ListenerTls {
        hosts: Arc::new(hosts),
        token: Arc::new(token),
        directory: Arc::new(directory),
        public: Arc::new(public),
    })
}
