//! Fuzzes the query options of the directory, `$filter` among them: no query makes the parser panic.
//!
//! `cargo +nightly fuzz run filter -- -max_total_time=600`
#![no_main]

use anchorgate::directory::is_device_query;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    is_device_query(text);
    // A `$filter` whose text needs no percent-encoding to arrive as it is.
    let filter: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
    is_device_query(&format!("$filter={filter}"));
});
