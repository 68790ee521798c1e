//! anchorgate: an mTLS OAuth 2.0 token-endpoint gateway for IoT fleets.

pub mod cli;
pub mod domain;
pub mod graph;
pub mod http;
pub mod runtime;
pub mod store;
