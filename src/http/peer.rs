//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::Refusal;

/// The other end of a connection.  Parsed once; judged for every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Number of the connection since the start, to find all its log lines.
    pub connection: u64,
    /// The certificates of the handshake, or of the one that the session resumes; or why there are
    /// none to judge.
    pub chain: Result<Arc<UnverifiedChain>, Refusal>,
    /// The TLS session was resumed: the verifier was not asked.
    pub resumed: bool,
}
