//! Fixtures that the integration tests share.  Each test binary includes this module once.

#![allow(dead_code, missing_docs, reason = "a binary uses a part of the fixtures")]

pub mod crl_maker;
pub mod crl_model;
pub mod crl_questions;
pub mod crl_source;
pub mod directory;
pub mod judges;
pub mod misbehaving;
pub mod mutants;
pub mod postgres;
#[path = "../../src/x509/test_certificates.rs"]
pub mod test_certificates;
pub mod web;
