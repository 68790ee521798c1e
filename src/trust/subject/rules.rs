//! Rules for the values of each subject field.  Each function returns the canonical text, or the
//! predicate of an error sentence that starts with the field name.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Largest number of characters in a subject ID.
pub const MAX_CHARACTERS: usize = 512;

/// Rejects text that no subject ID may contain: more than [`MAX_CHARACTERS`] characters, or a
/// character that two identities could differ in without a visible difference.
pub(crate) fn check_printable(text: &str) -> Result<(), String> {
    if let Some(c) = text.chars().find(|c| is_hidden(*c)) {
        let kind = if c.is_control() { "control" } else { "invisible" };
        return Err(format!("has the {kind} character U+{:04X}", u32::from(c)));
    }
    let characters = text.chars().count();
    if characters > MAX_CHARACTERS {
        return Err(format!("has {characters} characters; at most {MAX_CHARACTERS} are allowed"));
    }
    Ok(())
}

/// Returns true for characters without a glyph of their own: control characters, line and paragraph
/// separators, Default_Ignorable_Code_Point (Unicode Standard Annex 44: joiners, bidirectional
/// controls, fillers, variation selectors, tags), interlinear annotations, and the blank Braille
/// pattern.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{1806}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffc}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Canonicalizes a host name in LDH A-labels (RFC 5280 section 4.2.1.6, RFC 1123 section 2.1):
/// lower case, without the final dot, which is not significant.
pub(super) fn dns(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || name.len() > 253 {
        return Err(format!("is a host name of {} characters; 1 to 253 are allowed", name.len()));
    }
    if name.contains('*') {
        return Err("is a wildcard, which does not identify a single device".to_owned());
    }
    if name.parse::<Ipv4Addr>().is_ok() {
        return Err("is an IPv4 address, not a host name".to_owned());
    }
    for label in name.split('.') {
        let ldh = label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !ldh || label.is_empty() || label.len() > 63 {
            return Err(
                "is not a host name: a label has 1 to 63 characters of a-z, 0-9, `-` and `_` \
                        (others as xn--)"
                    .to_owned(),
            );
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("is not a host name: a label begins or ends with `-`".to_owned());
        }
    }
    Ok(name.to_ascii_lowercase())
}

/// Checks an absolute URI (RFC 3986 section 3).  The text is not changed: no case folding and no
/// percent-decoding (RFC 3986 section 6.2.1).
pub(super) fn uri(text: &str) -> Result<String, String> {
    let (scheme, rest) =
        text.split_once(':').ok_or("is not an absolute URI: the scheme is missing")?;
    let scheme_is_good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !scheme_is_good {
        return Err("is not an absolute URI: the scheme is missing".to_owned());
    }
    if rest.is_empty() {
        return Err("is not a URI: nothing follows the scheme".to_owned());
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (hierarchy, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match hierarchy.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", hierarchy),
    };
    if !is_authority(authority) || !has_only_uri_characters(path, b":@/") {
        return Err("is not a URI: a character must be percent-encoded".to_owned());
    }
    if !has_only_uri_characters(query, b":@/?") || !has_only_uri_characters(fragment, b":@/?") {
        return Err(
            "is not a URI: a character of the query or fragment must be percent-encoded".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// Returns true for `[userinfo@]host[:port]` (RFC 3986 section 3.2).
fn is_authority(text: &str) -> bool {
    let (user, host_port) = text.rsplit_once('@').unwrap_or(("", text));
    let (host_is_good, port) = match host_port.strip_prefix('[') {
        Some(literal) => {
            let Some((address, port)) = literal.split_once(']') else { return false };
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let (host, port) = host_port.split_at(host_port.find(':').unwrap_or(host_port.len()));
            (has_only_uri_characters(host, b""), port)
        }
    };
    let port_is_good = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    has_only_uri_characters(user, b":") && host_is_good && port_is_good
}

/// Returns true if `text` has only unreserved characters, sub-delimiters, percent-encoded bytes and
/// characters in `extra` (RFC 3986 section 2).
fn has_only_uri_characters(text: &str, extra: &[u8]) -> bool {
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = match byte {
            b'%' => match after {
                [a, b, after @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => after,
                _ => return false,
            },
            b if b.is_ascii_alphanumeric()
                || b"-._~!$&'()*+,;=".contains(b)
                || extra.contains(b) =>
            {
                after
            }
            _ => return false,
        };
    }
    true
}

/// Canonicalizes a mailbox (RFC 5280 section 4.2.1.6): the local part is not changed, the host is
/// lower-cased.  Quoted local parts and address literals are rejected, because they are alternative
/// spellings of plain ones.
pub(super) fn email(text: &str) -> Result<String, String> {
    let (local, host) = text.rsplit_once('@').ok_or("is not a mailbox: `@` is missing")?;
    let atom = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    // RFC 5321 section 4.5.3.1.1 limits the length.
    if local.len() > 64 || !local.split('.').all(atom) {
        return Err(
            "is not a mailbox: the local part is not a dot-atom of 1 to 64 characters".to_owned()
        );
    }
    if host.contains('_') {
        return Err("is not a mailbox: the host contains `_`".to_owned());
    }
    Ok(format!("{local}@{}", dns(host)?))
}

/// Canonicalizes an IP address in text to RFC 5952 form.
pub(super) fn ip(text: &str) -> Result<String, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err("is not an IPv4 or IPv6 address".to_owned()),
    }
}

/// Formats the bytes of an iPAddress.  A mapped address (`::ffff:10.0.0.1`) stays distinct from
/// 10.0.0.1.
pub(super) fn ip_from_bytes(bytes: &[u8]) -> Result<String, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(Ipv4Addr::from(v4).to_string())
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(Ipv6Addr::from(v6).to_string())
    } else {
        Err(format!("has {} bytes; an IP address has 4 or 16", bytes.len()))
    }
}
