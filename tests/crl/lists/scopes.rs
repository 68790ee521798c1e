//! Scopes of lists: kinds of certificates, distribution points, reasons, issuers and keys.

use super::*;

fn with(
    revocations: &Revocations,
    ca: &Ca,
    certificate: &Certificate,
    trusts: &dyn Fn(&Certificate) -> bool,
) -> Option<Code> {
    code(revocations.check(&Question {
        domain: "",
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
fn distribution_points_select_the_partition() {
    let ca = Ca::root("Root");
    let part =
        |at: &str, serial| ca.list().number(1).scope(&uri(at)).revoke(&[serial], None).sign();
    let lists = [part("http://ca.example/1", 1), part("http://ca.example/2", 2)];
    let at = |serial: u8, at: &str| {
        judge(&lists, &ca, &ca.issue("device", &[serial], &[points(&[uri(at)])]))
    };
    assert_eq!(at(1, "http://ca.example/1"), Some(Code::CertificateRevoked));
    // An entry counts whatever partition it is in: issuer and serial identify one certificate.
    assert_eq!(at(1, "http://ca.example/2"), Some(Code::CertificateRevoked));
    assert_eq!(at(3, "http://ca.example/2"), None);
    assert_eq!(at(2, "http://ca.example/2"), Some(Code::CertificateRevoked));
    assert_eq!(at(3, "http://ca.example/3"), Some(Code::CrlMissing));
    // Several points, of which the second has a list; and no point.
    let several = [points(&[uri("http://ca.example/3"), uri("http://ca.example/1")])];
    assert_eq!(judge(&lists, &ca, &ca.issue("device", &[3], &several)), None);
    assert_eq!(judge(&lists, &ca, &ca.issue("device", &[3], &[])), Some(Code::CrlMissing));
    // The issuer's name is an implied point of every certificate.
    let own = [ca.list().number(1).scope(&full_name("Root")).sign()];
    assert_eq!(judge(&own, &ca, &ca.issue("device", &[3], &[])), None);
}

/// A list of the address that the directory names can state a distribution point, as those of step-ca do,
/// while the certificate has none.  The operator who configures the address vouches for the list's scope,
/// for refusals.
#[test]
fn a_list_of_another_distribution_point_refuses_what_it_lists_without_being_required() {
    let ca = Ca::root("Root");
    let list = ca.list().number(1).scope(&uri("http://ca.example/1.crl")).revoke(&[5], Some(1));
    let revocations = Revocations::new([Arc::new(read(&ca, &list.sign()))]);
    let decide = |mode, serial: u8, extensions: &[Vec<u8>]| {
        code(revocations.check(&Question {
            domain: "",
            certificate: &ca.issue("device", &[serial], extensions),
            issuer: &ca.certificate.subject,
            issuer_key: ca.certificate.key,
            mode,
            now: NOW,
            signer_is_trusted: &|_| false,
        }))
    };
    let elsewhere = [points(&[uri("http://ca.example/2.crl")])];
    for extensions in [&[][..], &elsewhere] {
        let of = |mode, serial| decide(mode, serial, extensions);
        assert_eq!(of(CrlMode::IfAvailable, 5), Some(Code::CertificateRevoked));
        assert_eq!(of(CrlMode::IfAvailable, 6), None);
        // For acceptance the list says nothing.
        assert_eq!(of(CrlMode::Require, 6), Some(Code::CrlMissing));
        assert_eq!(of(CrlMode::Off, 5), None);
    }
}

#[test]
fn completes_names_relative_to_the_issuer() {
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
fn lists_must_cover_all_reasons_together() {
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
fn an_indirect_list_covers_the_issuers_that_its_entries_name() {
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
    assert_eq!(trusted(4), None, "the entry is of the list's own issuer");
    assert_eq!(trusted(5), Some(Code::CertificateRevoked));
    assert_eq!(trusted(6), Some(Code::CertificateRevoked), "the issuer named last remains valid");
    assert_eq!(trusted(7), None, "the entry is of another issuer");
    // The list counts only if its signer has a path to the anchor and the certificate names it.
    let device = issue(4, point);
    assert_eq!(with(&revocations, &ca, &device, &|_| false), Some(Code::CrlMissing));
    let unnamed = issue(4, full_name("Lists"));
    assert_eq!(with(&revocations, &ca, &unnamed, &|_| true), Some(Code::CrlMissing));
}

#[test]
fn distinguishes_authorities_of_one_name_by_key() {
    let (a, b) = (Ca::root("Root"), Ca::root("Root"));
    let of =
        |ca: &Ca, serial| Arc::new(read(ca, &ca.list().number(1).revoke(&[serial], None).sign()));
    let both = Revocations::new([of(&a, 1), of(&b, 2)]);
    let ask = |ca: &Ca, serial, trusts: bool| {
        with(&both, ca, &ca.issue("device", &[serial], &[]), &|_| trusts)
    };
    // Each has its own list.  An entry in the other's counts only if the other has a path to the same
    // anchor: then both are one authority with two keys.
    for (ca, own, other) in [(&a, 1, 2), (&b, 2, 1)] {
        assert_eq!(ask(ca, own, false), Some(Code::CertificateRevoked));
        assert_eq!(ask(ca, other, false), None);
        assert_eq!(ask(ca, other, true), Some(Code::CertificateRevoked));
        assert_eq!(ask(ca, 3, true), None);
    }
    // The other's list alone counts only if its key is trusted under the same anchor, as after a key
    // rollover (RFC 5280 section 6.3.3 (f)).
    let only_b = Revocations::new([of(&b, 2)]);
    let of_a = |serial| a.issue("device", &[serial], &[]);
    assert_eq!(with(&only_b, &a, &of_a(1), &|_| false), Some(Code::CrlMissing));
    assert_eq!(with(&only_b, &a, &of_a(2), &|_| false), Some(Code::CrlMissing));
    let trusts_b = |signer: &Certificate| signer.key == b.certificate.key;
    assert_eq!(with(&only_b, &a, &of_a(1), &trusts_b), None);
    assert_eq!(with(&only_b, &a, &of_a(2), &trusts_b), Some(Code::CertificateRevoked));
    // A list of another name never counts.
    let other = Ca::root("Other");
    assert_eq!(
        with(&only_b, &other, &other.issue("device", &[2], &[]), &|_| true),
        Some(Code::CrlMissing)
    );
}
