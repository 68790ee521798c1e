//! anchorgate: an mTLS OAuth 2.0 token-endpoint gateway for IoT fleets.

pub mod crl;
pub mod domain;
