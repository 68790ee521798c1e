//! Fuzzes token requests: no query and no body make the parser panic.  The first line of the input is the
//! query.
//!
//! `cargo +nightly fuzz run token_form -- -max_total_time=600`
#![no_main]

use anchorgate::oauth::request::parse;
use http::Request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let split = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (query, body) = input.split_at(split);
    let target = [b"/oauth2/token?", query].concat();
    let request = Request::post(&*target)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(())
        .or_else(|_| {
            Request::post("/oauth2/token")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(())
        });
    let (parts, ()) = request.expect("a request").into_parts();
    let _ = parse(&parts, body).and_then(|form| form.interpret());
});
