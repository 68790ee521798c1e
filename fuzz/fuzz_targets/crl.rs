//! The list walker: no bytes make it panic, and pieces of any size give the same verdict.
//!
//! `cargo +nightly fuzz run crl -- -max_total_time=600`
#![no_main]

use anchorgate::x509::time::Timestamp;
use anchorgate::x509::crl::{Fault, ListReader};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600);

/// Reads `bytes` in pieces.  Nobody signed them, so the walk's end is the furthest they come.
fn walk(bytes: &[u8], size: usize) -> Fault {
    let mut reader = ListReader::new(1 << 20);
    for piece in bytes.chunks(size.max(1)) {
        if let Err(error) = reader.feed(piece) {
            return error.fault;
        }
    }
    reader.finish(&[], NOW).expect_err("a list without signers").fault
}

/// How far the walk came; what is named of the input may differ by where a piece ended.
fn kind(fault: &Fault) -> std::mem::Discriminant<Fault> {
    std::mem::discriminant(fault)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let (whole, pieces) = (walk(bytes, bytes.len()), walk(bytes, usize::from(size)));
    assert_eq!(kind(&whole), kind(&pieces), "{whole} / {pieces}");
});
