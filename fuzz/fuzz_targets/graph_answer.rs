//! Fuzzes responses of a directory: no bytes make a reader panic, and reading is deterministic.
//!
//! `cargo +nightly fuzz run graph_answer -- -max_total_time=600`
#![no_main]

use anchorgate::graph::wire::{devices::read_registry, parse, read_anchor_set};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let depth_is_bounded = parse(bytes).is_ok();
    let set = read_anchor_set(bytes);
    assert!(set.is_err() || depth_is_bounded, "a set was read from a response that is not JSON");
    assert_eq!(format!("{set:?}"), format!("{:?}", read_anchor_set(bytes)));
    let _ = read_registry(bytes, 100);
});
