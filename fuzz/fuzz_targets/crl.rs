//! Fuzzes the list reader: no bytes make it panic, and pieces of any size give the same verdict.
//!
//! `cargo +nightly fuzz run crl -- -max_total_time=600`
#![no_main]

use anchorgate::x509::crl::{Fault, ListReader};
use anchorgate::x509::time::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600);

/// Reads `bytes` in pieces of `size`.  There is no signer, so a well-formed list fails at the end.
fn read(bytes: &[u8], size: usize) -> Fault {
    let mut reader = ListReader::new(1 << 20);
    for piece in bytes.chunks(size.max(1)) {
        if let Err(error) = reader.feed(piece) {
            return error.fault;
        }
    }
    reader.finish(&[], NOW).expect_err("a list without signers").fault
}

/// The kind of fault.  Its details may differ with the boundaries of the pieces.
fn kind(fault: &Fault) -> std::mem::Discriminant<Fault> {
    std::mem::discriminant(fault)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let (whole, pieces) = (read(bytes, bytes.len()), read(bytes, usize::from(size)));
    assert_eq!(kind(&whole), kind(&pieces), "{whole} / {pieces}");
});
