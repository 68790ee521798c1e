//! Access tokens.

pub mod keys;
