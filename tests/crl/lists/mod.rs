//! Revocation lists from bytes to decisions.

mod scopes;

use std::sync::Arc;

use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::{Fault, Kind, ListReader, Reason, RevocationList};
use anchorgate::x509::name::Name;
use anchorgate::x509::time::Timestamp;

use crate::support::crl_maker::{self, Ca, HOUR, NOW, extension, name, tlv};
use crate::support::crl_questions::{check_at, code, read};

fn fault(ca: &Ca, der: &[u8]) -> Fault {
    RevocationList::read(der, std::slice::from_ref(&ca.certificate), NOW)
        .expect_err("not a usable list")
        .fault
}

fn judge(lists: &[Vec<u8>], ca: &Ca, certificate: &Certificate) -> Option<Code> {
    let lists = lists.iter().map(|der| Arc::new(read(ca, der)));
    code(check_at(&Revocations::new(lists), ca, certificate, NOW))
}

#[test]
fn only_listed_certificates_are_rejected() {
    let ca = Ca::root("Root");
    let list = ca.list().number(1).revoke(&[5], Some(1)).revoke(&[6], Some(6)).sign();
    let at = |serial| judge(std::slice::from_ref(&list), &ca, &ca.issue("device", &[serial], &[]));
    assert_eq!(at(4), None);
    assert_eq!(at(5), Some(Code::CertificateRevoked));
    assert_eq!(at(6), Some(Code::CertificateOnHold));
}

#[test]
fn a_delta_adds_revocations_and_lifts_holds() {
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
    assert_eq!(at(6), Some(Code::CertificateRevoked), "a revocation cannot be lifted");
}

#[test]
fn a_list_goes_stale_one_second_after_next_update() {
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
fn rejects_lists_with_bad_signatures_or_signers() {
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

/// RFC 5280 section 5.3.1 does not use number 7.
#[test]
fn an_unused_reason_revokes_without_a_reason() {
    let ca = Ca::root("Root");
    let reason = extension(&[0x55, 0x1d, 21], false, &[10, 1, 7]);
    let list = read(&ca, &ca.list().number(1).revoke(&[5], Some(1)).entry(&[6], &reason).sign());
    assert_eq!(list.listed(&list.issuer, &[6]), Some(Reason::Unspecified));
    assert_eq!(list.listed(&list.issuer, &[5]), Some(Reason::KeyCompromise));
    assert_eq!(list.listed(&list.issuer, &[7]), None);
}

#[test]
fn rejects_lists_that_break_a_rule() {
    let ca = Ca::root("Root");
    let good = || ca.list().number(1).revoke(&[5], None);
    let reason = |bytes: &[u8]| extension(&[0x55, 0x1d, 21], false, bytes);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("extension 2.5.29.99", good().extension(&[0x55, 0x1d, 99], true, &[5, 0]).sign()),
        ("entry extension 2.5.29.98", {
            good().entry(&[6], &extension(&[0x55, 0x1d, 98], true, &[5, 0])).sign()
        }),
        ("not a reason", good().entry(&[6], &reason(&[10, 2, 0, 0x80])).sign()),
        ("not a reason", good().entry(&[6], &reason(&[10, 1, 11])).sign()),
        ("cRLNumber must not be", ca.list().extension(&[0x55, 0x1d, 20], true, &[2, 1, 1]).sign()),
        ("deltaCRLIndicator must be", {
            good().extension(&[0x55, 0x1d, 27], false, &[2, 1, 1]).sign()
        }),
        ("a delta list without cRLNumber", ca.list().delta_to(1).sign()),
        ("removeFromCRL in a complete", good().revoke(&[6], Some(8)).sign()),
        ("occurs twice", good().number(2).sign()),
        ("an empty sequence", good().scope(&[]).sign()),
        ("several of the onlyContains", good().scope(&[0x81, 1, 0xff, 0x82, 1, 0xff]).sign()),
        ("BOOLEAN is neither", good().scope(&[0x81, 1, 1]).sign()),
        ("left over", good().scope(&[0x81, 1, 0xff, 5, 0]).sign()),
        ("but the list is not indirect", {
            let issuer = tlv(0x30, &tlv(0xa4, &name("Other")));
            good().entry(&[6], &extension(&[0x55, 0x1d, 29], true, &issuer)).sign()
        }),
        ("certificateIssuer must be", {
            let issuer = tlv(0x30, &tlv(0xa4, &name("Other")));
            good().entry(&[6], &extension(&[0x55, 0x1d, 29], false, &issuer)).sign()
        }),
        ("a v1 list has extensions", crl_maker::List { version: None, ..good() }.sign()),
        ("an entry of a v1 list", {
            let list = ca.list().revoke(&[5], Some(1));
            crl_maker::List { version: None, ..list }.sign()
        }),
        ("neither v1", crl_maker::List { version: Some(0), ..good() }.sign()),
        ("neither v1", crl_maker::List { version: Some(2), ..good() }.sign()),
        ("in the future", good().this_update(Timestamp(NOW.0 + 1)).sign()),
        ("left over", [good().sign(), vec![0]].concat()),
        ("truncated", good().sign()[..100].to_vec()),
    ];
    for (why, der) in cases {
        let found = fault(&ca, &der).to_string();
        assert!(found.contains(why), "{why}: {found}");
    }
    assert_eq!(read(&ca, &good().sign()).entries(), 1);
}

#[test]
fn plain_v1_lists_are_used() {
    let ca = Ca::root("Root");
    let list = crl_maker::List { version: None, ..ca.list().revoke(&[5], None) }.sign();
    assert_eq!(read(&ca, &list).version, 1);
    let lists = [list];
    assert_eq!(judge(&lists, &ca, &ca.issue("device", &[5], &[])), Some(Code::CertificateRevoked));
    assert_eq!(judge(&lists, &ca, &ca.issue("device", &[6], &[])), None);
}

#[test]
fn reads_lists_signed_with_ed25519() {
    let ca = Ca::ed25519("Root");
    let mut der = ca.list().number(1).revoke(&[5], None).sign();
    assert_eq!(read(&ca, &der).entries(), 1);
    der[60] ^= 1;
    assert!(RevocationList::read(&der, std::slice::from_ref(&ca.certificate), NOW).is_err());
}

#[test]
fn every_serial_is_found_and_no_other() {
    let ca = Ca::root("Root");
    let top = |length: usize| [&[0xff], &vec![7; length - 1][..]].concat();
    let mut serials: Vec<Vec<u8>> =
        vec![vec![0], vec![1], vec![0x7f], vec![0x80], vec![1, 0], vec![1, 0, 0]];
    serials.extend([7, 8, 9, 15, 16, 17, 19, 20, 21, 40].map(top));
    let mut list = ca.list().number(1);
    for serial in &serials {
        list = list.revoke(serial, Some(4));
    }
    // A negative serial, as issued by some old authorities.
    list.entries.extend(crl_maker::sequence(&[&[2, 1, 0x80], &crl_maker::time(NOW), &[]]));
    let list = read(&ca, &list.sign());
    let integer = |digits: &[u8]| crl_maker::unsigned(digits)[2..].to_vec();
    for serial in &serials {
        assert!(list.listed(&list.issuer, &integer(serial)).is_some(), "{serial:02x?}");
        let mut other = serial.clone();
        *other.last_mut().expect("a byte") ^= 0x40;
        assert!(list.listed(&list.issuer, &integer(&other)).is_none(), "{other:02x?}");
    }
    assert!(list.listed(&list.issuer, &[0x80]).is_some(), "-128");
    assert!(list.listed(&list.issuer, &[0x81]).is_none());
    assert_eq!(list.entries(), serials.len() + 1);
}

#[test]
fn the_more_severe_of_two_entries_decides() {
    let ca = Ca::root("Root");
    for reasons in [[Some(6), Some(1)], [Some(1), Some(6)]] {
        let list = ca.list().number(1).revoke(&[5], reasons[0]).revoke(&[5], reasons[1]).sign();
        let found = judge(&[list], &ca, &ca.issue("device", &[5], &[]));
        assert_eq!(found, Some(Code::CertificateRevoked));
    }
}

#[test]
fn combines_deltas_by_the_rules_of_rfc_5280() {
    let ca = Ca::root("Root");
    let base = || ca.list().number(7).revoke(&[5], Some(6));
    let delta = |number, base| {
        ca.list().number(number).delta_to(base).revoke(&[5], Some(8)).revoke(&[6], None)
    };
    let at = |lists: &[Vec<u8>], serial| judge(lists, &ca, &ca.issue("device", &[serial], &[]));
    let lifts = |delta: crl_maker::List<'_>| at(&[base().sign(), delta.sign()], 5).is_none();
    assert!(lifts(delta(8, 7)) && lifts(delta(8, 3)));
    assert!(!lifts(delta(8, 8)), "its base is a later complete list");
    assert!(!lifts(delta(7, 7)) && !lifts(delta(6, 5)), "it is not later than the complete list");
    assert!(!lifts(delta(8, 7).scope(&[0x81, 1, 0xff])), "another scope");
    let expired = |list: crl_maker::List<'_>| {
        crl_maker::List { next_update: Some(Timestamp(NOW.0 - 1)), ..list }.sign()
    };
    let stale = [base().sign(), expired(delta(8, 7))];
    assert_eq!(at(&stale, 5), Some(Code::CertificateOnHold), "a stale delta lifts nothing");
    assert_eq!(at(&stale, 6), Some(Code::CertificateRevoked), "a stale delta still revokes");
    assert_eq!(at(&stale, 4), None, "the complete list decides until its own nextUpdate");
    let old = [base().sign(), delta(6, 5).sign()];
    assert_eq!(at(&old, 6), None, "an older delta has no effect");
    // The latest of several deltas decides; a fresh delta renews an expired complete list.
    let later = ca.list().number(9).delta_to(7).revoke(&[5], Some(1)).sign();
    assert_eq!(at(&[base().sign(), later, delta(8, 7).sign()], 5), Some(Code::CertificateRevoked));
    // A later delta that cannot be combined lifts nothing, and its revocations count.
    for later in [delta(9, 8).sign(), expired(delta(9, 7))] {
        let lists = [base().sign(), later, ca.list().number(8).delta_to(7).sign()];
        assert_eq!(at(&lists, 4), None);
        assert_eq!(at(&lists, 5), Some(Code::CertificateOnHold));
        assert_eq!(at(&lists, 6), Some(Code::CertificateRevoked));
        assert_eq!(at(&[base().sign(), lists[1].clone(), delta(8, 7).sign()], 5), None);
    }
    let renewed = [expired(base()), delta(8, 7).sign()];
    assert_eq!(at(&renewed, 4), None);
    assert_eq!(at(&renewed, 5), None);
    assert_eq!(at(&[expired(base())], 4), Some(Code::CrlStale));
    assert_eq!(at(&[delta(8, 7).sign()], 4), Some(Code::CrlMissing), "a delta alone");
    assert_eq!(at(&[delta(8, 7).sign()], 6), Some(Code::CertificateRevoked));
}

#[test]
fn size_errors_name_the_limit() {
    let ca = Ca::root("Root");
    let mut list = ca.list().number(1);
    list.entries = crl_maker::many(0, 100);
    let der = list.sign();
    let mut reader = ListReader::new(der.len() as u64 - 1);
    let found = reader.feed(&der).expect_err("too large").to_string();
    assert!(found.contains(&format!("at most {}", der.len() - 1)), "{found}");
    // The announced length counts before the bytes arrive.
    let mut reader = ListReader::new(1000);
    assert!(reader.feed(&[0x30, 0x84, 0x7f, 0, 0, 0]).is_err());
    let long = ca.list().extension(&[0x55, 0x1d, 99], false, &vec![0; 70_000]).sign();
    assert!(fault(&ca, &long).to_string().contains("at most 65536"));
    let line = format!("{}\n{}", " ".repeat(65_536), crl_maker::pem(&der));
    assert!(fault(&ca, line.as_bytes()).to_string().contains("65536 characters"));
}

#[test]
fn limits_irregular_serials_and_certificate_issuers() {
    let ca = Ca::root("Root");
    let issuer_is = |n: u16| {
        extension(&[0x55, 0x1d, 29], true, &tlv(0x30, &tlv(0xa4, &name(&format!("Issuer {n}")))))
    };
    // One entry per number, each of one of `issuers` issuers.
    let list = |numbers: u16, issuers: u16, serial: &[u8]| {
        let mut list = ca.list().number(1).scope(&[0x84, 1, 0xff]);
        for n in 0..numbers {
            let [a, b] = n.to_be_bytes();
            let (serial, date) = (tlv(2, &[serial, &[a, b]].concat()), crl_maker::time(NOW));
            let issuer = match issuers {
                0 => Vec::new(),
                _ => tlv(0x30, &issuer_is(n % issuers)),
            };
            list.entries.extend(crl_maker::sequence(&[&serial, &date, &issuer]));
        }
        list.sign()
    };
    let refused = |list: Vec<u8>| {
        let Fault::TooMany { what, limit } = fault(&ca, &list) else { return None };
        Some((what.split(' ').next()?.to_owned(), limit))
    };
    // Negative serials: of the list's own issuer, and of two other issuers together.
    for issuers in [0, 2] {
        assert_eq!(read(&ca, &list(10_000, issuers, &[0x80])).entries(), 10_000);
        let found = refused(list(10_001, issuers, &[0x80]));
        assert_eq!(found, Some(("serial".to_owned(), 10_000)), "{issuers}");
    }
    let many = read(&ca, &list(10_000, 10_000, &[1]));
    assert_eq!(many.certificate_issuers().count(), 10_001, "including its own, without entries");
    for n in 0..10_000 {
        let [a, b] = u16::to_be_bytes(n);
        let of = |n: u16| Name::from_der(&name(&format!("Issuer {n}"))).expect("a name");
        assert!(many.listed(&of(n), &[1, a, b]).is_some(), "{n}");
        assert!(many.listed(&of(n ^ 1), &[1, a, b]).is_none(), "{n}");
    }
    assert!(many.listed(&many.issuer, &[1, 0, 0]).is_none());
    let found = refused(list(10_001, 10_001, &[1]));
    assert_eq!(found, Some(("certificate".to_owned(), 10_000)));
}
