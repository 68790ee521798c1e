//! Fuzzes certificates: no bytes make the reader or the judge panic, and what is read is what was signed.
//!
//! `cargo +nightly fuzz run certificate -- -max_total_time=600`
#![no_main]

use anchorgate::trust::judge::devices::{UnverifiedChain, judge};
use anchorgate::trust::snapshot::Snapshot;
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::time::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600);

fuzz_target!(|bytes: &[u8]| {
    let Ok(certificate) = Certificate::from_der(bytes) else { return };
    assert_eq!(certificate.der(), bytes);
    let tbs = certificate.tbs();
    assert!(bytes.windows(tbs.len()).any(|window| window == tbs), "the signed bytes are not there");
    let again = Certificate::from_der(bytes).expect("read before");
    assert_eq!(again.subject, certificate.subject);
    assert_eq!(again.fingerprint, certificate.fingerprint);
    let _ = (certificate.subject.to_string(), certificate.tolerated());
    let chain = UnverifiedChain::from_der(&[bytes, bytes]).expect("a readable leaf");
    assert!(judge(&chain, &Snapshot::default(), NOW).is_err(), "nothing is trusted");
});
