//! Rank 2: one HTTP connection, whatever is served on it.

pub mod body;
pub mod listen;
pub mod outbound;
pub mod peer;
pub mod reply;
pub mod serve;

pub use peer::Peer;
