//! Chains and anchors of any shape: nothing panics, and the two judges agree.
//!
//! The input is eight bytes of seed for the generator of chains, then patches of the certificates'
//! parts; everything is signed afterwards, so that signatures hide nothing from the checks.
//!
//! `cargo +nightly fuzz run paths -- -max_total_time=600`

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/x509/test_certificates.rs"]
mod test_certificates;
#[path = "../../tests/support/judges.rs"]
mod judges;
#[path = "../../tests/support/mutants.rs"]
mod mutants;

fuzz_target!(|input: &[u8]| {
    let Some((seed, patches)) = input.split_first_chunk() else { return };
    let mutant = mutants::patched(u64::from_le_bytes(*seed) % 4096, patches);
    if let Err(disagreement) = judges::agree(&mutant) {
        panic!("{disagreement}");
    }
});
