//! Rank 4: HTTP connections in, and HTTP clients out.

pub mod body;
mod frames;
pub mod listen;
pub mod outbound;
pub mod peer;
pub mod reply;
pub mod serve;

pub use peer::Peer;
