//! Parser for distinguished names in RFC 4514 text.

use crate::x509::der::{self, tag};
use crate::x509::name::Name;
use crate::x509::name::oid::{SHORT_NAMES, undotted};

/// Further attribute names that are parsed but not printed: long names of RFC 4519 and names that
/// OpenSSL prints.
pub(super) const OTHER_NAMES: &[(&str, &[u8])] = &[
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

/// Longest text that [`from_rfc4514`] accepts, in bytes.
pub(crate) const MAX_TEXT: usize = 8 * 1024;

/// Reason why a text is not a valid distinguished name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 4514 name at byte {at}: {why}")]
pub(crate) struct DnError {
    /// Byte offset at which parsing stopped.
    pub at: usize,
    pub why: &'static str,
}

/// Parses RFC 4514 text.
///
/// Accepts short, long and dotted attribute types in any letter case, `\,` and `\2C` escapes, `#`
/// hex values, and spaces around `,`, `+` and `=` as in RFC 2253.
///
/// # Errors
/// Returns an error for any other syntax, an unknown attribute type, or more than [`MAX_TEXT`]
/// bytes.
pub(crate) fn from_rfc4514(text: &str) -> Result<Name, DnError> {
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

    /// Parses one RDN, up to a comma or the end, and returns it as DER.
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

    /// Parses `#` followed by the DER of a value in hex.
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

    /// Parses a string value and returns it as the DER of a UTF8String.
    fn string_value(&mut self) -> Result<Vec<u8>, DnError> {
        let start = self.at;
        let mut value = Vec::new();
        // Unescaped trailing spaces belong to the separator.
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

/// Encodes one DER element.
pub(super) fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len();
    let mut out = vec![tag];
    if let Ok(short @ 0..=127) = u8::try_from(length) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let skip = (length.leading_zeros() / 8) as usize;
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend_from_slice(&bytes[skip..]);
    }
    out.extend_from_slice(contents);
    out
}
