//! Distinguished names in the text form of .NET, which Graph uses for `issuer`.
//!
//! The most specific part comes first; `S=` is the state and `E=` the e-mail address.  The text is
//! informational: no decision depends on it.

use crate::x509::name::oid::dotted;
use crate::x509::name::{self, Attribute, Name};

const SHORT_NAMES: &[(&str, &[u8])] = &[
    ("CN", &[0x55, 4, 3]),
    ("SN", &[0x55, 4, 4]),
    ("SERIALNUMBER", &[0x55, 4, 5]),
    ("C", &[0x55, 4, 6]),
    ("L", &[0x55, 4, 7]),
    ("S", &[0x55, 4, 8]),
    ("STREET", &[0x55, 4, 9]),
    ("O", &[0x55, 4, 10]),
    ("OU", &[0x55, 4, 11]),
    ("T", &[0x55, 4, 12]),
    ("G", &[0x55, 4, 42]),
    ("I", &[0x55, 4, 43]),
    ("DC", &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25]),
    ("E", &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]),
];

/// Returns the text of a name.
pub(super) fn text(name: &Name) -> String {
    let rdns: Vec<String> = name
        .rdns()
        .iter()
        .rev()
        .map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join(" + "))
        .collect();
    rdns.join(", ")
}

fn attribute(attribute: &Attribute<'_>) -> String {
    let name = match SHORT_NAMES.iter().find(|(_, oid)| *oid == attribute.oid) {
        Some((short, _)) => (*short).to_owned(),
        None => format!("OID.{}", dotted(attribute.oid)),
    };
    let value = name::text(attribute.value).unwrap_or_else(|| {
        attribute.value.raw.iter().fold("#".into(), |text, byte| format!("{text}{byte:02X}"))
    });
    let special = value.starts_with(' ')
        || value.ends_with(' ')
        || value.is_empty()
        || value.contains(|c: char| ",+=\"\n<>#;".contains(c));
    if special {
        format!("{name}=\"{}\"", value.replace('"', "\"\""))
    } else {
        format!("{name}={value}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::der::tag;
    use crate::x509::name::tests::encode;

    #[test]
    fn text_has_the_form_of_graph_examples() {
        const CN: &[u8] = &[0x55, 4, 3];
        const EMAIL: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1];
        let der = encode(&[
            &[(&[0x55, 4, 6], tag::PRINTABLE_STRING, b"US")],
            &[(&[0x55, 4, 8], tag::UTF8_STRING, b"WA")],
            &[(&[0x55, 4, 10], tag::UTF8_STRING, b"Acme, \"Inc\"")],
            &[(CN, tag::UTF8_STRING, b"root-ca"), (&[0x2a, 3], tag::UTF8_STRING, b"x")],
            &[(EMAIL, tag::IA5_STRING, b"test@contoso.example")],
        ]);
        assert_eq!(
            text(&Name::from_der(&der).expect("a name")),
            "E=test@contoso.example, CN=root-ca + OID.1.2.3=x, O=\"Acme, \"\"Inc\"\"\", S=WA, C=US"
        );
    }
}
