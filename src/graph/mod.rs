//! Microsoft Graph and compatible servers: credentials and tokens ([`auth`]), HTTP ([`client`]) and
//! JSON ([`wire`]).

pub mod auth;
pub mod client;
mod collection;
pub mod wire;

pub use collection::Collection;
