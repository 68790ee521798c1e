//! Tests of name constraints: every form of name with every form of subtree.

use super::*;
use crate::trust::path::names::{mailbox, uri_host};
use crate::x509::test_certificates::{self, Key, Spec, cn};
use proptest::prelude::*;

const EMAIL: u8 = 1;
const DNS: u8 = 2;
const DIRECTORY: u8 = 4;
const URI: u8 = 6;
const IP: u8 = 7;
const OTHER: u8 = 0;

type Names = Vec<(u8, Vec<u8>)>;

fn text(form: u8, text: &str) -> (u8, Vec<u8>) {
    (form, text.as_bytes().to_vec())
}

/// Checks a leaf with these alternative names below an authority with this extension.
fn check(extension: Vec<u8>, subject: Vec<u8>, names: &Names) -> Result<(), Refusal> {
    let key = Key::number(0);
    let authority = Spec::authority(cn("CA"), cn("CA"))
        .with(test_certificates::NAME_CONSTRAINTS, true, extension)
        .sign(key, key);
    let mut leaf = Spec::device(subject, cn("CA"));
    if !names.is_empty() {
        leaf = leaf.with(
            test_certificates::SUBJECT_ALT_NAME,
            false,
            test_certificates::general_names(names),
        );
    }
    let read = |der: &[u8]| Certificate::from_der(der).expect("a certificate");
    let mut constraints = Constraints::default();
    constraints.add(&read(&authority))?;
    constraints.check(&read(&leaf.sign(key, key)), &mut 1000)
}

fn permitted(base: (u8, Vec<u8>), name: (u8, Vec<u8>)) -> bool {
    check(test_certificates::name_constraints(&[base], &[]), cn("device"), &vec![name]).is_ok()
}

fn excluded(base: (u8, Vec<u8>), name: (u8, Vec<u8>)) -> bool {
    check(test_certificates::name_constraints(&[], &[base]), cn("device"), &vec![name]).is_err()
}

#[test]
fn permits_and_excludes_exactly_the_names_within_a_subtree() {
    // (form, base, name, within): a name is permitted, and excluded, exactly if it is within the
    // base.
    for (form, base, name, within) in [
        (DNS, "fleet.example", "fleet.example", true),
        (DNS, "fleet.example", "a.b.FLEET.example", true),
        (DNS, "Fleet.Example", "a.fleet.example", true),
        (DNS, "fleet.example", "afleet.example", false),
        (DNS, "a.fleet.example", "fleet.example", false),
        (DNS, "", "any.example", true),
        (DNS, "fleet.example", "*.fleet.example", true),
        (DNS, "fleet.example", "*.other.example", false),
        (EMAIL, "ops@fleet.example", "ops@FLEET.example", true),
        (EMAIL, "ops@fleet.example", "Ops@fleet.example", false),
        (EMAIL, "*@fleet.example", "ops@fleet.example", false),
        (EMAIL, "fleet.example", "any@fleet.example", true),
        (EMAIL, "fleet.example", "any@a.fleet.example", false),
        (EMAIL, ".fleet.example", "any@a.fleet.example", true),
        (EMAIL, ".fleet.example", "any@fleet.example", false),
        (EMAIL, "", "any@anywhere.example", true),
        (URI, "fleet.example", "https://fleet.example/x", true),
        (URI, "fleet.example", "https://u@FLEET.example:8443?q#f", true),
        (URI, "fleet.example", "https://a.fleet.example/", false),
        (URI, ".fleet.example", "urn2+x://a.b.fleet.example", true),
        (URI, ".fleet.example", "https://fleet.example/", false),
        (URI, "fleet.example", "https://evil.example/?@fleet.example", false),
        (URI, "fleet.example", "https://evil.example#fleet.example", false),
    ] {
        assert_eq!(permitted(text(form, base), text(form, name)), within, "{name} in `{base}`");
        assert_eq!(excluded(text(form, base), text(form, name)), within, "{name} out `{base}`");
    }
}

#[test]
fn a_wildcard_is_checked_by_its_expansions() {
    let base = || text(DNS, "a.fleet.example");
    // Only one expansion is within the subtree: not permitted by it, and excluded by it.
    assert!(!permitted(base(), text(DNS, "*.fleet.example")));
    assert!(excluded(base(), text(DNS, "*.fleet.example")));
    // A wildcard stands for one label.
    assert!(!excluded(text(DNS, "a.b.fleet.example"), text(DNS, "*.fleet.example")));
}

#[test]
fn refuses_a_malformed_name_if_its_form_is_constrained() {
    for (form, base, name) in [
        (DNS, "x.example", ".a.example"),
        (DNS, "x.example", "a..example"),
        (DNS, "x.example", "a.example."),
        (DNS, "x.example", "f*.example"),
        (DNS, "x.example", "a.*.example"),
        (DNS, "x.example", "a b.example"),
        (DNS, "x.example", "-a.example"),
        (DNS, "x.example", ""),
        (EMAIL, "x.example", "a@b@c.example"),
        (EMAIL, "x.example", "\"a\"@c.example"),
        (EMAIL, "x.example", "a@[10.0.0.1]"),
        (EMAIL, "x.example", "@c.example"),
        (EMAIL, "x.example", "no-at-sign"),
        (URI, "x.example", "urn:device:1"),
        (URI, "x.example", "https://10.0.0.1/"),
        (URI, "x.example", "https://[2001:db8::1]/"),
        (URI, "x.example", "https:///path"),
        (URI, "x.example", "//host.example/"),
        (URI, "x.example", "https://a%2eexample/"),
        (URI, "x.example", "https://a.example\\@x.example/"),
    ] {
        assert!(!permitted(text(form, base), text(form, name)), "{name}");
        assert!(excluded(text(form, base), text(form, name)), "{name}");
    }
    let prefix = || (IP, vec![10, 0, 0, 0, 255, 0, 0, 0]);
    assert!(excluded(prefix(), (IP, vec![192, 0, 2, 0, 255, 255, 255, 0])));
}

#[test]
fn refuses_every_path_with_a_malformed_constraint() {
    for base in [
        text(DNS, "*.fleet.example"),
        text(DNS, "..fleet.example"),
        text(DNS, "."),
        text(DNS, "fleet.example."),
        text(EMAIL, "a@b@c.example"),
        text(EMAIL, "*.example"),
        text(URI, "https://fleet.example"),
        text(URI, "."),
        (IP, vec![10, 0, 0, 0]),
        (IP, vec![10, 0, 0, 0, 255, 0, 255, 0]),
        (IP, vec![0; 31]),
        (DIRECTORY, test_certificates::name(&[(test_certificates::CN, 0x0c, "a")]).split_off(1)),
    ] {
        let refusal = check(
            test_certificates::name_constraints(std::slice::from_ref(&base), &[]),
            cn("d"),
            &Vec::new(),
        );
        assert_eq!(refusal.map_err(|r| r.code), Err(Code::NameConstraint), "{base:?}");
    }
    assert!(check(test_certificates::seq::<Vec<u8>>(&[]), cn("d"), &Vec::new()).is_err());
    assert!(
        check(test_certificates::seq(&[test_certificates::tlv(0xa0, &[])]), cn("d"), &Vec::new())
            .is_err()
    );
}

/// OpenSSL, NSS, Go and webpki read a leading period in this way.
#[test]
fn a_leading_period_in_a_dns_constraint_means_subdomains_only() {
    let base = || text(DNS, ".fleet.example");
    for (name, within) in [
        ("dev1.fleet.example", true),
        ("a.b.fleet.example", true),
        ("*.fleet.example", true),
        ("fleet.example", false),
        ("devfleet.example", false),
        ("dev1.fleet.example.org", false),
        ("*.example", false),
    ] {
        assert_eq!(permitted(base(), text(DNS, name)), within, "{name}");
        assert_eq!(excluded(base(), text(DNS, name)), within, "{name}");
    }
}

/// A name that is not IA5String matters only if its form is constrained.
#[test]
fn a_name_that_is_not_ia5_is_refused_only_if_its_form_is_constrained() {
    let name = || (DNS, b"ger\xe4t.example".to_vec());
    assert!(permitted(text(URI, "x.example"), name()));
    assert!(!permitted(text(DNS, "example"), name()));
    assert!(excluded(text(DNS, "x.example"), name()), "it cannot be compared");
}

#[test]
fn forms_do_not_constrain_each_other() {
    for base in [text(DNS, "x.example"), text(EMAIL, "x.example"), text(URI, "x.example")] {
        let address = (IP, vec![10, 0, 0, 1]);
        assert!(permitted(base.clone(), address.clone()) && !excluded(base, address));
    }
}

#[test]
fn refuses_names_of_a_constrained_form_that_is_not_supported() {
    let other = || {
        (
            OTHER,
            [test_certificates::oid(&[0x2a, 3]), test_certificates::tlv(0xa0, &[5, 0])].concat(),
        )
    };
    assert!(excluded(other(), other()));
    assert!(!permitted(other(), other()));
    assert!(permitted(other(), text(DNS, "a.example")));
    // The maximum field is not supported either.
    let base = test_certificates::general_name(&text(DNS, "example"));
    let bounded = test_certificates::seq(&[base, test_certificates::tlv(0x81, &[1])]);
    let extension = test_certificates::seq(&[test_certificates::tlv(0xa0, &bounded)]);
    assert!(check(extension.clone(), cn("d"), &vec![text(DNS, "a.example")]).is_err());
    assert!(check(extension, cn("d"), &vec![text(URI, "https://a.example")]).is_ok());
}

#[test]
fn directory_names_and_mail_in_the_subject_are_constrained() {
    let base = (DIRECTORY, test_certificates::name(&[(test_certificates::O, 0x0c, "Acme")]));
    let below = test_certificates::name(&[
        (test_certificates::O, 0x13, "ACME"),
        (test_certificates::CN, 0x0c, "d"),
    ]);
    let beside = test_certificates::name(&[
        (test_certificates::O, 0x0c, "Acme Inc"),
        (test_certificates::CN, 0x0c, "d"),
    ]);
    let only = || test_certificates::name_constraints(std::slice::from_ref(&base), &[]);
    let never = || test_certificates::name_constraints(&[], std::slice::from_ref(&base));
    assert!(check(only(), below.clone(), &Vec::new()).is_ok());
    assert!(check(only(), beside.clone(), &Vec::new()).is_err());
    assert!(
        check(only(), test_certificates::seq::<Vec<u8>>(&[]), &vec![(DIRECTORY, beside.clone())])
            .is_err()
    );
    assert!(check(never(), below, &Vec::new()).is_err());
    assert!(check(never(), beside, &Vec::new()).is_ok());
    // Latin-1 in a UTF8String cannot be compared.
    let illegible = test_certificates::seq(&[test_certificates::tlv(
        0x31,
        &test_certificates::seq(&[
            test_certificates::oid(test_certificates::O),
            vec![0x0c, 1, 0xe9],
        ]),
    )]);
    assert!(check(never(), illegible, &Vec::new()).is_err());

    let mail = test_certificates::name(&[(test_certificates::EMAIL, 0x16, "a@fleet.example")]);
    let hosts = |host: &str| test_certificates::name_constraints(&[text(EMAIL, host)], &[]);
    assert!(check(hosts("fleet.example"), mail.clone(), &Vec::new()).is_ok());
    assert!(check(hosts("other.example"), mail, &Vec::new()).is_err());
}

#[test]
fn a_name_must_satisfy_the_constraints_of_every_authority() {
    let key = Key::number(0);
    let mut constraints = Constraints::default();
    for base in ["fleet.example", "b.fleet.example"] {
        let extension = test_certificates::name_constraints(&[text(DNS, base)], &[]);
        let der = Spec::authority(cn("CA"), cn("CA"))
            .with(test_certificates::NAME_CONSTRAINTS, true, extension)
            .sign(key, key);
        constraints.add(&Certificate::from_der(&der).expect("a CA")).expect("readable");
    }
    for (name, good) in [("a.b.fleet.example", true), ("a.fleet.example", false)] {
        let san = test_certificates::general_names(&[text(DNS, name)]);
        let der = Spec::device(cn("d"), cn("CA"))
            .with(test_certificates::SUBJECT_ALT_NAME, false, san)
            .sign(key, key);
        let leaf = Certificate::from_der(&der).expect("a leaf");
        assert_eq!(constraints.check(&leaf, &mut 100).is_ok(), good, "{name}");
        let spent = constraints.check(&leaf, &mut 1).map_err(|refusal| refusal.code);
        assert_eq!(spent, Err(Code::PathBudget));
    }
}

proptest! {
    #[test]
    fn hosts_are_compared_by_label(
        base in prop::collection::vec("[ab]{1,2}", 1..4),
        name in prop::collection::vec("[ab]{1,2}", 1..5),
    ) {
        let within = name.len() >= base.len() && name[name.len() - base.len()..] == base[..];
        let (base, name) = (base.join("."), name.join("."));
        prop_assert_eq!(permitted(text(DNS, &base), text(DNS, &name)), within);
        prop_assert_eq!(excluded(text(DNS, &base), text(DNS, &name)), within);
    }

    #[test]
    fn addresses_are_compared_by_bit(base: u32, address: u32, bits in 0u32..=32) {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let near = (base & mask) | (address & !mask);
        let subtree = || (IP, [base.to_be_bytes(), mask.to_be_bytes()].concat());
        prop_assert!(permitted(subtree(), (IP, near.to_be_bytes().to_vec())));
        prop_assert!(excluded(subtree(), (IP, near.to_be_bytes().to_vec())));
        let within = base & mask == address & mask;
        prop_assert_eq!(permitted(subtree(), (IP, address.to_be_bytes().to_vec())), within);
        // An IPv6 address is not within an IPv4 subtree.
        prop_assert!(!permitted(subtree(), (IP, vec![0; 16])));
    }

    #[test]
    fn a_subtree_that_permits_a_name_also_excludes_it(
        base in "[a-c.@*]{0,6}",
        name in "[a-c.@*:/]{0,9}",
        form in 1u8..=2,
    ) {
        let is_permitted = permitted(text(form, &base), text(form, &name));
        let is_excluded = excluded(text(form, &base), text(form, &name));
        prop_assert!(!is_permitted || is_excluded, "permitted but not excluded");
    }

    #[test]
    fn does_not_panic_on_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        uri in "\\PC{0,40}",
    ) {
        let _ = NameConstraints::read(&bytes);
        let _ = (uri_host(&uri), mailbox(&uri), is_host(&uri, true));
    }
}
