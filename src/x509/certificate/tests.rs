//! Tests of the certificate parser.

use super::extensions::{MAX_EXTENSIONS, read_oids};
use super::*;
use crate::x509::test_certificates::{self, Key, NOW, Spec, cn, seq, tlv};
use proptest::prelude::*;

fn sign(spec: &Spec) -> Vec<u8> {
    spec.sign(Key::number(0), Key::number(1))
}

fn read(spec: &Spec) -> Result<Certificate, CertificateError> {
    Certificate::from_der(&sign(spec))
}

fn device() -> Spec {
    Spec::device(cn("device"), cn("Issuer"))
}

#[test]
fn parses_every_field_that_decides_trust() {
    let spec = device().path_length(3).key_ids(Key::number(0), Key::number(1)).with(
        test_certificates::SUBJECT_ALT_NAME,
        false,
        test_certificates::general_names(&[(7, vec![10, 0, 0, 1])]),
    );
    let der = sign(&spec);
    let it = Certificate::from_der(&der).expect("a certificate");
    assert_eq!((it.version, &*it.serial), (3, &[0x42][..]));
    assert_eq!(it.issuer.to_string(), "CN=Issuer");
    assert_eq!(it.subject.to_string(), "CN=device");
    assert!(it.is_valid_at(Timestamp(NOW)) && !it.is_self_issued());
    assert_eq!(it.basic_constraints, Some(BasicConstraints { ca: true, path_len: Some(3) }));
    assert!(it.key_usage.is_some_and(KeyUsage::digital_signature));
    assert_eq!(it.extended_key_usage.as_deref(), Some(&[oid::CLIENT_AUTH.into()][..]));
    assert_eq!(it.subject_alt_name, Some(vec![GeneralName::Ip([10, 0, 0, 1].into())]));
    assert_eq!(it.subject_key_id.as_deref(), Some(&Key::number(0).id[..]));
    let key_id = it.authority_key_id.as_ref().and_then(|aki| aki.key_id.as_deref());
    assert_eq!(key_id, Some(&Key::number(1).id[..]));
    assert_eq!(&*it.spki, &Key::number(0).spki[..]);
    assert_eq!(it.key, Fingerprint::of(&it.spki));
    assert_eq!(it.fingerprint, Fingerprint::of(&der));
    assert!(der.windows(it.tbs().len()).any(|window| window == it.tbs()));
}

#[test]
fn rejects_certificates_that_break_rfc_5280() {
    let twice = |mut spec: Spec| {
        spec.extensions.push(spec.extensions[0].clone());
        spec
    };
    let version = |n| Spec { version: n, ..device() };
    let old = |n| Spec { version: n, extensions: Vec::new(), ..device() };
    assert!(read(&old(1)).is_ok() && read(&old(2)).is_ok());
    let extensions = |count: usize| {
        (0..count).fold(Spec::new(cn("d"), cn("i")), |spec, n| {
            spec.with(&[0x2a, 3, (n / 100) as u8, (n % 100) as u8], false, vec![5, 0])
        })
    };
    assert!(read(&extensions(MAX_EXTENSIONS)).is_ok());
    let with = |kind, der| device().with(kind, false, der);
    for (spec, part) in [
        (version(1), "extensions"),
        (version(2), "extensions"),
        (old(4), "version"),
        (twice(device()), "extensions"),
        (extensions(MAX_EXTENSIONS + 1), "extensions"),
        (device().valid("260101000000", "270101000000Z"), "frame"),
        (with(test_certificates::BASIC_CONSTRAINTS, seq(&[tlv(1, &[1])])), "basicConstraints"),
        (with(test_certificates::BASIC_CONSTRAINTS, seq(&[tlv(2, &[0x80])])), "basicConstraints"),
        (with(test_certificates::KEY_USAGE, tlv(3, &[0, 1, 2, 3])), "keyUsage"),
        (with(test_certificates::EXTENDED_KEY_USAGE, seq::<Vec<u8>>(&[])), "extendedKeyUsage"),
        (with(test_certificates::SUBJECT_ALT_NAME, seq::<Vec<u8>>(&[])), "subjectAltName"),
        (with(test_certificates::SUBJECT_ALT_NAME, b"device".to_vec()), "subjectAltName"),
        (with(test_certificates::SUBJECT_KEY_ID, vec![5, 0]), "subjectKeyIdentifier"),
        (
            with(test_certificates::AUTHORITY_KEY_ID, seq(&[tlv(0x83, &[1])])),
            "authorityKeyIdentifier",
        ),
    ] {
        let error = read(&spec).expect_err(part);
        assert_eq!(error.part, part, "{error}");
    }
    let mut long = sign(&device());
    long.push(0);
    assert!(Certificate::from_der(&long).is_err());
    assert!(Certificate::from_der(&[]).is_err());
}

/// Encodings that cannot mean anything else, as certification authorities in the field make them.
#[test]
fn tolerates_encodings_with_one_meaning() {
    let read = |der: &[u8]| Certificate::from_der(der).expect("tolerated");
    assert_eq!(read(&sign(&device())).tolerated(), [] as [&str; 0]);

    // The extension is rewritten with `critical FALSE`.
    let basic = seq(&[
        tlv(6, test_certificates::BASIC_CONSTRAINTS),
        tlv(1, &[0]),
        tlv(4, &seq(&[tlv(1, &[0])])),
    ]);
    let list = der_extensions(&[basic]).expect("tolerated");
    assert!(!list[0].critical && list[0].encodes_default);
    assert!(der_extensions(&[]).expect("tolerated").is_empty());
    let not_boolean = seq(&[tlv(6, &[0x2a, 3]), tlv(1, &[1]), tlv(4, &[5, 0])]);
    assert!(der_extensions(&[not_boolean]).is_err(), "neither TRUE nor FALSE");

    let spec = device().with(test_certificates::BASIC_CONSTRAINTS, false, seq(&[tlv(1, &[0])]));
    assert_eq!(read(&sign(&spec)).tolerated(), ["encoded-default-ca"]);
    let spec =
        device().with(test_certificates::SUBJECT_ALT_NAME, false, seq(&[tlv(0x82, &[0xe9])]));
    assert_eq!(read(&sign(&spec)).tolerated(), ["name-not-ia5"]);
    let mut spec = device();
    spec.algorithm = seq(&[tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]), vec![5, 0]]);
    assert_eq!(read(&sign(&spec)).tolerated(), ["ecdsa-null-parameters"]);
}

#[test]
fn names_serial_numbers_that_the_profile_forbids() {
    for (serial, irregular) in [
        (&[1][..], false),
        (&[0x7f; 20], false),
        (&[&[0][..], &[0xff; 19]].concat(), false),
        (&[0], true),
        (&[0xff], true),
        (&[0x7f; 21], true),
    ] {
        let certificate =
            Certificate::from_der(&sign(&device().serial(serial))).expect("tolerated");
        let wanted: &[&str] = if irregular { &["irregular-serial"] } else { &[] };
        assert_eq!(certificate.tolerated(), wanted, "{serial:02x?}");
    }
}

#[test]
fn only_null_parameters_of_ecdsa_are_removed() {
    let ecdsa = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    assert_eq!(without_null(&[&ecdsa[..], &[5, 0]].concat()), Some(&ecdsa[..]));
    for other in
        [&ecdsa[..], &[&ecdsa[..], &[5, 0, 5, 0]].concat(), &[&ecdsa[..], &[4, 0]].concat()]
    {
        assert_eq!(without_null(other), None);
    }
    // The parameters of another algorithm have a meaning: ecdsa-with-SHA1 stays as it is.
    assert_eq!(without_null(&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1, 5, 0]), None);
}

fn der_extensions(list: &[Vec<u8>]) -> Result<Vec<Extension>, DerError> {
    read_extensions(&seq(list))
}

#[test]
fn rejects_an_outer_algorithm_that_differs_from_the_signed_one() {
    let mut der = sign(&device());
    // Changes ecdsa-with-SHA256 to ecdsa-with-SHA384 outside of the signed part.
    let algorithm = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let last = der.windows(8).rposition(|window| window == algorithm).expect("the outer one");
    der[last + 7] = 3;
    let error = Certificate::from_der(&der).expect_err("they differ");
    assert_eq!(error.part, "signature algorithm");
}

proptest! {
    #[test]
    fn does_not_panic_on_damaged_certificates(at in 0usize..600, value: u8, cut in 0usize..600) {
        let spec = device()
            .path_length(3)
            .key_ids(Key::number(0), Key::number(1))
            .with(test_certificates::SUBJECT_ALT_NAME, false, test_certificates::general_names(&[(4, cn("x"))]));
        let mut der = sign(&spec);
        if let Some(byte) = der.get_mut(at) {
            *byte = value;
        }
        let _ = Certificate::from_der(&der);
        let _ = Certificate::from_der(&der[..cut.min(der.len())]);
    }

    #[test]
    fn does_not_panic_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Certificate::from_der(&bytes);
        let _ = (read_extensions(&bytes), read_oids(&bytes), read_authority_key_id(&bytes));
        let _ = read_general_names(Reader::new(&bytes));
    }
}
