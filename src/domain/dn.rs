//! Distinguished names as RFC 4514 text, printed and read.
//!
//! x509-parser's text is not safe for identity: it does not escape, so that `CN=dev1, O=Acme` may be
//! one attribute or two.  This form escapes all that RFC 4514 section 2.4 tells to, and round-trips:
//! what [`to_rfc4514`] prints, [`from_rfc4514`] reads as an equal name.

use std::fmt::Write as _;

use crate::domain::der::{self, tag};
use crate::domain::name::{self, Attribute, Name};

/// Attribute types with a short name (RFC 4514 section 3, RFC 4519), as OID contents.
const SHORT_NAMES: &[(&str, &[u8])] = &[
    ("CN", &[0x55, 4, 3]),
    ("SN", &[0x55, 4, 4]),
    ("SERIALNUMBER", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("ST", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("UID", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
];

/// Other names that are read, never printed: long names of RFC 4519 and what OpenSSL prints.
const OTHER_NAMES: &[(&str, &[u8])] = &[
    ("commonName", &[0x55, 4, 3]),
    ("surname", &[0x55, 4, 4]),
    ("countryName", &[0x55, 4, 6]),
    ("localityName", &[0x55, 4, 7]),
    ("stateOrProvinceName", &[0x55, 4, 8]),
    ("S", &[0x55, 4, 8]),
    ("streetAddress", &[0x55, 4, 9]),
    ("organizationName", &[0x55, 4, 10]),
    ("organizationalUnitName", &[0x55, 4, 11]),
    ("title", &[0x55, 4, 12]),
    ("T", &[0x55, 4, 12]),
    ("description", &[0x55, 4, 13]),
    ("businessCategory", &[0x55, 4, 15]),
    ("postalCode", &[0x55, 4, 17]),
    ("name", &[0x55, 4, 41]),
    ("givenName", &[0x55, 4, 42]),
    ("GN", &[0x55, 4, 42]),
    ("G", &[0x55, 4, 42]),
    ("initials", &[0x55, 4, 43]),
    ("generationQualifier", &[0x55, 4, 44]),
    ("dnQualifier", &[0x55, 4, 46]),
    ("pseudonym", &[0x55, 4, 65]),
    ("organizationIdentifier", &[0x55, 4, 97]),
    ("userId", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1]),
    ("domainComponent", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("emailAddress", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
];

/// Bytes of text that [`from_rfc4514`] reads.
pub const MAX_TEXT: usize = 8 * 1024;

/// The name as RFC 4514 text: RDNs last first, `,` between them, `+` within one.
pub fn to_rfc4514(name: &Name) -> String {
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

fn write_attribute(out: &mut String, attribute: &Attribute<'_>) {
    let short = SHORT_NAMES.iter().find(|(_, oid)| *oid == attribute.oid);
    // A type without a short name has its value in hex (RFC 4514 section 2.4), and so has a value
    // that is no string.
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

/// An OBJECT IDENTIFIER's contents as dotted text.
pub fn dotted(oid: &[u8]) -> String {
    let mut out = String::new();
    let mut arc: u128 = 0;
    let mut first = true;
    for &byte in oid {
        arc = (arc << 7) | u128::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if first {
            let top = (arc / 40).min(2);
            let _ = write!(out, "{top}.{}", arc - top * 40);
            first = false;
        } else {
            let _ = write!(out, ".{arc}");
        }
        arc = 0;
    }
    out
}

/// Dotted text as OBJECT IDENTIFIER contents; `None` where it is none, or an arc passes 64 bits.
fn undotted(text: &str) -> Option<Vec<u8>> {
    let mut arcs = Vec::new();
    for arc in text.split('.') {
        let canonical = !arc.is_empty()
            && arc.bytes().all(|b| b.is_ascii_digit())
            && (arc == "0" || !arc.starts_with('0'));
        arcs.push(canonical.then(|| arc.parse::<u64>().ok()).flatten()?);
    }
    let [top @ 0..=2, second, rest @ ..] = &arcs[..] else { return None };
    if *top < 2 && *second > 39 {
        return None;
    }
    let mut out = Vec::new();
    for arc in
        std::iter::once(top.checked_mul(40)?.checked_add(*second)?).chain(rest.iter().copied())
    {
        let groups = (64 - arc.leading_zeros()).div_ceil(7).max(1);
        for group in (0..groups).rev() {
            let more = if group > 0 { 0x80 } else { 0 };
            out.push(more | ((arc >> (7 * group)) & 0x7f) as u8);
        }
    }
    Some(out)
}

/// True when the contents are those of an OBJECT IDENTIFIER that [`dotted`] shows without loss.
pub(crate) fn is_plain_oid(oid: &[u8]) -> bool {
    undotted(&dotted(oid)).is_some_and(|encoded| encoded == oid)
}

/// Why a text is not read as a distinguished name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 4514 name at byte {at}: {why}")]
pub struct DnError {
    /// Where reading stopped.
    pub at: usize,
    /// The rule that is broken.
    pub why: &'static str,
}

/// Reads RFC 4514 text: short, long and dotted attribute types in any letter case, `\,` and `\2C`
/// escapes, `#` hex values, and spaces around `,`, `+` and `=` as RFC 2253 allowed.
///
/// # Errors
/// Anything else, an unknown attribute type, and more than [`MAX_TEXT`] bytes.
pub fn from_rfc4514(text: &str) -> Result<Name, DnError> {
    if text.len() > MAX_TEXT {
        return Err(DnError { at: MAX_TEXT, why: "the text is longer than 8192 bytes" });
    }
    let mut input = Input { text: text.as_bytes(), at: 0 };
    let mut rdns: Vec<Vec<u8>> = Vec::new();
    input.skip_spaces();
    while !input.is_at_end() || !rdns.is_empty() {
        rdns.push(input.rdn()?);
        if input.is_at_end() {
            break;
        }
        // rdn() stops at the end or at a comma.
        input.at += 1;
    }
    rdns.reverse();
    Name::from_der(&encode(tag::SEQUENCE, &rdns.concat()))
        .map_err(|_| DnError { at: text.len(), why: "the name cannot be encoded" })
}

struct Input<'a> {
    text: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn fail<T>(&self, why: &'static str) -> Result<T, DnError> {
        Err(DnError { at: self.at, why })
    }

    fn skip_spaces(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// One RDN as DER, up to a comma or the end.
    fn rdn(&mut self) -> Result<Vec<u8>, DnError> {
        let mut attributes = Vec::new();
        loop {
            attributes.push(self.attribute()?);
            match self.peek() {
                Some(b'+') => self.at += 1,
                _ => break,
            }
        }
        // SET OF is sorted by encoding (X.690 section 11.6).
        attributes.sort_unstable();
        Ok(encode(tag::SET, &attributes.concat()))
    }

    fn attribute(&mut self) -> Result<Vec<u8>, DnError> {
        self.skip_spaces();
        let oid = encode(tag::OID, &self.attribute_type()?);
        self.skip_spaces();
        if self.peek() != Some(b'=') {
            return self.fail("`=` is expected after the attribute type");
        }
        self.at += 1;
        self.skip_spaces();
        let value =
            if self.peek() == Some(b'#') { self.hex_value()? } else { self.string_value()? };
        Ok(encode(tag::SEQUENCE, &[oid, value].concat()))
    }

    fn attribute_type(&mut self) -> Result<Vec<u8>, DnError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.') {
            self.at += 1;
        }
        let name = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        let known =
            SHORT_NAMES.iter().chain(OTHER_NAMES).find(|(n, _)| n.eq_ignore_ascii_case(name));
        if let Some((_, oid)) = known {
            return Ok(oid.to_vec());
        }
        let has_prefix = name.get(..4).is_some_and(|p| p.eq_ignore_ascii_case("oid."));
        let digits = if has_prefix { &name[4..] } else { name };
        undotted(digits)
            .ok_or(DnError { at: start, why: "neither a known attribute type nor a dotted OID" })
    }

    /// `#` and the DER of a value, in hex.
    fn hex_value(&mut self) -> Result<Vec<u8>, DnError> {
        self.at += 1;
        let start = self.at;
        let mut value = Vec::new();
        while let Some(byte) = self.hex_pair() {
            value.push(byte);
        }
        self.skip_spaces();
        if !matches!(self.peek(), None | Some(b',' | b'+')) {
            return self.fail("`#` is followed by pairs of hex digits only");
        }
        let mut reader = der::Reader::new(&value);
        match reader.any().and_then(|_| reader.end()) {
            Ok(()) => Ok(value),
            Err(_) => Err(DnError { at: start, why: "the value in hex is not one DER element" }),
        }
    }

    fn hex_pair(&mut self) -> Option<u8> {
        let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        let [high, low, ..] = self.text.get(self.at..)? else { return None };
        let byte = (digit(high)? << 4) | digit(low)?;
        self.at += 2;
        Some(byte)
    }

    /// A string value, as the DER of a UTF8String.
    fn string_value(&mut self) -> Result<Vec<u8>, DnError> {
        let start = self.at;
        let mut value = Vec::new();
        // Unescaped spaces at the end belong to the separator.
        let mut end = 0;
        while let Some(byte) = self.peek() {
            match byte {
                b',' | b'+' => break,
                b'"' | b';' | b'<' | b'>' | 0 => {
                    return self.fail("this character must be escaped with `\\`");
                }
                b'\\' => {
                    self.at += 1;
                    value.push(self.escaped()?);
                    end = value.len();
                }
                _ => {
                    self.at += 1;
                    value.push(byte);
                    if byte != b' ' {
                        end = value.len();
                    }
                }
            }
        }
        value.truncate(end);
        match std::str::from_utf8(&value) {
            Ok(_) => Ok(encode(tag::UTF8_STRING, &value)),
            Err(_) => Err(DnError { at: start, why: "the escaped bytes are not UTF-8" }),
        }
    }

    fn escaped(&mut self) -> Result<u8, DnError> {
        match self.peek() {
            Some(b @ (b' ' | b'"' | b'#' | b'+' | b',' | b';' | b'<' | b'=' | b'>' | b'\\')) => {
                self.at += 1;
                Ok(b)
            }
            _ => match self.hex_pair() {
                Some(byte) => Ok(byte),
                None => self.fail("`\\` is followed by a special character or two hex digits"),
            },
        }
    }
}

/// One DER element.
fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut out = vec![tag];
    if let Ok(short @ 0..=127) = u8::try_from(length) {
        out.push(short);
    } else {
        let octets = length.to_be_bytes();
        let skip = (length.leading_zeros() / 8) as usize;
        out.push(0x80 | (octets.len() - skip) as u8);
        out.extend_from_slice(&octets[skip..]);
    }
    out.extend_from_slice(contents);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::name::tests::{Rdn, encode as name_der};
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
    fn rdns_print_last_first_and_multi_values_with_plus() {
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
    fn one_attribute_never_prints_as_two() {
        let one = name(&[&[(CN, tag::UTF8_STRING, b"dev1,O=Acme")]]);
        let two = name(&[&[(O, tag::UTF8_STRING, b"Acme")], &[(CN, tag::UTF8_STRING, b"dev1")]]);
        assert_eq!(to_rfc4514(&one), "CN=dev1\\,O=Acme");
        assert_eq!(to_rfc4514(&two), "CN=dev1,O=Acme");
        assert_ne!(one, two);
    }

    #[test]
    fn every_spelling_of_a_type_and_a_value_is_read() {
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
    fn openssl_rfc2253_output_is_read() {
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
    fn what_is_no_name_is_refused_where_it_breaks() {
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

    #[test]
    fn only_oids_that_show_without_loss_are_plain() {
        assert!(is_plain_oid(CN));
        assert!(is_plain_oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]));
        for bad in [&[0x55, 4, 0x80, 3][..], &[0x55, 4, 0x83], &[0x80], &[]] {
            assert!(!is_plain_oid(bad), "{bad:02x?}");
        }
    }

    /// An attribute of any type and value: known and unknown OIDs, every string type, other types.
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
        fn what_is_printed_reads_back_equal(dn in any_name()) {
            let text = to_rfc4514(&dn);
            let back = from_rfc4514(&text);
            prop_assert_eq!(back.as_ref(), Ok(&dn), "{}", text);
            prop_assert_eq!(to_rfc4514(&read(&text)), to_rfc4514(&read(&to_rfc4514(&read(&text)))));
        }

        #[test]
        fn different_names_print_differently(a in any_name(), b in any_name()) {
            prop_assert!(a == b || to_rfc4514(&a) != to_rfc4514(&b));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}", escapes in "[\\\\#=,+a-fA-F0-9CN. ]{0,40}") {
            let _ = from_rfc4514(&text);
            let _ = from_rfc4514(&escapes);
        }
    }
}
