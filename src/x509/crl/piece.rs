//! DER elements whose last bytes may not have arrived yet.

use crate::x509::crl::error::Fault;
use crate::x509::der::{DerError, Element};

/// Longest header part, extensions or entry, in bytes.
const MAX_PART_BYTES: usize = 64 * 1024;

pub(super) fn malformed(part: &'static str, why: DerError) -> Fault {
    Fault::Malformed { part, why }
}

pub(super) fn at(part: &'static str) -> impl Fn(DerError) -> Fault {
    move |why| malformed(part, why)
}

/// Identifier and length of an element, by the rules of [`der`](crate::x509::der).
pub(super) struct Header {
    pub tag: u8,
    /// Bytes of identifier and length.
    pub bytes: usize,
    /// Bytes of the contents.
    pub length: u64,
}

impl Header {
    /// Parses a header.  Returns `None` if `input` ends within it.
    pub fn read(input: &[u8]) -> Result<Option<Self>, DerError> {
        let [tag, first, rest @ ..] = input else { return Ok(None) };
        if tag & 0x1f == 0x1f {
            return Err(DerError::HighTag);
        }
        if *first < 0x80 {
            return Ok(Some(Self { tag: *tag, bytes: 2, length: u64::from(*first) }));
        }
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 {
            return Err(DerError::Length);
        }
        let Some(encoded) = rest.get(..count) else { return Ok(None) };
        let length = encoded.iter().fold(0, |n, &b| (n << 8) | u64::from(b));
        if encoded[0] == 0 || length < 0x80 {
            return Err(DerError::Length);
        }
        Ok(Some(Self { tag: *tag, bytes: 2 + count, length }))
    }
}

/// Returns the element at the start of `input`, or `None` if its end has not arrived.  The element
/// must end within `room` bytes.
pub(super) fn whole_element<'i>(
    input: &'i [u8],
    room: u64,
    part: &'static str,
) -> Result<Option<Element<'i>>, Fault> {
    let Some(header) = Header::read(input).map_err(at(part))? else { return Ok(None) };
    let total = header.bytes as u64 + header.length;
    if total > room {
        return Err(malformed(part, DerError::Truncated));
    }
    if total > MAX_PART_BYTES as u64 {
        return Err(Fault::PartTooLarge { part, bytes: total, limit: MAX_PART_BYTES });
    }
    let Some(raw) = input.get(..total as usize) else { return Ok(None) };
    Ok(Some(Element { tag: header.tag, value: &raw[header.bytes..], raw }))
}
