//! Fuzzes subject IDs: the canonical text of every ID is an ID, and is its own canonical text.
//! Certificates with any bytes as subjectAltName and subject never make the extraction panic.
//!
//! `cargo +nightly fuzz run subject -- -max_total_time=600`
#![no_main]

use anchorgate::trust::subject::{SubjectField, SubjectId};
use anchorgate::x509::certificate::Certificate;
use libfuzzer_sys::fuzz_target;

#[path = "../../src/x509/test_certificates.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod test_certificates;

use test_certificates::{Key, SUBJECT_ALT_NAME, Spec, cn};

fn is_canonical(id: &SubjectId, field: SubjectField) {
    let again = SubjectId::parse(field, id.as_str()).expect("the canonical text of an ID");
    assert_eq!(again.as_str(), id.as_str());
    assert_eq!(again, *id);
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        for field in SubjectField::ALL {
            if let Ok(id) = SubjectId::parse(field, text) {
                is_canonical(&id, field);
            }
        }
    }
    let names = Spec::device(cn("device"), cn("Root")).with(SUBJECT_ALT_NAME, false, bytes.to_vec());
    let subject = Spec::device(bytes.to_vec(), cn("Root"));
    for spec in [names, subject] {
        let key = Key::number(0);
        let Ok(certificate) = Certificate::from_der(&spec.sign(key, key)) else { continue };
        for field in SubjectField::ALL {
            if let Ok(id) = SubjectId::of(&certificate, field) {
                is_canonical(&id, field);
            }
        }
    }
});
