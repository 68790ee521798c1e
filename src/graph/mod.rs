//! Microsoft Graph, or a server that speaks as it does: credentials and tokens ([`auth`]), HTTP ([`client`]),
//! and the form of its answers ([`wire`]).

pub mod auth;
pub mod client;
mod collection;
pub mod wire;

pub use collection::Collection;
