//! Fixtures that the benches share.  Each bench includes this module once.

#![allow(dead_code, missing_docs, unused_imports, reason = "a bench uses a part of the fixtures")]

mod chains;
mod world;

#[path = "../../tests/support/crl_maker.rs"]
pub mod crl_maker;
#[path = "../../tests/support/directory.rs"]
pub mod directory;
#[path = "../../src/x509/test_certificates.rs"]
pub mod test_certificates;

pub use chains::Chain;
pub use world::{World, chain};
