//! The remote end of one connection.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::Refusal;
use crate::x509::certificate::Fingerprint;

/// The remote end of one connection.  Its chain is parsed once and judged for every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The peer's socket address.
    pub address: SocketAddr,
    /// Number of the connection since the start of the process.  All of its log records carry it.
    pub connection: u64,
    /// SHA-256 of the client certificate, of whose key the handshake proved possession.
    pub certificate: Option<Fingerprint>,
    /// The certificates of the full handshake that this session began with, or the reason why
    /// they cannot be judged.  Only a listener that judges its peers keeps them.
    pub chain: Result<Arc<UnverifiedChain>, Refusal>,
    /// True if the TLS session was resumed, in which case rustls did not call the verifier.
    pub resumed: bool,
}
