//! Revocation lists from bytes to decisions.

#[path = "support/crl_maker.rs"]
mod crl_maker;
#[path = "support/lists.rs"]
mod lists;

use std::sync::Arc;

use anchorgate::trust::refusal::Code;
use anchorgate::trust::revocation::{CrlMode, Question, Revocations};
use anchorgate::x509::certificate::Certificate;
use anchorgate::x509::crl::{Fault, Kind, ListReader, RevocationList};
use anchorgate::x509::name::Name;
use anchorgate::x509::time::Timestamp;
use crl_maker::{Ca, HOUR, NOW, extension, name, tlv};
use lists::{check_at, code, read};

fn fault(ca: &Ca, der: &[u8]) -> Fault {
    RevocationList::read(der, std::slice::from_ref(&ca.certificate), NOW)
        .expect_err("not a usable list")
        .fault
}

fn with(
    revocations: &Revocations,
    ca: &Ca,
    certificate: &Certificate,
    trusts: &dyn Fn(&Certificate) -> bool,
) -> Option<Code> {
    code(revocations.check(&Question {
        certificate,
        issuer: &ca.certificate.subject,
        issuer_key: ca.certificate.key,
        mode: CrlMode::Require,
        now: NOW,
        signer_is_trusted: trusts,
    }))
}

/// `[0]` of a distribution point with a fullName of one directory name, CN=`text`.
fn full_name(text: &str) -> Vec<u8> {
    tlv(0xa0, &tlv(0xa0, &tlv(0xa4, &name(text))))
}

/// A fullName of one URI.
fn uri(text: &str) -> Vec<u8> {
    tlv(0xa0, &tlv(0xa0, &tlv(0x86, text.as_bytes())))
}

/// cRLDistributionPoints of these encoded points.
fn points(points: &[Vec<u8>]) -> Vec<u8> {
    let points: Vec<u8> = points.iter().flat_map(|fields| tlv(0x30, fields)).collect();
    extension(&[0x55, 0x1d, 31], false, &tlv(0x30, &points))
}

fn basic_constraints_ca() -> Vec<u8> {
    extension(&[0x55, 0x1d, 19], true, &tlv(0x30, &[1, 1, 0xff]))
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

#[test]
fn lists_that_break_a_rule_are_not_used() {
    let ca = Ca::root("Root");
    let good = || ca.list().number(1).revoke(&[5], None);
    let reason = |bytes: &[u8]| extension(&[0x55, 0x1d, 21], false, bytes);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("extension 2.5.29.99", good().extension(&[0x55, 0x1d, 99], true, &[5, 0]).sign()),
        ("entry extension 2.5.29.98", {
            good().entry(&[6], &extension(&[0x55, 0x1d, 98], true, &[5, 0])).sign()
        }),
        ("not a reason", good().entry(&[6], &reason(&[10, 1, 7])).sign()),
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
        ("DEFAULT, yet encoded", good().scope(&[0x81, 1, 0]).sign()),
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
fn lists_of_keys_that_do_not_hash_first_are_used() {
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
    // A negative serial, as some old authorities issued them.
    list.entries.extend(crl_maker::sequence(&[&[2, 1, 0x80], &crl_maker::time(NOW), &[]]));
    let list = read(&ca, &list.sign());
    let integer = |digits: &[u8]| crl_maker::unsigned(digits)[2..].to_vec();
    for serial in &serials {
        assert!(list.listed(&list.issuer, &integer(serial)).is_some(), "{serial:02x?}");
        let mut other = serial.clone();
        *other.last_mut().expect("an octet") ^= 0x40;
        assert!(list.listed(&list.issuer, &integer(&other)).is_none(), "{other:02x?}");
    }
    assert!(list.listed(&list.issuer, &[0x80]).is_some(), "-128");
    assert!(list.listed(&list.issuer, &[0x81]).is_none());
    assert_eq!(list.entries(), serials.len() + 1);
}

#[test]
fn of_two_entries_for_one_serial_the_graver_decides() {
    let ca = Ca::root("Root");
    for reasons in [[Some(6), Some(1)], [Some(1), Some(6)]] {
        let list = ca.list().number(1).revoke(&[5], reasons[0]).revoke(&[5], reasons[1]).sign();
        let found = judge(&[list], &ca, &ca.issue("device", &[5], &[]));
        assert_eq!(found, Some(Code::CertificateRevoked));
    }
}

#[test]
fn scopes_by_kind_are_honoured() {
    let ca = Ca::root("Root");
    let device = ca.issue("device", &[5], &[]);
    let authority = ca.issue("sub", &[5], &[basic_constraints_ca()]);
    let list = |flag: u8| ca.list().number(1).scope(&[0x80 | flag, 1, 0xff]).sign();
    let cases = [
        (1, None, Some(Code::CrlMissing)),
        (2, Some(Code::CrlMissing), None),
        (5, Some(Code::CrlMissing), Some(Code::CrlMissing)),
    ];
    for (flag, of_device, of_authority) in cases {
        let lists = [list(flag)];
        assert_eq!(judge(&lists, &ca, &device), of_device, "{flag}");
        assert_eq!(judge(&lists, &ca, &authority), of_authority, "{flag}");
    }
    let both = [list(1), list(2)];
    assert_eq!(judge(&both, &ca, &device), None);
    assert_eq!(judge(&both, &ca, &authority), None);
}

#[test]
fn of_partitioned_lists_the_certificate_chooses() {
    let ca = Ca::root("Root");
    let part =
        |at: &str, serial| ca.list().number(1).scope(&uri(at)).revoke(&[serial], None).sign();
    let lists = [part("http://ca.example/1", 1), part("http://ca.example/2", 2)];
    let at = |serial: u8, at: &str| {
        judge(&lists, &ca, &ca.issue("device", &[serial], &[points(&[uri(at)])]))
    };
    assert_eq!(at(1, "http://ca.example/1"), Some(Code::CertificateRevoked));
    assert_eq!(at(1, "http://ca.example/2"), None, "only its own partition speaks for it");
    assert_eq!(at(2, "http://ca.example/2"), Some(Code::CertificateRevoked));
    assert_eq!(at(3, "http://ca.example/3"), Some(Code::CrlMissing));
    // Several points, the second of which has a list; none at all.
    let several = [points(&[uri("http://ca.example/3"), uri("http://ca.example/1")])];
    assert_eq!(judge(&lists, &ca, &ca.issue("device", &[3], &several)), None);
    assert_eq!(judge(&lists, &ca, &ca.issue("device", &[3], &[])), Some(Code::CrlMissing));
    // The issuer's own name is every certificate's point.
    let own = [ca.list().number(1).scope(&full_name("Root")).sign()];
    assert_eq!(judge(&own, &ca, &ca.issue("device", &[3], &[])), None);
}

#[test]
fn a_name_relative_to_the_issuer_is_made_whole() {
    let ca = Ca::root("Root");
    let relative = tlv(0xa0, &tlv(0xa1, &crl_maker::attribute("Part")));
    let whole = {
        let rdns =
            [tlv(0x31, &crl_maker::attribute("Root")), tlv(0x31, &crl_maker::attribute("Part"))];
        tlv(0xa0, &tlv(0xa0, &tlv(0xa4, &tlv(0x30, &rdns.concat()))))
    };
    for (of_list, of_certificate) in [(&relative, &whole), (&whole, &relative)] {
        let lists = [ca.list().number(1).scope(of_list).sign()];
        let device = ca.issue("device", &[5], &[points(std::slice::from_ref(of_certificate))]);
        assert_eq!(judge(&lists, &ca, &device), None);
        let other = ca.issue("device", &[5], &[points(&[full_name("Part")])]);
        assert_eq!(judge(&lists, &ca, &other), Some(Code::CrlMissing));
    }
}

#[test]
fn some_reasons_are_not_all() {
    let ca = Ca::root("Root");
    // keyCompromise and cACompromise; all others; none.
    let [few, others, none] = [&[0x83, 2, 5, 0x60][..], &[0x83, 3, 7, 0x1f, 0x80], &[0x83, 1, 0]];
    let list = |reasons: &[u8]| ca.list().number(1).scope(reasons).sign();
    let device = ca.issue("device", &[5], &[]);
    assert_eq!(judge(&[list(few)], &ca, &device), Some(Code::CrlMissing));
    assert_eq!(judge(&[list(others)], &ca, &device), Some(Code::CrlMissing));
    assert_eq!(judge(&[list(none)], &ca, &device), Some(Code::CrlMissing));
    assert_eq!(judge(&[list(few), list(others)], &ca, &device), None);
    let revoked = ca.list().number(1).scope(few).revoke(&[5], Some(1)).sign();
    let found = judge(&[list(others), revoked], &ca, &device);
    assert_eq!(found, Some(Code::CertificateRevoked));
}

#[test]
fn an_indirect_list_speaks_for_the_issuers_it_names() {
    let (ca, service) = (Ca::root("Root"), Ca::root("Lists"));
    let issuer_is =
        |text: &str| extension(&[0x55, 0x1d, 29], true, &tlv(0x30, &tlv(0xa4, &name(text))));
    let der = service
        .list()
        .number(1)
        .scope(&[&full_name("Lists")[..], &[0x84, 1, 0xff]].concat())
        .revoke(&[4], None)
        .entry(&[5], &issuer_is("Root"))
        .revoke(&[6], None)
        .entry(&[7], &issuer_is("Other"))
        .sign();
    let list = Arc::new(read(&service, &der));
    assert_eq!(list.entries(), 4);
    let revocations = Revocations::new([list]);
    let point = [full_name("Lists"), tlv(0xa2, &tlv(0xa4, &name("Lists")))].concat();
    let issue = |serial, fields| ca.issue("device", &[serial], &[points(&[fields])]);
    let trusted = |serial| with(&revocations, &ca, &issue(serial, point.clone()), &|_| true);
    assert_eq!(trusted(4), None, "an entry of the list's own issuer");
    assert_eq!(trusted(5), Some(Code::CertificateRevoked));
    assert_eq!(trusted(6), Some(Code::CertificateRevoked), "the issuer named last stays");
    assert_eq!(trusted(7), None, "an entry of another issuer's");
    // Without its signer's path to the anchor, or without the certificate naming it, it is nothing.
    let device = issue(4, point);
    assert_eq!(with(&revocations, &ca, &device, &|_| false), Some(Code::CrlMissing));
    let unnamed = issue(4, full_name("Lists"));
    assert_eq!(with(&revocations, &ca, &unnamed, &|_| true), Some(Code::CrlMissing));
}

#[test]
fn authorities_of_one_name_are_told_apart_by_key() {
    let (a, b) = (Ca::root("Root"), Ca::root("Root"));
    let of =
        |ca: &Ca, serial| Arc::new(read(ca, &ca.list().number(1).revoke(&[serial], None).sign()));
    let both = Revocations::new([of(&a, 1), of(&b, 2)]);
    let trusting =
        |ca: &Ca, serial| with(&both, ca, &ca.issue("device", &[serial], &[]), &|_| true);
    // Each has its own list, so the other's is not asked, trusted or not.
    assert_eq!(trusting(&a, 1), Some(Code::CertificateRevoked));
    assert_eq!(trusting(&a, 2), None);
    assert_eq!(trusting(&b, 1), None);
    assert_eq!(trusting(&b, 2), Some(Code::CertificateRevoked));
    // With only the other's: good for nothing unless that key is trusted under the same anchor, as
    // after a key rollover (RFC 5280 section 6.3.3 (f)).
    let only_b = Revocations::new([of(&b, 2)]);
    let of_a = |serial| a.issue("device", &[serial], &[]);
    assert_eq!(with(&only_b, &a, &of_a(1), &|_| false), Some(Code::CrlMissing));
    assert_eq!(with(&only_b, &a, &of_a(2), &|_| false), Some(Code::CrlMissing));
    let trusts_b = |signer: &Certificate| signer.key == b.certificate.key;
    assert_eq!(with(&only_b, &a, &of_a(1), &trusts_b), None);
    assert_eq!(with(&only_b, &a, &of_a(2), &trusts_b), Some(Code::CertificateRevoked));
    // And a list of another name never.
    let other = Ca::root("Other");
    assert_eq!(
        with(&only_b, &other, &other.issue("device", &[2], &[]), &|_| true),
        Some(Code::CrlMissing)
    );
}

#[test]
fn a_delta_is_combined_only_by_the_rules() {
    let ca = Ca::root("Root");
    let base = || ca.list().number(7).revoke(&[5], Some(6));
    let delta = |number, base| {
        ca.list().number(number).delta_to(base).revoke(&[5], Some(8)).revoke(&[6], None)
    };
    let at = |lists: &[Vec<u8>], serial| judge(lists, &ca, &ca.issue("device", &[serial], &[]));
    let lifts = |delta: crl_maker::List<'_>| at(&[base().sign(), delta.sign()], 5).is_none();
    assert!(lifts(delta(8, 7)) && lifts(delta(8, 3)));
    assert!(!lifts(delta(8, 8)), "for a later complete list");
    assert!(!lifts(delta(7, 7)) && !lifts(delta(6, 5)), "not later than the complete list");
    assert!(!lifts(delta(8, 7).scope(&[0x81, 1, 0xff])), "another scope");
    let expired = |list: crl_maker::List<'_>| {
        crl_maker::List { next_update: Some(Timestamp(NOW.0 - 1)), ..list }.sign()
    };
    let stale = [base().sign(), expired(delta(8, 7))];
    assert_eq!(at(&stale, 5), Some(Code::CertificateOnHold), "a stale delta lifts nothing");
    assert_eq!(at(&stale, 6), Some(Code::CertificateRevoked), "but nobody is good again by it");
    assert_eq!(at(&stale, 4), None, "the complete list decides until its own nextUpdate");
    let old = [base().sign(), delta(6, 5).sign()];
    assert_eq!(at(&old, 6), None, "an older delta says nothing");
    // The latest of several decides; a fresh one brings an expired complete list up to date.
    let later = ca.list().number(9).delta_to(7).revoke(&[5], Some(1)).sign();
    assert_eq!(at(&[base().sign(), later, delta(8, 7).sign()], 5), Some(Code::CertificateRevoked));
    // One that is later and cannot be combined takes nothing from it, and keeps nobody good.
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
fn limits_are_named() {
    let ca = Ca::root("Root");
    let mut list = ca.list().number(1);
    list.entries = crl_maker::many(0, 100);
    let der = list.sign();
    let mut reader = ListReader::new(der.len() as u64 - 1);
    let found = reader.feed(&der).expect_err("too large").to_string();
    assert!(found.contains(&format!("at most {}", der.len() - 1)), "{found}");
    // What is announced counts before it arrives.
    let mut reader = ListReader::new(1000);
    assert!(reader.feed(&[0x30, 0x84, 0x7f, 0, 0, 0]).is_err());
    let long = ca.list().extension(&[0x55, 0x1d, 99], false, &vec![0; 70_000]).sign();
    assert!(fault(&ca, &long).to_string().contains("at most 65536"));
    let line = format!("{}\n{}", " ".repeat(65_536), crl_maker::pem(&der));
    assert!(fault(&ca, line.as_bytes()).to_string().contains("65536 characters"));
}

#[test]
fn a_list_has_so_many_odd_serials_and_certificate_issuers() {
    let ca = Ca::root("Root");
    let issuer_is = |n: u16| {
        extension(&[0x55, 0x1d, 29], true, &tlv(0x30, &tlv(0xa4, &name(&format!("Issuer {n}")))))
    };
    // One entry a number, of one of so many issuers.
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
    // Negative ones: of the list's own issuer, and of two others together.
    for issuers in [0, 2] {
        assert_eq!(read(&ca, &list(10_000, issuers, &[0x80])).entries(), 10_000);
        let found = refused(list(10_001, issuers, &[0x80]));
        assert_eq!(found, Some(("serial".to_owned(), 10_000)), "{issuers}");
    }
    let many = read(&ca, &list(10_000, 10_000, &[1]));
    assert_eq!(many.certificate_issuers().count(), 10_001, "its own, of whom nothing is listed");
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
