//! Signing keys.

/// The keys that sign access tokens, parsed once.
#[derive(Debug, Default)]
pub struct SigningKeys {}
