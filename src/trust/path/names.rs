//! The names of a certificate as name constraints see them (RFC 5280 sections 4.2.1.6, 4.2.1.10, 7).

use crate::x509::certificate::{Certificate, GeneralName, oid};
use crate::x509::name::{self, Name};

/// The forms of GeneralName that constraints tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// directoryName, or the subject.
    Directory,
    /// dNSName.
    Dns,
    /// rfc822Name, or an emailAddress of the subject.
    Email,
    /// uniformResourceIdentifier.
    Uri,
    /// iPAddress.
    Ip,
    /// By tag number: a name of one of these forms is refused when its form is constrained.
    Other(u8),
}

impl Form {
    /// The form of `name`.
    pub fn of(name: &GeneralName) -> Self {
        match name {
            GeneralName::Directory(_) => Self::Directory,
            GeneralName::Dns(_) => Self::Dns,
            GeneralName::Email(_) => Self::Email,
            GeneralName::Uri(_) => Self::Uri,
            GeneralName::Ip(_) => Self::Ip,
            GeneralName::Other(_) => Self::Other(0),
            GeneralName::Unsupported(number, _) => Self::Other(*number),
        }
    }
}

/// A name of a certificate, ready to compare, or why it is not.  Hosts are in lower case.
pub enum Presented<'a> {
    /// directoryName, or the subject.
    Directory(Result<&'a Name, Malformed>),
    /// The host of a dNSName; its first label may be `*`.
    Dns(Result<String, Malformed>),
    /// Local part and host of an rfc822Name, or of an emailAddress in the subject.
    Email(Result<(String, String), Malformed>),
    /// The host of a uniformResourceIdentifier.
    Uri(Result<String, Malformed>),
    /// The 4 or 16 octets of an iPAddress.
    Ip(Result<&'a [u8], Malformed>),
    /// A form that nobody can compare, by tag number.
    Other(u8),
}

/// A name of a constrained form that does not have the form's syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Presented<'_> {
    /// Its form.
    pub fn form(&self) -> Form {
        match self {
            Self::Directory(_) => Form::Directory,
            Self::Dns(_) => Form::Dns,
            Self::Email(_) => Form::Email,
            Self::Uri(_) => Form::Uri,
            Self::Ip(_) => Form::Ip,
            Self::Other(number) => Form::Other(*number),
        }
    }

    /// The name in a sentence.
    pub fn describe(&self) -> String {
        match self {
            Self::Directory(Ok(name)) => format!("the name `{name}`"),
            Self::Directory(_) => "a directory name".into(),
            Self::Dns(Ok(host)) => format!("dNSName `{host}`"),
            Self::Email(Ok((local, host))) => format!("e-mail address `{local}@{host}`"),
            Self::Uri(Ok(host)) => format!("a URI on host `{host}`"),
            Self::Ip(Ok(address)) => format!("iPAddress {address:?}"),
            Self::Dns(_) => "a dNSName".into(),
            Self::Email(_) => "an e-mail address".into(),
            Self::Uri(_) => "a URI".into(),
            Self::Ip(_) => "an iPAddress".into(),
            Self::Other(number) => format!("a name of form [{number}]"),
        }
    }
}

/// All that constraints are applied to: the subject, the alternative names, and e-mail addresses in
/// the subject.  RFC 5280 asks for those only where there is no subjectAltName; they are always
/// checked here, since a configuration may take the device's identity from the subject.
pub fn names_of(certificate: &Certificate) -> Vec<Presented<'_>> {
    let mut names = Vec::new();
    if !certificate.subject.is_empty() {
        names.push(directory(&certificate.subject));
    }
    for attribute in certificate.subject.rdns().iter().flatten() {
        if attribute.oid == oid::EMAIL_ADDRESS {
            let address = name::text(attribute.value).unwrap_or_default();
            names.push(Presented::Email(mailbox(&address)));
        }
    }
    for name in certificate.subject_alt_name.iter().flatten() {
        names.push(match name {
            GeneralName::Directory(name) => directory(name),
            GeneralName::Dns(text) => {
                let text = ascii(text);
                let host = is_host(&text, true).then(|| text.to_ascii_lowercase());
                Presented::Dns(host.ok_or(Malformed))
            }
            GeneralName::Email(text) => Presented::Email(mailbox(&ascii(text))),
            GeneralName::Uri(text) => Presented::Uri(uri_host(&ascii(text)).ok_or(Malformed)),
            GeneralName::Ip(bytes) => Presented::Ip(match bytes.len() {
                4 | 16 => Ok(bytes),
                _ => Err(Malformed),
            }),
            GeneralName::Other(_) => Presented::Other(0),
            GeneralName::Unsupported(number, _) => Presented::Other(*number),
        });
    }
    names
}

/// Illegible strings are equal only as bytes, which would let them out of an excluded subtree.
fn directory(name: &Name) -> Presented<'_> {
    Presented::Directory(if name.is_legible() { Ok(name) } else { Err(Malformed) })
}

/// IA5String octets, which were checked to be ASCII, as text.
pub fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

/// True when `host` is `base`, or has labels left of it.  Both in lower case.
pub fn is_below(host: &str, base: &str) -> bool {
    base.is_empty()
        || host.strip_suffix(base).is_some_and(|labels| labels.is_empty() || labels.ends_with('.'))
}

/// A domain name in preferred syntax (RFC 1034 section 3.5), underscores allowed as found in
/// practice; with `wildcard`, its first label may be `*`.
pub fn is_host(text: &str, wildcard: bool) -> bool {
    let name = match text.strip_prefix("*.") {
        Some(rest) if wildcard => rest,
        _ => text,
    };
    text.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// An unquoted local part: dot-separated atoms (RFC 5321 section 4.1.2).  Quoted ones have many
/// spellings of one mailbox, so that they cannot be compared as bytes.
pub fn is_local_part(text: &str) -> bool {
    text.split('.').all(|atom| {
        !atom.is_empty()
            && atom
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    })
}

/// Local part and host of an address.
pub fn mailbox(address: &str) -> Result<(String, String), Malformed> {
    match address.split_once('@') {
        Some((local, host)) if is_local_part(local) && is_host(host, false) => {
            Ok((local.to_owned(), host.to_ascii_lowercase()))
        }
        _ => Err(Malformed),
    }
}

/// The host of a URI, where it has an authority with a domain name as RFC 5280 section 4.2.1.10
/// demands; an address is none.
pub fn uri_host(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?;
    // What RFC 3986 does not allow here is read as another host by some parser or other.
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(&b);
    if !authority.bytes().all(is_allowed) || authority.matches('@').count() > 1 {
        return None;
    }
    let host_and_port = authority.split_once('@').map_or(authority, |(_, after)| after);
    let host = match host_and_port.split_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some(_) => return None,
        None => host_and_port,
    };
    // The last label of an IPv4 address is a number; that of a domain name never is.
    let is_address = host.rsplit('.').next()?.bytes().all(|b| b.is_ascii_digit());
    (scheme_is_valid && is_host(host, false) && !is_address).then(|| host.to_ascii_lowercase())
}
