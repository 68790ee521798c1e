use std::collections::HashSet;

use proptest::prelude::*;
use rcgen::{CertificateParams, CustomExtension, DnType, DnValue, KeyPair, SanType};

use super::*;
use crate::x509::der::tag;

/// Tag number and contents of a GeneralName.
type Raw<'a> = (u8, &'a [u8]);

/// Makes a certificate with these names in subjectAltName.  The contents are not checked.
fn with_names(names: &[Raw<'_>]) -> Certificate {
    let mut body = Vec::new();
    for (number, contents) in names {
        let tag = if *number == 0 || *number == 4 { 0xa0 } else { 0x80 } | number;
        body.extend(tlv(tag, contents));
    }
    let mut params = CertificateParams::default();
    if !names.is_empty() {
        let san = CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(tag::SEQUENCE, &body));
        params.custom_extensions.push(san);
    }
    certificate(&params)
}

fn certificate(params: &CertificateParams) -> Certificate {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    Certificate::from_der(certificate.der()).expect("readable")
}

fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match contents.len() {
        n @ 0..=127 => out.push(n as u8),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    if (128..256).contains(&contents.len()) {
        out.truncate(1);
        out.extend([0x81, contents.len() as u8]);
    }
    out.extend_from_slice(contents);
    out
}

const DNS: u8 = 2;
const URI: u8 = 6;
const IP: u8 = 7;
const EMAIL: u8 = 1;

fn of(names: &[Raw<'_>], field: SubjectField) -> Result<String, Code> {
    SubjectId::of(&with_names(names), field).map(|id| id.as_str().to_owned()).map_err(|r| r.code)
}

fn parse(field: SubjectField, text: &str) -> Result<String, Code> {
    SubjectId::parse(field, text).map(|id| id.as_str().to_owned()).map_err(|r| r.code)
}

#[test]
fn each_field_uses_names_of_its_kind() {
    let names: &[Raw<'_>] = &[
        (DNS, b"Dev1.Example.COM"),
        (URI, b"spiffe://acme/dev/1"),
        (IP, &[10, 0, 0, 1]),
        (EMAIL, b"Dev.1@Example.COM"),
    ];
    let ok = |s: &str| Ok(s.to_owned());
    assert_eq!(of(names, SubjectField::SanDns), ok("dev1.example.com"));
    assert_eq!(of(names, SubjectField::SanUri), ok("spiffe://acme/dev/1"));
    assert_eq!(of(names, SubjectField::SanIp), ok("10.0.0.1"));
    assert_eq!(of(names, SubjectField::SanEmail), ok("Dev.1@example.com"));
}

/// RFC 5280 section 4.2.1.6: a certificate has no final dot.  A client may write one.
#[test]
fn refuses_a_final_dot_in_a_certificate_only() {
    for (field, tag, text, canonical) in [
        (SubjectField::SanDns, DNS, "meter-1.example.", "meter-1.example"),
        (SubjectField::SanEmail, EMAIL, "m1@b.example.", "m1@b.example"),
    ] {
        assert_eq!(of(&[(tag, text.as_bytes())], field), Err(Code::SubjectInvalid), "{text}");
        assert_eq!(parse(field, text).as_deref(), Ok(canonical));
    }
}

/// Two certificates must not have one identity, or look alike, because of characters without a glyph.
#[test]
fn refuses_characters_without_a_glyph_in_names() {
    for c in [
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{115f}',
        '\u{1160}',
        '\u{17b4}',
        '\u{180e}',
        '\u{200b}',
        '\u{200d}',
        '\u{202e}',
        '\u{2060}',
        '\u{206f}',
        '\u{2800}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{ffa0}',
        '\u{fffb}',
        '\u{1d173}',
        '\u{e0041}',
        '\u{e0100}',
    ] {
        for text in [format!("CN=inven{c}tory"), format!("CN=a,O=Con{c}toso")] {
            assert_eq!(parse(SubjectField::SubjectDn, &text), Err(Code::SubjectInvalid), "{c:?}");
        }
    }
    let id = |text: &str| SubjectId::parse(SubjectField::SubjectDn, text).expect("a subject");
    assert_ne!(id("CN=\u{131}nventory"), id("CN=inventory"), "dotless i is another letter");
    assert_ne!(id("CN=inv\u{435}ntory"), id("CN=inventory"), "a Cyrillic letter is another letter");
}

/// 8705-11: zero or several values are refused.  The first of several is not used.
#[test]
fn refuses_zero_or_several_values() {
    for field in SubjectField::ALL.into_iter().filter(|f| *f != SubjectField::SubjectDn) {
        assert_eq!(of(&[], field), Err(Code::SubjectMissing), "{field:?}");
    }
    let other: Raw<'_> = (0, &[6, 1, 42, 0xa0, 2, 5, 0]);
    assert_eq!(of(&[other, (URI, b"urn:a:b")], SubjectField::SanDns), Err(Code::SubjectMissing));
    assert_eq!(of(&[(DNS, b"a"), (DNS, b"b")], SubjectField::SanDns), Err(Code::SubjectAmbiguous));
    assert_eq!(of(&[(DNS, b"a"), (DNS, b"a")], SubjectField::SanDns), Err(Code::SubjectAmbiguous));
    // An invalid second value counts as well.
    assert_eq!(of(&[(DNS, b"a"), (DNS, b"*")], SubjectField::SanDns), Err(Code::SubjectAmbiguous));
    // Names of other kinds do not count.
    let mixed = [other, (DNS, b"a"), (URI, b"urn:a:b"), (8, &[42])];
    assert_eq!(of(&mixed, SubjectField::SanDns), Ok("a".to_owned()));
}

#[test]
fn an_empty_subject_is_missing() {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let certificate = certificate(&params);
    let refusal = SubjectId::of(&certificate, SubjectField::SubjectDn).map_err(|r| r.code);
    assert_eq!(refusal, Err(Code::SubjectMissing));
    assert_eq!(parse(SubjectField::SubjectDn, ""), Err(Code::SubjectInvalid));
}

/// NAME-2, NAME-3: A-labels in lower case, no wildcard.
#[test]
fn dns_names_are_ldh_a_labels() {
    for (text, want) in [
        ("a", "a"),
        ("DEV-1.example", "dev-1.example"),
        ("xn--Bcher-kva.example", "xn--bcher-kva.example"),
        ("0042", "0042"),
        ("_Device_1.fleet.example", "_device_1.fleet.example"),
    ] {
        assert_eq!(of(&[(DNS, text.as_bytes())], SubjectField::SanDns).as_deref(), Ok(want));
        assert_eq!(parse(SubjectField::SanDns, text).as_deref(), Ok(want));
    }
    let long = format!("{}.{}", "a".repeat(63), vec!["b".repeat(63); 3].join("."));
    let label = "a".repeat(64);
    for text in [
        "",
        ".",
        "a..b",
        "a..",
        ".a",
        "-a",
        "a-",
        "a b",
        "*",
        "*.example",
        "a.*.b",
        "10.0.0.1",
        "a\0b",
        "a/b",
        "a\n",
        &label,
        &long,
    ] {
        assert_eq!(
            of(&[(DNS, text.as_bytes())], SubjectField::SanDns),
            Err(Code::SubjectInvalid),
            "{text:?}"
        );
        assert_eq!(parse(SubjectField::SanDns, text), Err(Code::SubjectInvalid), "{text:?}");
    }
    assert_eq!(parse(SubjectField::SanDns, "bücher.example"), Err(Code::SubjectInvalid));
}

/// NAME-4: URIs compare exactly, SPIFFE and `urn:` among them.
#[test]
fn uris_are_absolute_and_unchanged() {
    for text in [
        "spiffe://Trust.Example/Dev%2f1",
        "urn:uuid:F81D4FAE-7dec-11d0-a765-00a0c91e6bf6",
        "urn:dev:mac:0024befffe804ff1",
        "https://user:x@[2001:db8::1]:8443/a;b=c?d=/?#e",
        "a:b",
        "tag:x,2026:y",
    ] {
        assert_eq!(of(&[(URI, text.as_bytes())], SubjectField::SanUri).as_deref(), Ok(text));
        assert_eq!(parse(SubjectField::SanUri, text).as_deref(), Ok(text));
    }
    let long = format!("urn:a:{}", "b".repeat(MAX_CHARACTERS));
    for text in [
        "",
        "dev1",
        "//host/path",
        "/a:b",
        ":a",
        "1a:b",
        "a:",
        "urn:a b",
        "urn:a%2",
        "urn:a%zz",
        "urn:a\"b",
        "urn:<a>",
        "http://[::1",
        "http://[x]/",
        "http://a:b/",
        "http://a@b@c/",
        "urn:a#b#c",
        "urn:a\0",
        "urn:a[b]",
        &long,
    ] {
        assert_eq!(
            of(&[(URI, text.as_bytes())], SubjectField::SanUri),
            Err(Code::SubjectInvalid),
            "{text:?}"
        );
    }
    assert_eq!(parse(SubjectField::SanUri, "urn:dev:\u{202e}x"), Err(Code::SubjectInvalid));
}

/// NAME-5, 8705-9: addresses are compared as bytes and shown in one form.
#[test]
fn addresses_have_4_or_16_bytes() {
    let v6 = |text: &str| text.parse::<core::net::Ipv6Addr>().expect("an address").octets();
    let long = v6("2001:0db8:0:0:0:0:0:1");
    assert_eq!(of(&[(IP, &long)], SubjectField::SanIp).as_deref(), Ok("2001:db8::1"));
    assert_eq!(parse(SubjectField::SanIp, "2001:0DB8:0:0::0:1").as_deref(), Ok("2001:db8::1"));
    let mapped = v6("::ffff:10.0.0.1");
    assert_eq!(of(&[(IP, &mapped)], SubjectField::SanIp).as_deref(), Ok("::ffff:10.0.0.1"));
    assert_ne!(
        SubjectId::of(&with_names(&[(IP, &mapped)]), SubjectField::SanIp),
        SubjectId::parse(SubjectField::SanIp, "10.0.0.1")
    );
    for bytes in [&[][..], &[10], &[10, 0, 0], &[0; 5], &[0; 8], &[0; 15], &[0; 17], &[0; 32]] {
        assert_eq!(of(&[(IP, bytes)], SubjectField::SanIp), Err(Code::SubjectInvalid));
    }
    for text in ["10.0.0", "10.0.0.01", "10.0.0.1/32", "fe80::1%eth0", "[::1]", " 10.0.0.1", "ten"]
    {
        assert_eq!(parse(SubjectField::SanIp, text), Err(Code::SubjectInvalid), "{text}");
    }
}

#[test]
fn mailboxes_keep_the_local_part() {
    assert_eq!(
        parse(SubjectField::SanEmail, "A.b+c@EXAMPLE.com").as_deref(),
        Ok("A.b+c@example.com")
    );
    assert_ne!(parse(SubjectField::SanEmail, "A@x"), parse(SubjectField::SanEmail, "a@x"));
    let long = format!("{}@x", "a".repeat(65));
    for text in [
        "",
        "a",
        "@",
        "a@",
        "@x",
        "a@@x",
        "a b@x",
        "\"a\"@x",
        "a@[10.0.0.1]",
        "a@10.0.0.1",
        ".a@x",
        "a.@x",
        "a..b@x",
        "a@x_y",
        "a@*.x",
        "a\0@x",
        "<a@x>",
        "mailto:a@x,b@y",
        &long,
    ] {
        assert_eq!(
            of(&[(EMAIL, text.as_bytes())], SubjectField::SanEmail),
            Err(Code::SubjectInvalid),
            "{text:?}"
        );
    }
}

fn with_subject(cn: DnValue) -> Certificate {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "DE");
    params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc.");
    params.distinguished_name.push(DnType::CommonName, cn);
    params.subject_alt_names = vec![SanType::DnsName("other".try_into().expect("IA5"))];
    certificate(&params)
}

/// 8705-8, DN-4: the text is RFC 4514, the comparison is of typed attributes.
#[test]
fn a_subject_name_is_rfc_4514_text_compared_as_a_name() {
    let certificate =
        with_subject(DnValue::PrintableString("Dev 1".try_into().expect("printable")));
    let id = SubjectId::of(&certificate, SubjectField::SubjectDn).expect("an ID");
    assert_eq!(id.as_str(), "CN=Dev 1,O=Acme\\, Inc.,C=DE");
    for text in [
        "CN=Dev 1,O=Acme\\, Inc.,C=DE",
        "cn=dev  1, o=acme\\2c inc., c=de",
        "2.5.4.3=#0c05446576 2031,O=Acme\\, Inc.,C=DE",
    ] {
        let text = text.replace("6 2", "62");
        let typed = SubjectId::parse(SubjectField::SubjectDn, &text).expect("an ID");
        assert_eq!(typed, id, "{text}");
        assert_eq!(HashSet::from([id.clone(), typed]).len(), 1);
    }
    for text in [
        "C=DE,O=Acme\\, Inc.,CN=Dev 1",
        "CN=Dev 1,O=Acme\\, Inc.",
        "CN=Dev 1,O=Acme\\, Inc.,C=DE,DC=x",
        "CN=Dev 1,OU=Acme\\, Inc.,C=DE",
        "CN=Dev 1+O=Acme\\, Inc.,C=DE",
        "CN=Dev 1",
    ] {
        assert_ne!(SubjectId::parse(SubjectField::SubjectDn, text).expect("an ID"), id, "{text}");
    }
}

/// DN-6: misleading characters and strings that are not validly encoded are refused.
#[test]
fn refuses_subject_names_that_are_not_printable() {
    for cn in ["a\0b", "a\nb", "a\u{202e}b", "a\u{2066}b", "\u{7f}", "\u{85}", "a\u{2028}b"] {
        let certificate = with_subject(DnValue::Utf8String(cn.to_owned()));
        let refusal = SubjectId::of(&certificate, SubjectField::SubjectDn).map_err(|r| r.code);
        assert_eq!(refusal, Err(Code::SubjectInvalid), "{cn:?}");
    }
    let teletex = with_subject(DnValue::TeletexString("dev1".try_into().expect("teletex")));
    let id = SubjectId::of(&teletex, SubjectField::SubjectDn).expect("an ID");
    assert_eq!(id, SubjectId::parse(SubjectField::SubjectDn, id.as_str()).expect("an ID"));
    assert_eq!(parse(SubjectField::SubjectDn, "CN=a\\00b"), Err(Code::SubjectInvalid));
    assert_eq!(parse(SubjectField::SubjectDn, "CN=#1e0361"), Err(Code::SubjectInvalid));
    assert_eq!(parse(SubjectField::SubjectDn, "CN=#1e0161"), Err(Code::SubjectInvalid));
    assert_eq!(parse(SubjectField::SubjectDn, "1.2.3=#0c0100"), Err(Code::SubjectInvalid));
    let long = format!("CN={}", "a".repeat(MAX_CHARACTERS - 2));
    assert_eq!(parse(SubjectField::SubjectDn, &long), Err(Code::SubjectInvalid));
    assert!(parse(SubjectField::SubjectDn, &long[1..].replacen("N=", "L=", 1)).is_ok());
}

fn field() -> impl Strategy<Value = SubjectField> {
    proptest::sample::select(&SubjectField::ALL[..])
}

proptest! {
    #[test]
    fn parsing_is_idempotent(field in field(), text in "\\PC{0,40}", plausible in
        "(CN=[a-z,+\\\\ ]{1,8},O=x|[A-Z0-9.-]{1,20}|[a-z]{1,5}:[ -~]{1,20}|[0-9a-f:.]{2,20}|[ -~]{1,9}@[A-Z.]{1,9})")
    {
        for text in [text, plausible] {
            if let Ok(once) = SubjectId::parse(field, &text) {
                let twice = SubjectId::parse(field, once.as_str()).expect("canonical text is read");
                prop_assert_eq!(&once, &twice);
                prop_assert!(once.as_str().chars().count() <= MAX_CHARACTERS);
                prop_assert!(!once.as_str().chars().any(char::is_control));
                if field != SubjectField::SubjectDn {
                    prop_assert_eq!(once.as_str(), twice.as_str());
                }
            }
        }
    }

    #[test]
    fn ids_of_different_fields_differ(a in field(), b in field(), text in "[a-z]{1,5}") {
        let ids = (SubjectId::parse(a, &text), SubjectId::parse(b, &text));
        if let (Ok(x), Ok(y)) = ids {
            prop_assert_eq!(x == y, a == b);
        }
    }
}
