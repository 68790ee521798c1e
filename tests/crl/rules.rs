//! Rules of RFC 5280 section 5 one by one: tolerated and rejected deviations.

use std::sync::Arc;

use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::crl::{Fault, ListReader, RevocationList};
use anchorgate::x509::time::Timestamp;

use crate::support::crl_maker::{self, Ca, NOW, extension, name, sequence, tlv};

fn try_read(ca: &Ca, bytes: &[u8]) -> Result<RevocationList, Fault> {
    let signers = std::slice::from_ref(&ca.certificate);
    RevocationList::read(bytes, signers, NOW).map_err(|error| error.fault)
}

fn read(ca: &Ca, bytes: &[u8]) -> RevocationList {
    try_read(ca, bytes).expect("a list")
}

fn why_not(ca: &Ca, bytes: &[u8]) -> String {
    try_read(ca, bytes).expect_err("not a usable list").to_string()
}

/// The decision of the list about a device with this serial.
fn judge(ca: &Ca, list: RevocationList, serial: &[u8]) -> Option<Code> {
    let question = Question {
        domain: "",
        certificate: &ca.issue("device", serial, &[]),
        issuer: &ca.certificate.subject,
        issuer_key: ca.certificate.key,
        mode: CrlMode::Require,
        now: NOW,
        signer_is_trusted: &|_| false,
    };
    Revocations::new([Arc::new(list)]).check(&question).err().map(|refusal| refusal.code)
}

#[test]
fn ignores_unknown_noncritical_extensions() {
    let ca = Ca::root("Root");
    let strange = extension(&[0x55, 0x1d, 98], false, &[5, 0]);
    let list = ca
        .list()
        .number(1)
        .extension(&[0x55, 0x1d, 99], false, b"no DER")
        .entry(&[5], &strange)
        .sign();
    assert_eq!(judge(&ca, read(&ca, &list), &[5]), Some(Code::CertificateRevoked));
    assert_eq!(judge(&ca, read(&ca, &list), &[6]), None);
}

#[test]
fn rejects_differing_signature_algorithms() {
    let ca = Ca::root("Root");
    let mut list = ca.list().number(1).sign();
    // The second occurrence of ecdsa-with-SHA256: the one that the signature does not cover.
    let oid = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let at = list.windows(8).rposition(|window| window == oid).expect("the outer algorithm");
    list[at + 7] = 3;
    assert!(why_not(&ca, &list).contains("algorithms differ"));
}

#[test]
fn an_empty_list_revokes_nothing() {
    let ca = Ca::root("Root");
    assert_eq!(judge(&ca, read(&ca, &ca.list().sign()), &[5]), None);
    // RFC 5280 section 5.1.2.6 requires issuers to omit the field; an empty one has the same meaning.
    let list = crl_maker::List { version: None, ..ca.list() };
    let list = list.sign_changed(|tbs| {
        tbs.extend([0x30, 0]);
        tbs[1] += 2;
    });
    let list = read(&ca, &list);
    assert_eq!((list.entries(), &*list.tolerated), (0, &["empty-revoked-list"][..]));
    assert_eq!(judge(&ca, list, &[5]), None);
    assert_eq!(read(&ca, &ca.list().number(1).revoke(&[5], None).sign()).tolerated, [""; 0]);
}

#[test]
fn reads_utc_time_and_generalized_time() {
    let ca = Ca::root("Root");
    let end = Timestamp::parse_rfc3339("2051-02-03T04:05:06Z").expect("a time");
    let list = read(&ca, &ca.list().next_update(Some(end)).revoke(&[5], None).sign());
    assert_eq!(list.next_update, Some(end), "GeneralizedTime");
    assert_eq!(list.this_update, Timestamp(NOW.0 - 3600), "UTCTime");
    // The same holds for entries; an invalid time makes the list invalid.
    let entry = |time: &[u8]| {
        let entries = sequence(&[&[2, 1, 5], &tlv(0x18, time)]);
        crl_maker::List { entries, ..ca.list() }.sign()
    };
    assert_eq!(read(&ca, &entry(b"20510203040506Z")).entries(), 1);
    for bad in [&b"20510203040506+0100"[..], b"205102030405Z", b"20511303040506Z", b""] {
        assert!(why_not(&ca, &entry(bad)).contains("revocationDate"), "{bad:?}");
    }
}

#[test]
fn crl_numbers_have_at_most_21_bytes() {
    let ca = Ca::root("Root");
    let list = |digits: &[u8]| {
        let number = crl_maker::unsigned(digits);
        ca.list().extension(&[0x55, 0x1d, 20], false, &number).sign()
    };
    let number = |digits: &[u8]| read(&ca, &list(digits)).number;
    let (small, large) = ([&[0x7f][..], &[0xff; 19]].concat(), [0xff; 21]);
    assert!(number(&small) < number(&large) && number(&[0xff; 9]) < number(&small));
    let is_long = |digits: &[u8]| read(&ca, &list(digits)).tolerated == ["long-crl-number"];
    assert!(is_long(&large) && is_long(&[0x80; 20]), "21 bytes of contents");
    assert!(!is_long(&[0x7f; 20]) && !is_long(&small));
    assert!(why_not(&ca, &list(&[1; 22])).contains("longer than 21 bytes"));
    let negative = ca.list().extension(&[0x55, 0x1d, 20], false, &[2, 1, 0x80]).sign();
    assert!(why_not(&ca, &negative).contains("negative"));
}

#[test]
fn compares_issuer_names_by_rfc_5280() {
    let ca = Ca::root("Root Authority");
    // PrintableString, other letter case, and insignificant spaces (RFC 5280 section 7.1).
    let attribute =
        |text: &str| sequence(&[&tlv(0x06, crl_maker::COMMON_NAME), &tlv(0x13, text.as_bytes())]);
    let issuer = |text: &str| sequence(&[&tlv(0x31, &attribute(text))]);
    let list = |text: &str| {
        crl_maker::List { issuer: issuer(text), ..ca.list().revoke(&[5], None) }.sign()
    };
    let same = read(&ca, &list(" root  AUTHORITY"));
    assert_eq!(judge(&ca, same, &[5]), Some(Code::CertificateRevoked));
    assert_eq!(try_read(&ca, &list("RootAuthority")).err(), Some(Fault::NoSigner));
}

#[test]
fn the_signature_determines_the_signer_and_the_key_id_is_a_hint() {
    let ca = Ca::root("Root");
    // The list names another key identifier than the certificate, as after the certificate was reissued.
    let key_id = extension(&[0x55, 0x1d, 14], false, &tlv(0x04, &[1; 20]));
    let with_id = ca.issue_to_itself(&[key_id]);
    let list = |id: u8| {
        let id = sequence(&[&tlv(0x80, &[id; 20])]);
        ca.list().number(1).extension(&[0x55, 0x1d, 35], false, &id).revoke(&[5], None).sign()
    };
    let same_name = Ca::root("Root");
    let same_name_with_id =
        same_name.issue_to_itself(&[extension(&[0x55, 0x1d, 14], false, &tlv(0x04, &[2; 20]))]);
    for id in [1, 2] {
        let signers = [Arc::clone(&same_name_with_id), Arc::clone(&with_id)];
        let list = RevocationList::read(&list(id), &signers, NOW).expect("a list");
        assert_eq!(list.signer_key(), Some(ca.certificate.key), "{id}");
        let forged = RevocationList::read(&ca.list().sign(), &signers[..1], NOW);
        assert_eq!(forged.expect_err("the list of another key").fault, Fault::SignatureInvalid);
    }
}

#[test]
fn rejects_entries_that_name_several_issuers() {
    let ca = Ca::root("Root");
    let list = |names: &[&str]| {
        let names: Vec<u8> = names.iter().flat_map(|text| tlv(0xa4, &name(text))).collect();
        let issuer = extension(&[0x55, 0x1d, 29], true, &tlv(0x30, &names));
        ca.list().number(1).scope(&[0x84, 1, 0xff]).entry(&[5], &issuer).sign()
    };
    assert_eq!(read(&ca, &list(&["A"])).certificate_issuers().count(), 2);
    assert_eq!(read(&ca, &list(&["A", "a"])).certificate_issuers().count(), 2);
    assert!(why_not(&ca, &list(&["A", "B"])).contains("several directory names"));
    assert!(why_not(&ca, &list(&[])).contains("certificateIssuer"));
}

#[test]
fn a_pem_text_has_one_list() {
    let ca = Ca::root("Root");
    let pem = crl_maker::pem(&ca.list().number(1).revoke(&[5], None).sign());
    let other = crl_maker::pem(&ca.list().number(2).sign());
    let windows = format!("\u{feff}{}", pem.replace('\n', "\r\n"));
    let long = "x".repeat(200_000);
    for good in [
        pem.clone(),
        format!("Certificate Revocation List (CRL):\n    Version 2\n{pem}"),
        windows,
        format!("{pem}{long}\n{long}"),
    ] {
        assert_eq!(read(&ca, good.as_bytes()).entries(), 1);
    }
    for bad in [format!("{pem}{other}"), format!("{pem}\n\n  {}", other.trim_end())] {
        assert!(why_not(&ca, bad.as_bytes()).contains("more than one"));
        // The same in pieces.
        let mut reader = ListReader::new(1 << 20);
        assert!(bad.as_bytes().chunks(7).try_for_each(|piece| reader.feed(piece)).is_err());
    }
}
