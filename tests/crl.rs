//! Revocation lists from bytes to decisions.

#[path = "support/crl_maker.rs"]
mod crl_maker;

use std::sync::Arc;

use anchorgate::domain::cert::Certificate;
use anchorgate::domain::refusal::{Code, Refusal};
use anchorgate::domain::time::Timestamp;
use anchorgate::domain::trust::crl::{Fault, Kind, ListReader, RevocationList};
use anchorgate::domain::trust::revocations::{CrlMode, Question, Revocations};
use crl_maker::{Ca, HOUR, NOW};

fn read(ca: &Ca, der: &[u8]) -> RevocationList {
    RevocationList::read(der, std::slice::from_ref(&ca.certificate), NOW).expect("a list")
}

fn fault(ca: &Ca, der: &[u8]) -> Fault {
    RevocationList::read(der, std::slice::from_ref(&ca.certificate), NOW)
        .expect_err("not a usable list")
        .fault
}

fn check_at(
    revocations: &Revocations,
    ca: &Ca,
    certificate: &Certificate,
    now: Timestamp,
) -> Result<(), Refusal> {
    revocations.check(&Question {
        certificate,
        issuer: &ca.certificate.subject,
        issuer_key: ca.certificate.key,
        mode: CrlMode::Require,
        now,
        signer_is_trusted: &|_| false,
    })
}

fn code(result: Result<(), Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code)
}

fn judge(lists: &[Vec<u8>], ca: &Ca, certificate: &Certificate) -> Option<Code> {
    let lists = lists.iter().map(|der| Arc::new(read(ca, der)));
    code(check_at(&Revocations::new(lists), ca, certificate, NOW))
}

#[test]
fn a_listed_certificate_is_refused_and_its_neighbour_is_not() {
    let ca = Ca::root("Root");
    let list = ca.list().number(1).revoke(&[5], Some(1)).revoke(&[6], Some(6)).sign();
    let at = |serial| judge(std::slice::from_ref(&list), &ca, &ca.issue("device", &[serial], &[]));
    assert_eq!(at(4), None);
    assert_eq!(at(5), Some(Code::CertificateRevoked));
    assert_eq!(at(6), Some(Code::CertificateOnHold));
}

#[test]
fn a_delta_adds_and_lifts() {
    let ca = Ca::root("Root");
    let base = ca.list().number(7).revoke(&[5], Some(6)).revoke(&[6], Some(1)).sign();
    let delta = ca
        .list()
        .number(8)
        .delta_to(7)
        .revoke(&[4], None)
        .revoke(&[5], Some(8))
        .revoke(&[6], Some(8));
    let delta = delta.sign();
    assert!(matches!(read(&ca, &delta).kind, Kind::Delta { .. }));
    let lists = [base, delta];
    let at = |serial| judge(&lists, &ca, &ca.issue("device", &[serial], &[]));
    assert_eq!(at(3), None);
    assert_eq!(at(4), Some(Code::CertificateRevoked));
    assert_eq!(at(5), None, "the hold is lifted");
    assert_eq!(at(6), Some(Code::CertificateRevoked), "a compromised key is never good again");
}

#[test]
fn a_list_goes_stale_at_the_right_second() {
    let ca = Ca::root("Root");
    let list = Arc::new(read(&ca, &ca.list().number(1).sign()));
    let revocations = Revocations::new([list]);
    let device = ca.issue("device", &[4], &[]);
    let end = NOW.0 + 24 * HOUR;
    assert_eq!(code(check_at(&revocations, &ca, &device, Timestamp(end))), None);
    let after = check_at(&revocations, &ca, &device, Timestamp(end + 1));
    assert_eq!(code(after), Some(Code::CrlStale));
}

#[test]
fn a_forged_list_is_no_list() {
    let ca = Ca::root("Root");
    let mut der = ca.list().number(1).revoke(&[5], None).sign();
    let last = der.len() - 1;
    der[last] ^= 1;
    assert_eq!(fault(&ca, &der), Fault::SignatureInvalid);
    assert_eq!(fault(&Ca::root("Other"), &der), Fault::NoSigner);
    let weak = Ca::with_key_usage("Root", crl_maker::KEY_USAGE_CERTS);
    assert_eq!(fault(&weak, &weak.list().sign()), Fault::NotCrlSigner);
}

#[test]
fn pieces_of_any_size_make_the_same_list() {
    let ca = Ca::root("Root");
    let mut list = ca.list().number(1);
    list.entries = crl_maker::many(0, 500);
    let der = list.sign();
    for (form, bytes) in [("DER", der.clone()), ("PEM", crl_maker::pem(&der).into_bytes())] {
        for size in [1, 7, 100, 4096, usize::MAX] {
            let mut reader = ListReader::new(1 << 20);
            for piece in bytes.chunks(size.min(bytes.len())) {
                reader.feed(piece).expect(form);
            }
            let signers = [Arc::clone(&ca.certificate)];
            let list = reader.finish(&signers, NOW).expect("a list");
            assert_eq!(list.entries(), 500, "{form} by {size}");
            assert!((0..500).all(|i| list.listed(&list.issuer, &crl_maker::serial(i)).is_some()));
            assert!((500..999).all(|i| list.listed(&list.issuer, &crl_maker::serial(i)).is_none()));
        }
    }
}
