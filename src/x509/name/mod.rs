//! Distinguished names as path validation compares them (RFC 5280 section 7.1).
//!
//! Two names are equal when their RDN sequences are: attribute types equal, values equal after the
//! preparation of RFC 4518 that matters for `caseIgnoreMatch` (any string type, letter case folded,
//! runs of white space made one, none at the ends).  The canonical form below makes that a comparison
//! of bytes, and "is below" a comparison of prefixes.

pub mod oid;
pub mod parse;
pub mod rfc4514;

use std::fmt;
use std::hash::{Hash, Hasher};

use icu_normalizer::ComposingNormalizerBorrowed;

use crate::x509::der::{DerError, Element, Reader, single, tag};

/// A Name with its original encoding and its canonical form.
#[derive(Clone)]
pub struct Name {
    der: Box<[u8]>,
    /// Each RDN as length-prefixed bytes, so that one name's canonical form is a prefix of another's
    /// exactly when its RDNs are.
    canonical: Box<[u8]>,
}

/// One attribute of a name, borrowed from its encoding.
#[derive(Debug, Clone, Copy)]
pub struct Attribute<'a> {
    /// The attribute type's OBJECT IDENTIFIER contents.
    pub oid: &'a [u8],
    /// The value, with its string type as tag.
    pub value: Element<'a>,
}

impl Name {
    /// Reads the DER of a Name, all of `der`.
    pub fn from_der(der: &[u8]) -> Result<Self, DerError> {
        let canonical = canonical(der)?;
        Ok(Self { der: der.into(), canonical: canonical.into() })
    }

    /// The encoding as found.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The form that equality, hashing and [`Name::is_within`] use.
    pub fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// False when a string in it has bytes that are no text of its type; such a value equals only the
    /// same bytes.
    pub fn is_legible(&self) -> bool {
        self.rdns().iter().flatten().all(|a| !is_string(a.value.tag) || text(a.value).is_some())
    }

    /// True when the name has no RDN.
    pub fn is_empty(&self) -> bool {
        self.canonical.is_empty()
    }

    /// True when `base`'s RDNs are the first of this name (RFC 5280 section 4.2.1.10).
    pub fn is_within(&self, base: &Self) -> bool {
        self.canonical.starts_with(&base.canonical)
    }

    /// The RDNs in encoding order, each with its attributes.
    pub fn rdns(&self) -> Vec<Vec<Attribute<'_>>> {
        // The encoding was read whole when the name was made.
        rdns(&self.der).unwrap_or_default()
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

fn rdns(der: &[u8]) -> Result<Vec<Vec<Attribute<'_>>>, DerError> {
    let mut sequence = single(der, tag::SEQUENCE)?.reader();
    let mut out = Vec::new();
    while !sequence.is_empty() {
        let mut set = sequence.expect(tag::SET)?.reader();
        let mut rdn = Vec::new();
        while !set.is_empty() {
            let mut pair = set.sequence()?;
            let oid = pair.expect(tag::OID)?.value;
            let value = pair.any()?;
            pair.end()?;
            if oid.is_empty() {
                return Err(DerError::Value("attribute type is empty"));
            }
            rdn.push(Attribute { oid, value });
        }
        if rdn.is_empty() {
            return Err(DerError::Value("RDN has no attribute"));
        }
        out.push(rdn);
    }
    Ok(out)
}

fn canonical(der: &[u8]) -> Result<Vec<u8>, DerError> {
    let mut out = Vec::with_capacity(der.len() + 16);
    let mut attributes: Vec<Vec<u8>> = Vec::new();
    for rdn in rdns(der)? {
        attributes.clear();
        attributes.extend(rdn.iter().map(|a| {
            let mut bytes = Vec::with_capacity(a.oid.len() + a.value.value.len() + 8);
            append(&mut bytes, a.oid);
            match text(a.value) {
                Some(text) => {
                    // One mark for every string type: they compare equal by content.
                    bytes.push(1);
                    append(&mut bytes, fold(&text).as_bytes());
                }
                None => {
                    bytes.push(0);
                    append(&mut bytes, a.value.raw);
                }
            }
            bytes
        }));
        // An RDN is a set: order does not count (RFC 4514 section 2.2).
        attributes.sort_unstable();
        let length: usize = attributes.iter().map(Vec::len).sum();
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        for attribute in &attributes {
            out.extend_from_slice(attribute);
        }
    }
    Ok(out)
}

fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// True when `tag` is of one of the string types of an attribute value (RFC 5280 appendix A.1).
pub fn is_string(tag: u8) -> bool {
    matches!(
        tag,
        tag::UTF8_STRING
            | tag::PRINTABLE_STRING
            | tag::IA5_STRING
            | tag::NUMERIC_STRING
            | tag::VISIBLE_STRING
            | tag::TELETEX_STRING
            | tag::BMP_STRING
            | tag::UNIVERSAL_STRING
    )
}

/// The characters of a string value, or `None` where it is no string or not validly encoded.
pub fn text(value: Element<'_>) -> Option<String> {
    match value.tag {
        tag::UTF8_STRING => std::str::from_utf8(value.value).ok().map(str::to_owned),
        tag::PRINTABLE_STRING | tag::IA5_STRING | tag::NUMERIC_STRING | tag::VISIBLE_STRING => {
            value.value.is_ascii().then(|| value.value.iter().map(|&b| char::from(b)).collect())
        }
        // What is found in practice under this tag is Latin-1.
        tag::TELETEX_STRING => Some(value.value.iter().map(|&b| char::from(b)).collect()),
        tag::BMP_STRING => {
            let (units, []) = value.value.as_chunks::<2>() else { return None };
            let units = units.iter().map(|&unit| u16::from_be_bytes(unit));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        tag::UNIVERSAL_STRING => {
            let (points, []) = value.value.as_chunks::<4>() else { return None };
            points.iter().map(|&point| char::from_u32(u32::from_be_bytes(point))).collect()
        }
        _ => None,
    }
}

/// The text prepared for `caseIgnoreMatch` (RFC 4518 sections 2.2, 2.3 and 2.6.1): letter case folded,
/// compatibility forms composed, invisible characters left out, white space runs made one space and
/// none at either end.
pub fn fold(text: &str) -> String {
    if text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return words(text.split_ascii_whitespace().map(str::to_ascii_lowercase));
    }
    let mut folded = text.to_owned();
    // Folding can bring forth what normalization changes, and the reverse; twice is nearly always
    // enough, and any bound gives a function of the text.
    for _ in 0..4 {
        let visible: String = folded.chars().filter(|&c| !is_invisible(c)).collect();
        let upper = NFKC.normalize(&visible).to_uppercase();
        let next = NFKC.normalize(&upper.to_lowercase()).into_owned();
        if next == folded {
            break;
        }
        folded = next;
    }
    words(folded.split_whitespace().map(str::to_owned))
}

const NFKC: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfkc();

fn words(words: impl Iterator<Item = String>) -> String {
    let mut out = String::new();
    for word in words {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&word);
    }
    out
}

/// Characters that RFC 4518 section 2.2 maps to nothing: controls that are no white space, soft
/// hyphen, joiners, variation selectors and the like.
fn is_invisible(c: char) -> bool {
    (c.is_control() && !c.is_whitespace())
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{1806}' | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffc}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

/// Reads a Name that a [`Reader`] has next.
pub fn read(reader: &mut Reader<'_>) -> Result<Name, DerError> {
    Name::from_der(reader.expect(tag::SEQUENCE)?.raw)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match value.len() {
            n @ 0..=127 => out.push(n as u8),
            n => out.extend([0x82, (n >> 8) as u8, n as u8]),
        }
        if (128..256).contains(&value.len()) {
            out.truncate(1);
            out.extend([0x81, value.len() as u8]);
        }
        out.extend_from_slice(value);
        out
    }

    /// The attributes of one RDN.
    pub(crate) type Rdn<'a> = &'a [(&'a [u8], u8, &'a [u8])];

    /// A Name from RDNs of (OID contents, string tag, value bytes).
    pub(crate) fn encode(rdns: &[Rdn<'_>]) -> Vec<u8> {
        let body: Vec<u8> = rdns
            .iter()
            .flat_map(|rdn| {
                let set: Vec<u8> = rdn
                    .iter()
                    .flat_map(|(oid, t, value)| {
                        tlv(tag::SEQUENCE, &[tlv(tag::OID, oid), tlv(*t, value)].concat())
                    })
                    .collect();
                tlv(tag::SET, &set)
            })
            .collect();
        tlv(tag::SEQUENCE, &body)
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    fn name(rdns: &[Rdn<'_>]) -> Name {
        Name::from_der(&encode(rdns)).expect("a name")
    }

    #[test]
    fn string_type_case_and_space_do_not_count() {
        let a = name(&[&[(CN, tag::PRINTABLE_STRING, b"  IoT   Root ")]]);
        let b = name(&[&[(CN, tag::UTF8_STRING, b"iot root")]]);
        let c = name(&[&[(CN, tag::BMP_STRING, b"\0I\0o\0T\0 \0R\0O\0O\0T")]]);
        assert_eq!(a, b);
        assert_eq!(b, c);
    }

    #[test]
    fn type_order_and_count_do() {
        let cn = (CN, tag::UTF8_STRING, &b"a"[..]);
        let o = (O, tag::UTF8_STRING, &b"a"[..]);
        assert_ne!(name(&[&[cn]]), name(&[&[o]]));
        assert_ne!(name(&[&[cn], &[o]]), name(&[&[o], &[cn]]));
        assert_ne!(name(&[&[cn], &[o]]), name(&[&[cn, o]]));
        assert_eq!(name(&[&[o, cn]]), name(&[&[cn, o]]));
        assert_ne!(name(&[&[cn]]), name(&[&[cn], &[cn]]));
    }

    #[test]
    fn is_within_goes_by_whole_rdns() {
        let base = name(&[&[(O, tag::UTF8_STRING, b"acme")]]);
        let below =
            name(&[&[(O, tag::PRINTABLE_STRING, b"Acme")], &[(CN, tag::UTF8_STRING, b"x")]]);
        let longer = name(&[&[(O, tag::UTF8_STRING, b"acme corp")]]);
        assert!(below.is_within(&base));
        assert!(!base.is_within(&below));
        assert!(!longer.is_within(&base));
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(text in "\\PC{0,40}") {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Name::from_der(&bytes);
        }

        #[test]
        fn a_name_equals_itself_in_other_case(text in "[a-zA-Z0-9 ]{1,30}") {
            let a = name(&[&[(CN, tag::PRINTABLE_STRING, text.as_bytes())]]);
            let b = name(&[&[(CN, tag::UTF8_STRING, text.to_uppercase().as_bytes())]]);
            prop_assert_eq!(a, b);
        }
    }
}
