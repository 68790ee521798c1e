//! Formatter for distinguished names in RFC 4514 text.
//!
//! The text of x509-parser is not safe for identities: it does not escape, so `CN=dev1, O=Acme` may
//! be one attribute or two.  This formatter escapes every character that RFC 4514 section 2.4
//! requires.  [`from_rfc4514`](crate::x509::name::parse::from_rfc4514) parses the output of
//! [`to_rfc4514`] into an equal name.

use std::fmt::{self, Write as _};

use crate::x509::name::oid::{SHORT_NAMES, dotted};
use crate::x509::name::{self, Attribute, Name};

/// Formats a name as RFC 4514 text: the last RDN first, `,` between RDNs, `+` within one.
pub(crate) fn to_rfc4514(name: &Name) -> String {
    let mut out = String::new();
    for rdn in name.rdns().iter().rev() {
        if !out.is_empty() {
            out.push(',');
        }
        for (i, attribute) in rdn.iter().enumerate() {
            if i > 0 {
                out.push('+');
            }
            write_attribute(&mut out, attribute);
        }
    }
    out
}

/// RFC 4514 text for display.  Names are not compared in this form.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_rfc4514(self))
    }
}

fn write_attribute(out: &mut String, attribute: &Attribute<'_>) {
    let short = SHORT_NAMES.iter().find(|(_, oid)| *oid == attribute.oid);
    // The value is in hex if the type has no short name (RFC 4514 section 2.4) or the value is not
    // a string.
    let text = name::text(attribute.value);
    match (short, text) {
        (Some((short, _)), Some(text)) => {
            out.push_str(short);
            out.push('=');
            escape(out, &text);
        }
        (short, _) => {
            match short {
                Some((short, _)) => out.push_str(short),
                None => out.push_str(&dotted(attribute.oid)),
            }
            out.push_str("=#");
            for byte in attribute.value.raw {
                let _ = write!(out, "{byte:02x}");
            }
        }
    }
}

fn escape(out: &mut String, text: &str) {
    let last = text.chars().count().saturating_sub(1);
    for (i, c) in text.chars().enumerate() {
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' ' if i == 0 || i == last => out.push_str("\\ "),
            '#' if i == 0 => out.push_str("\\#"),
            c if c.is_control() => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "\\{byte:02x}");
                }
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::der::tag;
    use crate::x509::name::oid::undotted;
    use crate::x509::name::parse::{MAX_TEXT, OTHER_NAMES, encode, from_rfc4514};
    use crate::x509::name::tests::{Rdn, encode as name_der};
    use proptest::prelude::*;

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];
    const C: &[u8] = &[0x55, 4, 6];

    fn name(rdns: &[Rdn<'_>]) -> Name {
        Name::from_der(&name_der(rdns)).expect("a name")
    }

    fn read(text: &str) -> Name {
        from_rfc4514(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn prints_the_last_rdn_first_and_joins_attributes_with_plus() {
        let dn = name(&[
            &[(C, tag::PRINTABLE_STRING, b"DE")],
            &[(O, tag::UTF8_STRING, b"Acme")],
            &[(CN, tag::UTF8_STRING, b"dev1"), (&[0x55, 4, 11], tag::UTF8_STRING, b"x")],
        ]);
        assert_eq!(to_rfc4514(&dn), "CN=dev1+OU=x,O=Acme,C=DE");
        assert_eq!(read("CN=dev1+OU=x,O=Acme,C=DE"), dn);
        assert_eq!(read("OU=x+CN=dev1,O=Acme,C=DE"), dn, "an RDN is a set");
        assert_ne!(read("C=DE,O=Acme,CN=dev1+OU=x"), dn, "a name is a sequence");
    }

    #[test]
    fn an_attribute_with_a_comma_differs_from_two_attributes() {
        let one = name(&[&[(CN, tag::UTF8_STRING, b"dev1,O=Acme")]]);
        let two = name(&[&[(O, tag::UTF8_STRING, b"Acme")], &[(CN, tag::UTF8_STRING, b"dev1")]]);
        assert_eq!(to_rfc4514(&one), "CN=dev1\\,O=Acme");
        assert_eq!(to_rfc4514(&two), "CN=dev1,O=Acme");
        assert_ne!(one, two);
    }

    #[test]
    fn parses_every_notation_of_types_and_values() {
        let dn = read("CN=a\\,b,O=x");
        for text in [
            "cn=a\\2cb,o=x",
            "CN=a\\2Cb,O=x",
            "2.5.4.3=a\\,b,OID.2.5.4.10=x",
            "commonName = a\\,b , organizationName = x ",
            "CN=#0c03612c62,O=#130178",
            "CN=#0C03612C62 ,O=\\78",
        ] {
            assert_eq!(read(text), dn, "{text}");
        }
    }

    #[test]
    fn parses_openssl_rfc2253_output() {
        // Output of `openssl x509 -noout -subject -nameopt RFC2253`, and the same names in DER.
        let dn = name(&[
            &[(C, tag::PRINTABLE_STRING, b"DE")],
            &[(O, tag::UTF8_STRING, "Acme\\, \"GmbH\" + S\u{f6}hne".as_bytes())],
            &[(&[0x55, 4, 11], tag::UTF8_STRING, b"#1 <unit>;x=y")],
            &[(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], tag::IA5_STRING, b"a@b.c")],
            &[(&[0x55, 4, 5], tag::PRINTABLE_STRING, b"0042")],
            &[(&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], tag::UTF8_STRING, b"u1")],
            &[(CN, tag::UTF8_STRING, b"  dev\\\\1 ")],
        ]);
        let tail = ",UID=u1,serialNumber=0042,emailAddress=a@b.c,OU=\\#1 \\<unit\\>\\;x=y,\
                    O=Acme\\\\\\, \\\"GmbH\\\" \\+ S";
        assert_eq!(read(&format!("CN=\\  dev\\\\\\\\1\\ {tail}\\C3\\B6hne,C=DE")), dn);
        assert_eq!(read(&format!("CN=\\  dev\\\\\\\\1\\ {tail}\u{f6}hne,C=DE")), dn);
        assert_eq!(
            read("SN=s,GN=g,title=T,CN=multi+OU=a,DC=acme,DC=com"),
            read("2.5.4.4=s,2.5.4.42=#0c0167,2.5.4.12=#0c0154,OU=a+CN=multi,dc=acme,dc=com")
        );
    }

    #[test]
    fn rejects_invalid_names_at_the_invalid_byte() {
        for (text, at) in [
            ("CN", 2),
            ("CN=a,", 5),
            (",CN=a", 0),
            ("CN=a+", 5),
            ("FOO=a", 0),
            ("3.1=a", 0),
            ("1.40=a", 0),
            ("2.5.04.3=a", 0),
            ("CN=a;O=b", 4),
            ("CN=\"a\"", 3),
            ("CN=a\\", 5),
            ("CN=a\\zz", 5),
            ("CN=\\ff", 3),
            ("CN=#0c", 4),
            ("CN=#0c01", 4),
            ("CN=#0c0161ff", 4),
            ("CN=#0c0161x", 10),
        ] {
            assert_eq!(from_rfc4514(text).map_err(|e| e.at), Err(at), "{text}");
        }
        assert!(from_rfc4514(&format!("CN={}", "a".repeat(MAX_TEXT))).is_err());
        assert!(read("").is_empty());
    }

    /// Generates attributes of known and unknown types with values of every string type and others.
    fn attribute() -> impl Strategy<Value = (Vec<u8>, u8, Vec<u8>)> {
        let oid = prop_oneof![
            proptest::sample::select(SHORT_NAMES).prop_map(|(_, oid)| oid.to_vec()),
            proptest::sample::select(OTHER_NAMES).prop_map(|(_, oid)| oid.to_vec()),
            proptest::collection::vec(any::<u32>(), 1..5).prop_map(|arcs| {
                let text: Vec<_> = arcs.iter().map(u32::to_string).collect();
                undotted(&format!("2.{}", text.join("."))).expect("an OID")
            }),
        ];
        let value = prop_oneof![
            4 => "[\\PC\\x00-\\x1f]{0,12}".prop_map(|s| (tag::UTF8_STRING, s.into_bytes())),
            4 => "[ #+,;<=>\"\\\\a]{0,8}".prop_map(|s| (tag::PRINTABLE_STRING, s.into_bytes())),
            1 => any::<Vec<u8>>().prop_map(|v| (tag::TELETEX_STRING, v)),
            1 => any::<Vec<u8>>().prop_map(|v| (tag::BMP_STRING, v)),
            1 => any::<Vec<u8>>().prop_map(|v| (tag::UTF8_STRING, v)),
            1 => any::<Vec<u8>>().prop_map(|v| (tag::OCTET_STRING, v)),
        ];
        (oid, value).prop_map(|(oid, (tag, value))| (oid, tag, value))
    }

    fn any_name() -> impl Strategy<Value = Name> {
        let rdn = proptest::collection::vec(attribute(), 1..4);
        proptest::collection::vec(rdn, 0..5).prop_map(|rdns| {
            let rdns: Vec<Vec<u8>> = rdns
                .iter()
                .map(|rdn| {
                    let pairs: Vec<Vec<u8>> = rdn
                        .iter()
                        .map(|(oid, t, value)| {
                            let pair = [encode(tag::OID, oid), encode(*t, value)].concat();
                            encode(tag::SEQUENCE, &pair)
                        })
                        .collect();
                    encode(tag::SET, &pairs.concat())
                })
                .collect();
            Name::from_der(&encode(tag::SEQUENCE, &rdns.concat())).expect("a name")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn formatted_names_parse_to_equal_names(dn in any_name()) {
            let text = to_rfc4514(&dn);
            let back = from_rfc4514(&text);
            prop_assert_eq!(back.as_ref(), Ok(&dn), "{}", text);
            prop_assert_eq!(to_rfc4514(&read(&text)), to_rfc4514(&read(&to_rfc4514(&read(&text)))));
        }

        #[test]
        fn different_names_have_different_text(a in any_name(), b in any_name()) {
            prop_assert!(a == b || to_rfc4514(&a) != to_rfc4514(&b));
        }

        #[test]
        fn does_not_panic_on_any_text(
            text in "\\PC{0,60}",
            escapes in "[\\\\#=,+a-fA-F0-9CN. ]{0,40}",
        ) {
            let _ = from_rfc4514(&text);
            let _ = from_rfc4514(&escapes);
        }
    }
}
