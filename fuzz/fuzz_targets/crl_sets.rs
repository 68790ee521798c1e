//! Fuzzes sets of correctly signed lists: decisions match those of a naive model.
//!
//! `cargo +nightly fuzz run crl_sets -- -max_total_time=600`
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/crl_maker.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod crl_maker;
#[path = "../../tests/support/crl_model.rs"]
mod crl_model;

fuzz_target!(|input: &[u8]| crl_model::check(input));
