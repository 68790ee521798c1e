//! Fuzzes chains and anchors of any shape: nothing panics, and both validators agree.
//!
//! The input is a seed of eight bytes for the chain generator, followed by patches to parts of the
//! certificates.  Everything is signed after patching, so that bad signatures do not hide the checks.
//!
//! `cargo +nightly fuzz run paths -- -max_total_time=600`

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/judges.rs"]
mod judges;
#[path = "../../tests/support/mutants.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod mutants;
#[path = "../../src/x509/test_certificates.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod test_certificates;

fuzz_target!(|input: &[u8]| {
    let Some((seed, patches)) = input.split_first_chunk() else { return };
    let mutant = mutants::patched(u64::from_le_bytes(*seed) % 4096, patches);
    if let Err(disagreement) = judges::agree(&mutant) {
        panic!("{disagreement}");
    }
});
