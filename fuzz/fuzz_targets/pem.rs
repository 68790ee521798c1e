//! Fuzzes certificate files: no bytes make the reader panic, and every certificate that it finds in a PEM
//! file is found again in that file written again.
//!
//! `cargo +nightly fuzz run pem -- -max_total_time=600`
#![no_main]

use anchorgate::x509::pem::certificates;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(found) = certificates(bytes) else { return };
    assert!(!found.is_empty(), "a file without a certificate");
    if bytes.windows(5).any(|window| window == b"-----") {
        let file: String = found
            .iter()
            .map(|der| {
                let text = STANDARD.encode(der);
                format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
            })
            .collect();
        if let Ok(again) = certificates(file.as_bytes()) {
            assert_eq!(again, found);
        }
    }
});
