//! Distinguished names as RFC 4514 text.
//!
//! x509-parser's text is not safe for identity: it does not escape, so that `CN=dev1, O=Acme` may be
//! one attribute or two.  This form escapes all that RFC 4514 section 2.4 tells to, and round-trips.

use std::fmt::Write as _;

use crate::domain::der::tag;
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
    // that is no string of this type's.
    let text = match attribute.value.tag {
        tag::IA5_STRING
        | tag::UTF8_STRING
        | tag::PRINTABLE_STRING
        | tag::NUMERIC_STRING
        | tag::TELETEX_STRING
        | tag::BMP_STRING
        | tag::UNIVERSAL_STRING
        | tag::VISIBLE_STRING => name::text(attribute.value),
        _ => None,
    };
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
