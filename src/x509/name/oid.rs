//! Conversion between OBJECT IDENTIFIER contents and dotted text.

use std::fmt::Write as _;

/// Short names of attribute types (RFC 4514 section 3, RFC 4519) and their OID contents.
pub(super) const SHORT_NAMES: &[(&str, &[u8])] = &[
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

/// Formats OBJECT IDENTIFIER contents as dotted text.
pub(crate) fn dotted(oid: &[u8]) -> String {
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

/// Parses dotted text into OBJECT IDENTIFIER contents.  Returns `None` if the text is not a valid
/// OID or an arc exceeds 64 bits.
pub(super) fn undotted(text: &str) -> Option<Vec<u8>> {
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

/// Returns true if `oid` is a valid OBJECT IDENTIFIER that [`dotted`] formats without loss.
pub(crate) fn is_plain_oid(oid: &[u8]) -> bool {
    undotted(&dotted(oid)).is_some_and(|encoded| encoded == oid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lossless_oids_are_plain() {
        assert!(is_plain_oid(&[0x55, 4, 3]));
        assert!(is_plain_oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]));
        for bad in [&[0x55, 4, 0x80, 3][..], &[0x55, 4, 0x83], &[0x80], &[]] {
            assert!(!is_plain_oid(bad), "{bad:02x?}");
        }
    }
}
