//! The rules of each kind of value.  A function returns the canonical text, or the end of the
//! sentence "the value …" that says what is wrong.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::MAX_CHARACTERS;

/// Refuses what prints as another text, or as none: control characters (NUL is one), line and
/// paragraph separators and bidirectional controls; and more than [`MAX_CHARACTERS`].
pub(super) fn readable(text: &str) -> Result<(), String> {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if let Some(c) = text.chars().find(|c| hidden(*c)) {
        return Err(format!("has the control character U+{:04X}", u32::from(c)));
    }
    let characters = text.chars().count();
    if characters > MAX_CHARACTERS {
        return Err(format!("has {characters} characters; at most {MAX_CHARACTERS} identify"));
    }
    Ok(())
}

/// A host name in LDH A-labels (RFC 5280 section 4.2.1.6, RFC 1123 section 2.1), lower-cased and
/// without the final dot, which is not significant.
pub(super) fn dns(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || name.len() > 253 {
        return Err(format!("is a host name of {} characters; 1 to 253 are allowed", name.len()));
    }
    if name.contains('*') {
        return Err("is a wildcard, which names no single device".to_owned());
    }
    if name.parse::<Ipv4Addr>().is_ok() {
        return Err("is an IPv4 address, not a host name".to_owned());
    }
    for label in name.split('.') {
        let ldh = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !ldh || label.is_empty() || label.len() > 63 {
            return Err("is no host name: labels are 1 to 63 of a-z, 0-9 and `-` (others as xn--)"
                .to_owned());
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("is no host name: a label begins or ends with `-`".to_owned());
        }
    }
    Ok(name.to_ascii_lowercase())
}

/// An absolute URI (RFC 3986 section 3), exactly as it is: no case folding, no percent-decoding
/// (RFC 3986 section 6.2.1).
pub(super) fn uri(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once(':').ok_or("is no URI: it has no scheme")?;
    let scheme_is_good = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !scheme_is_good {
        return Err("is no URI: it has no scheme".to_owned());
    }
    if rest.is_empty() {
        return Err("is no URI that names anything: nothing follows the scheme".to_owned());
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (hierarchy, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match hierarchy.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", hierarchy),
    };
    if !is_authority(authority) || !is_made_of(path, b":@/") {
        return Err("is no URI: a character must be percent-encoded".to_owned());
    }
    if !is_made_of(query, b":@/?") || !is_made_of(fragment, b":@/?") {
        return Err(
            "is no URI: a character of the query or fragment must be percent-encoded".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// `[userinfo@]host[:port]` (RFC 3986 section 3.2).
fn is_authority(text: &str) -> bool {
    let (user, host_port) = text.rsplit_once('@').unwrap_or(("", text));
    let (host_is_good, port) = match host_port.strip_prefix('[') {
        Some(literal) => {
            let Some((address, port)) = literal.split_once(']') else { return false };
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let (host, port) = host_port.split_at(host_port.find(':').unwrap_or(host_port.len()));
            (is_made_of(host, b""), port)
        }
    };
    let port_is_good = match port.strip_prefix(':') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    is_made_of(user, b":") && host_is_good && port_is_good
}

/// Unreserved characters, sub-delimiters, percent-encoded octets and `extra` (RFC 3986 section 2).
fn is_made_of(text: &str, extra: &[u8]) -> bool {
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

/// A mailbox (RFC 5280 section 4.2.1.6): the local part exact, the host lower-cased.  Quoted local
/// parts and address literals are refused, since they are second spellings of plain ones.
pub(super) fn email(text: &str) -> Result<String, String> {
    let (local, host) = text.rsplit_once('@').ok_or("is no mailbox: it has no `@`")?;
    let atom = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    // RFC 5321 section 4.5.3.1.1 for the length.
    if local.len() > 64 || !local.split('.').all(atom) {
        return Err("is no mailbox: the local part is no dot-atom of 1 to 64 characters".to_owned());
    }
    Ok(format!("{local}@{}", dns(host)?))
}

/// An address as people write it, in RFC 5952 form.
pub(super) fn ip(text: &str) -> Result<String, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err("is no IPv4 or IPv6 address".to_owned()),
    }
}

/// The octets of an iPAddress.  A mapped address (`::ffff:10.0.0.1`) stays one: it is not 10.0.0.1.
pub(super) fn ip_from_octets(octets: &[u8]) -> Result<String, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        Ok(Ipv4Addr::from(v4).to_string())
    } else if let Ok(v6) = <[u8; 16]>::try_from(octets) {
        Ok(Ipv6Addr::from(v6).to_string())
    } else {
        Err(format!("has {} octets; 4 or 16 are an address", octets.len()))
    }
}
