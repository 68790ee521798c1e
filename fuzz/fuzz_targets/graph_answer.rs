//! Fuzzes responses of a directory: no bytes make a reader panic, and reading is deterministic.
//!
//! `cargo +nightly fuzz run graph_answer -- -max_total_time=600`
#![no_main]

use anchorgate::graph::wire::{JsonKind, devices::read_registry, parse, read_configurations};
use anchorgate::trust::configurations::{Application, Device};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    read::<Device>(bytes);
    read::<Application>(bytes);
    let _ = read_registry(bytes, 100);
});

fn read<K: JsonKind>(bytes: &[u8]) {
    let list = read_configurations::<K>(bytes);
    let is_json = parse(bytes).is_ok();
    assert!(list.is_err() || is_json, "a list was read from a response that is not JSON");
    assert_eq!(format!("{list:?}"), format!("{:?}", read_configurations::<K>(bytes)));
}
