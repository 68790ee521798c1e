//! Strict DER reader: definite and minimal lengths, tag numbers up to 30, no trailing bytes.
//!
//! The reader borrows from its input, does not allocate and does not panic.  It rejects input that
//! is not DER (X.690 section 10), even where a lenient BER parser accepts it.

use std::fmt;

/// Identifier bytes of the tags used by X.509 structures (X.690 section 8.1.2).
pub mod tag {
    pub const BOOLEAN: u8 = 0x01;
    pub const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const ENUMERATED: u8 = 0x0a;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const NUMERIC_STRING: u8 = 0x12;
    pub(crate) const PRINTABLE_STRING: u8 = 0x13;
    pub(crate) const TELETEX_STRING: u8 = 0x14;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const VISIBLE_STRING: u8 = 0x1a;
    pub(crate) const UNIVERSAL_STRING: u8 = 0x1c;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub const SET: u8 = 0x31;

    /// Context-specific, primitive (IMPLICIT of a primitive type).
    pub const fn context(number: u8) -> u8 {
        0x80 | number
    }
    /// Context-specific, constructed (EXPLICIT, or IMPLICIT of a constructed type).
    pub(crate) const fn context_constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// Reason why input is not the expected DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DerError {
    /// The input ends inside an element.
    #[error("truncated: an element reaches past the end of the input")]
    Truncated,
    /// A length that is indefinite, not minimal or longer than four bytes.
    #[error("length is not DER (indefinite, not minimal, or above 4 bytes)")]
    Length,
    /// A tag other than the expected one.
    #[error("expected tag {expected:#04x}, found {found:#04x}")]
    Tag { expected: u8, found: u8 },
    /// A multi-byte tag.  X.509 structures do not use them.
    #[error("tag number above 30")]
    HighTag,
    /// Number of bytes after the last element.
    #[error("{0} bytes left over")]
    Trailing(usize),
    /// Contents that are not a valid value of their type.  The text names the rule.
    #[error("{0}")]
    Value(&'static str),
}

/// One DER element.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    /// Identifier byte.
    pub tag: u8,
    /// Contents without identifier and length.
    pub value: &'a [u8],
    /// Whole encoding: identifier, length and contents.
    pub raw: &'a [u8],
}

impl<'a> Element<'a> {
    /// Returns a reader over the contents.
    pub fn reader(&self) -> Reader<'a> {
        Reader::new(self.value)
    }

    /// Returns the element if it has `tag`.
    pub fn expect(self, tag: u8) -> Result<Self, DerError> {
        if self.tag == tag {
            Ok(self)
        } else {
            Err(DerError::Tag { expected: tag, found: self.tag })
        }
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Element({:#04x}, {} bytes)", self.tag, self.value.len())
    }
}

/// Reader of consecutive elements in a byte slice.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Returns the tag of the next element without reading it.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Reads the next element, whatever its tag.
    pub fn any(&mut self) -> Result<Element<'a>, DerError> {
        let (&tag, after_tag) = self.rest.split_first().ok_or(DerError::Truncated)?;
        if tag & 0x1f == 0x1f {
            return Err(DerError::HighTag);
        }
        let (&first, after_length) = after_tag.split_first().ok_or(DerError::Truncated)?;
        let (length, contents) = if first < 0x80 {
            (usize::from(first), after_length)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return Err(DerError::Length);
            }
            let (encoded, contents) =
                after_length.split_at_checked(count).ok_or(DerError::Truncated)?;
            let length = encoded.iter().fold(0usize, |n, &b| (n << 8) | usize::from(b));
            // Minimal: no leading zero byte, and the long form only for lengths from 128.
            if encoded[0] == 0 || length < 0x80 {
                return Err(DerError::Length);
            }
            (length, contents)
        };
        let (value, rest) = contents.split_at_checked(length).ok_or(DerError::Truncated)?;
        let raw = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        Ok(Element { tag, value, raw })
    }

    /// Reads the next element, which must have `tag`.
    pub fn expect(&mut self, tag: u8) -> Result<Element<'a>, DerError> {
        match self.peek() {
            Some(found) if found != tag => Err(DerError::Tag { expected: tag, found }),
            _ => self.any(),
        }
    }

    /// Reads the next element if it has `tag`.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Element<'a>>, DerError> {
        if self.peek() == Some(tag) { self.any().map(Some) } else { Ok(None) }
    }

    /// Returns an error if bytes remain.
    pub fn end(self) -> Result<(), DerError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DerError::Trailing(self.rest.len())) }
    }

    /// Reads the next element, a SEQUENCE, and returns a reader over its contents.
    pub fn sequence(&mut self) -> Result<Reader<'a>, DerError> {
        Ok(self.expect(tag::SEQUENCE)?.reader())
    }
}

/// Reads the single element that makes up all of `input`.
pub fn single(input: &[u8], expected: u8) -> Result<Element<'_>, DerError> {
    let mut reader = Reader::new(input);
    let element = reader.expect(expected)?;
    reader.end()?;
    Ok(element)
}

/// Decodes a BOOLEAN.  DER allows only 0x00 and 0xff.
pub(crate) fn boolean(element: Element<'_>) -> Result<bool, DerError> {
    match element.value {
        [0x00] => Ok(false),
        [0xff] => Ok(true),
        _ => Err(DerError::Value("BOOLEAN is neither 00 nor FF")),
    }
}

/// Returns the contents of an OBJECT IDENTIFIER.  Every arc must be complete and minimal (X.690
/// section 8.19).
pub(crate) fn object_identifier<'a>(element: Element<'a>) -> Result<&'a [u8], DerError> {
    let arcs = element
        .value
        .iter()
        .scan(true, |starts, byte| Some((std::mem::replace(starts, byte & 0x80 == 0), *byte)));
    let padded = arcs.clone().any(|(starts, byte)| starts && byte == 0x80);
    match element.value.last() {
        Some(last) if last & 0x80 == 0 && !padded => Ok(element.value),
        _ => Err(DerError::Value("OBJECT IDENTIFIER is incomplete or not minimal")),
    }
}

/// Returns the contents of an INTEGER, which must be minimal.
pub fn integer(element: Element<'_>) -> Result<&[u8], DerError> {
    match element.value {
        [] => Err(DerError::Value("INTEGER has no contents")),
        [0x00, next, ..] if next & 0x80 == 0 => Err(DerError::Value("INTEGER is not minimal")),
        [0xff, next, ..] if next & 0x80 != 0 => Err(DerError::Value("INTEGER is not minimal")),
        value => Ok(value),
    }
}

/// Decodes a non-negative INTEGER below 2^32.
pub(crate) fn small_integer(element: Element<'_>) -> Result<u32, DerError> {
    let value = integer(element)?;
    if value[0] & 0x80 != 0 {
        return Err(DerError::Value("INTEGER is negative"));
    }
    let digits = if value[0] == 0 { &value[1..] } else { value };
    if digits.len() > 4 {
        return Err(DerError::Value("INTEGER does not fit in 32 bits"));
    }
    Ok(digits.iter().fold(0, |n, &b| (n << 8) | u32::from(b)))
}

/// Splits the contents of a BIT STRING into its bytes and the number of unused bits.  The unused
/// bits must be zero.
pub(crate) fn bit_string(value: &[u8]) -> Result<(&[u8], u8), DerError> {
    let (&unused, bits) =
        value.split_first().ok_or(DerError::Value("BIT STRING has no contents"))?;
    if unused > 7 || (bits.is_empty() && unused != 0) {
        return Err(DerError::Value("BIT STRING has an invalid number of unused bits"));
    }
    if let Some(last) = bits.last()
        && last & ((1u8 << unused) - 1) != 0
    {
        return Err(DerError::Value("BIT STRING has unused bits that are not zero"));
    }
    Ok((bits, unused))
}

/// Decodes a BIT STRING of named bits into a number that has bit `n` set for name `n`.  Names above
/// 15 are an error.
pub(crate) fn named_bits(value: &[u8]) -> Result<u16, DerError> {
    let (bits, _) = bit_string(value)?;
    if bits.len() > 2 {
        return Err(DerError::Value("BIT STRING names bits above 15"));
    }
    let mut named = 0u16;
    for (i, byte) in bits.iter().enumerate() {
        for bit in 0..8 {
            if byte & (0x80 >> bit) != 0 {
                named |= 1 << (i * 8 + bit);
            }
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rejects_lengths_that_are_indefinite_or_not_minimal() {
        let cases: &[(&[u8], Result<usize, DerError>)] = &[
            (&[0x04, 0x00], Ok(0)),
            (&[0x04, 0x01, 0xaa], Ok(1)),
            (&[0x04, 0x80], Err(DerError::Length)),
            (&[0x04, 0x81, 0x01, 0xaa], Err(DerError::Length)),
            (&[0x04, 0x82, 0x00, 0x80], Err(DerError::Length)),
            (&[0x04, 0x85, 1, 1, 1, 1, 1], Err(DerError::Length)),
            (&[0x04, 0x02, 0xaa], Err(DerError::Truncated)),
            (&[0x1f, 0x01, 0xaa], Err(DerError::HighTag)),
            (&[], Err(DerError::Truncated)),
        ];
        for (input, want) in cases {
            let got = Reader::new(input).any().map(|e| e.value.len());
            assert_eq!(&got, want, "{input:02x?}");
        }
    }

    #[test]
    fn rejects_values_that_are_not_der() {
        let read = |bytes: &'static [u8]| Reader::new(bytes).any().expect("an element");
        assert_eq!(boolean(read(&[1, 1, 0xff])), Ok(true));
        assert!(boolean(read(&[1, 1, 0x01])).is_err());
        assert_eq!(small_integer(read(&[2, 2, 0, 0x80])), Ok(128));
        assert!(small_integer(read(&[2, 2, 0, 0x7f])).is_err());
        assert!(small_integer(read(&[2, 1, 0x80])).is_err());
        assert!(small_integer(read(&[2, 5, 1, 0, 0, 0, 0])).is_err());
        assert_eq!(named_bits(&[5, 0xa0]), Ok(0b101));
        assert!(named_bits(&[5, 0xa1]).is_err());
        assert!(named_bits(&[8, 0xa0]).is_err());
        assert!(named_bits(&[]).is_err());
        assert!(object_identifier(read(&[6, 3, 0x55, 0x1d, 20])).is_ok());
        assert!(object_identifier(read(&[6, 3, 0x55, 0x81, 0x14])).is_ok());
        for bad in [&[6, 0][..], &[6, 2, 0x55, 0x81], &[6, 3, 0x55, 0x80, 1], &[6, 2, 0x80, 1]] {
            assert!(object_identifier(Reader::new(bad).any().expect("an element")).is_err());
        }
    }

    #[test]
    fn rejects_trailing_bytes_and_unexpected_tags() {
        assert_eq!(single(&[5, 0, 0], tag::NULL), Err(DerError::Trailing(1)));
        assert_eq!(single(&[5, 0], tag::OID), Err(DerError::Tag { expected: 6, found: 5 }));
    }

    proptest! {
        #[test]
        fn elements_cover_the_input_without_gaps(
            input in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut reader = Reader::new(&input);
            let mut read = 0;
            while let Ok(element) = reader.any() {
                prop_assert!(element.raw.ends_with(element.value));
                read += element.raw.len();
                prop_assert_eq!(read + reader.rest().len(), input.len());
            }
        }
    }
}
