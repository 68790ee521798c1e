//! Rank 4: HTTP connections in, and HTTP clients out.

mod admission;
pub mod body;
pub mod connections;
pub(crate) mod delta_seconds;
mod frames;
pub(crate) mod gate;
pub mod listen;
pub mod local_socket;
pub mod otlp;
pub mod outbound;
pub mod peer;
pub mod proxy_protocol;
pub mod reply;
pub mod serve;
mod server_authorities;

pub use admission::Hosts;
pub use peer::Peer;
pub use server_authorities::load_system_authorities;
