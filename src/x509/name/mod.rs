//! Distinguished names, compared as path validation requires (RFC 5280 section 7.1).
//!
//! Two names are equal if their RDN sequences are equal.  Attribute types are compared exactly,
//! values after the preparation of RFC 4518 for `caseIgnoreMatch`: the string type does not count,
//! letter case is folded, runs of white space become one space, and white space at the ends is
//! removed.  The canonical form turns this into a comparison of bytes, and a subtree test into a
//! prefix test.

pub(crate) mod oid;
pub(crate) mod parse;
pub(crate) mod rfc4514;

use std::fmt;
use std::hash::{Hash, Hasher};

use icu_normalizer::ComposingNormalizerBorrowed;
use stringprep::tables::case_fold_for_nfkc;

use crate::x509::der::{DerError, Element, Reader, single, tag};

/// Longest encoding of a Name in bytes.  No certification authority is known to need a tenth of it.
pub(crate) const MAX_BYTES: usize = 8 * 1024;

/// Distinguished name with its original encoding and its canonical form.
#[derive(Clone)]
pub struct Name {
    der: Box<[u8]>,
    /// Length-prefixed RDNs.  The canonical form of one name is a prefix of another's exactly if
    /// its RDNs are the first RDNs of the other.
    canonical: Box<[u8]>,
}

/// One attribute of a name, borrowed from the name's encoding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    /// OBJECT IDENTIFIER contents of the attribute type.
    pub oid: &'a [u8],
    /// The value.  Its tag is the string type.
    pub value: Element<'a>,
}

impl Name {
    /// Parses the DER of a Name, which must be all of `der`.
    pub fn from_der(der: &[u8]) -> Result<Self, DerError> {
        // Before the preparation, whose cost grows with the length.
        if der.len() > MAX_BYTES {
            return Err(DerError::Value("a name is longer than 8192 bytes"));
        }
        let canonical = canonical(der)?;
        Ok(Self { der: der.into(), canonical: canonical.into() })
    }

    /// Returns the original encoding.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Returns the form used by equality, hashing and [`Name::is_within`].
    pub(crate) fn canonical(&self) -> &[u8] {
        &self.canonical
    }

    /// Returns true if every string in the name is validly encoded for its type.  A string that is
    /// not equals only the same bytes.
    pub(crate) fn is_legible(&self) -> bool {
        self.rdns().iter().flatten().all(|a| !is_string(a.value.tag) || text(a.value).is_some())
    }

    /// Returns true if the name has no RDNs.
    pub(crate) fn is_empty(&self) -> bool {
        self.canonical.is_empty()
    }

    /// Returns true if the RDNs of `base` are the first RDNs of this name (RFC 5280 section
    /// 4.2.1.10).
    pub(crate) fn is_within(&self, base: &Self) -> bool {
        self.canonical.starts_with(&base.canonical)
    }

    /// Returns the RDNs in encoding order, each with its attributes.
    pub(crate) fn rdns(&self) -> Vec<Vec<Attribute<'_>>> {
        // `from_der` parsed the same bytes, so this cannot fail.
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
                    // One marker for all string types, so that they are compared by content.
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
        // An RDN is a set: the order of attributes does not count (RFC 4514 section 2.2).
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

/// Returns true if `tag` is a string type of attribute values (RFC 5280 appendix A.1).
pub(crate) fn is_string(tag: u8) -> bool {
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

/// Decodes a string value.  Returns `None` if it is not a string or not validly encoded.
pub(crate) fn text(value: Element<'_>) -> Option<String> {
    match value.tag {
        tag::UTF8_STRING => std::str::from_utf8(value.value).ok().map(str::to_owned),
        tag::PRINTABLE_STRING | tag::IA5_STRING | tag::NUMERIC_STRING | tag::VISIBLE_STRING => {
            value.value.is_ascii().then(|| value.value.iter().map(|&b| char::from(b)).collect())
        }
        // In practice this type holds Latin-1.
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

/// Prepares a text for `caseIgnoreMatch` (RFC 4518 sections 2.2, 2.3 and 2.6.1).
///
/// Folds letter case by RFC 3454 table B.2, normalizes to NFKC, removes invisible characters,
/// collapses runs of white space to one space, and removes white space at both ends.  Table B.2 has no
/// locale rules: U+0131 (dotless i) does not become `i`.
pub(crate) fn fold(text: &str) -> String {
    if text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return join_words(text.split_ascii_whitespace().map(str::to_ascii_lowercase));
    }
    let mut folded = text.to_owned();
    // Folding can produce characters that normalization changes, and the reverse.  Two rounds are
    // nearly always enough, and with a fixed bound the result still depends on the text alone.
    for _ in 0..4 {
        let visible: String = folded.chars().filter(|&c| !is_invisible(c)).collect();
        let lower: String = visible.chars().flat_map(case_fold_for_nfkc).collect();
        let next = NFKC.normalize(&lower).into_owned();
        if next == folded {
            break;
        }
        folded = next;
    }
    join_words(folded.split_whitespace().map(str::to_owned))
}

const NFKC: ComposingNormalizerBorrowed<'static> = ComposingNormalizerBorrowed::new_nfkc();

fn join_words(words: impl Iterator<Item = String>) -> String {
    let mut out = String::new();
    for word in words {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&word);
    }
    out
}

/// Returns true for characters that RFC 4518 section 2.2 maps to nothing: controls other than white
/// space, soft hyphen, joiners, variation selectors and similar.
fn is_invisible(c: char) -> bool {
    (c.is_control() && !c.is_whitespace())
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{1806}' | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffc}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0001}' | '\u{e0020}'..='\u{e007f}')
}

/// Reads the next element of `reader` as a Name.
pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Name, DerError> {
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

    /// Attributes of one RDN: OID contents, string tag and value bytes.
    pub(crate) type Rdn<'a> = &'a [(&'a [u8], u8, &'a [u8])];

    /// Encodes a Name.
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
    fn names_that_differ_in_string_type_case_or_space_are_equal() {
        let a = name(&[&[(CN, tag::PRINTABLE_STRING, b"  IoT   Root ")]]);
        let b = name(&[&[(CN, tag::UTF8_STRING, b"iot root")]]);
        let c = name(&[&[(CN, tag::BMP_STRING, b"\0I\0o\0T\0 \0R\0O\0O\0T")]]);
        assert_eq!(a, b);
        assert_eq!(b, c);
    }

    #[test]
    fn names_that_differ_in_type_order_or_count_are_not_equal() {
        let cn = (CN, tag::UTF8_STRING, &b"a"[..]);
        let o = (O, tag::UTF8_STRING, &b"a"[..]);
        assert_ne!(name(&[&[cn]]), name(&[&[o]]));
        assert_ne!(name(&[&[cn], &[o]]), name(&[&[o], &[cn]]));
        assert_ne!(name(&[&[cn], &[o]]), name(&[&[cn, o]]));
        assert_eq!(name(&[&[o, cn]]), name(&[&[cn, o]]));
        assert_ne!(name(&[&[cn]]), name(&[&[cn], &[cn]]));
    }

    #[test]
    fn is_within_compares_whole_rdns() {
        let base = name(&[&[(O, tag::UTF8_STRING, b"acme")]]);
        let below =
            name(&[&[(O, tag::PRINTABLE_STRING, b"Acme")], &[(CN, tag::UTF8_STRING, b"x")]]);
        let longer = name(&[&[(O, tag::UTF8_STRING, b"acme corp")]]);
        assert!(below.is_within(&base));
        assert!(!base.is_within(&below));
        assert!(!longer.is_within(&base));
    }

    #[test]
    fn folds_letter_case_by_table_b_2() {
        for (text, folded) in [
            ("STRASSE", "strasse"),
            ("stra\u{df}e", "strasse"),
            ("\u{17f}tock", "stock"),
            ("\u{212a}elvin", "kelvin"),
            ("\u{ff21}cme", "acme"),
            ("\u{3a3}\u{3c2}", "\u{3c3}\u{3c3}"),
            ("\u{131}nventory", "\u{131}nventory"),
        ] {
            assert_eq!(fold(text), folded, "{text}");
        }
    }

    proptest! {
        #[test]
        fn folding_is_idempotent(text in "\\PC{0,40}") {
            let once = fold(&text);
            prop_assert_eq!(fold(&once), once);
        }

        #[test]
        fn does_not_panic_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Name::from_der(&bytes);
        }

        #[test]
        fn a_name_equals_itself_in_upper_case(text in "[a-zA-Z0-9 ]{1,30}") {
            let a = name(&[&[(CN, tag::PRINTABLE_STRING, text.as_bytes())]]);
            let b = name(&[&[(CN, tag::UTF8_STRING, text.to_uppercase().as_bytes())]]);
            prop_assert_eq!(a, b);
        }
    }
}
