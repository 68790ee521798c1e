//! Names of a certificate, prepared for name constraints (RFC 5280 sections 4.2.1.6, 4.2.1.10 and
//! 7).

use crate::x509::certificate::{Certificate, GeneralName, oid};
use crate::x509::name::{self, Name};

/// Form of a GeneralName, as constraints distinguish them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameForm {
    /// directoryName, or the subject.
    Directory,
    Dns,
    /// rfc822Name, or an emailAddress of the subject.
    Email,
    Uri,
    Ip,
    /// Another form, by tag number.  Such a name is refused if its form is constrained.
    Other(u8),
}

impl NameForm {
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

/// Name of a certificate, parsed for comparison.  Hosts are in lower case.
pub(crate) enum PresentedName<'a> {
    /// directoryName, or the subject.
    Directory(Result<&'a Name, MalformedName>),
    /// Host of a dNSName.  The first label may be `*`.
    Dns(Result<String, MalformedName>),
    /// Local part and host of an rfc822Name, or of an emailAddress in the subject.
    Email(Result<(String, String), MalformedName>),
    /// Host of a uniformResourceIdentifier.
    Uri(Result<String, MalformedName>),
    /// The 4 or 16 bytes of an iPAddress.
    Ip(Result<&'a [u8], MalformedName>),
    /// Name of a form that cannot be compared, by tag number.
    Other(u8),
}

/// Error of a name that does not have the syntax of its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MalformedName;

impl PresentedName<'_> {
    pub fn form(&self) -> NameForm {
        match self {
            Self::Directory(_) => NameForm::Directory,
            Self::Dns(_) => NameForm::Dns,
            Self::Email(_) => NameForm::Email,
            Self::Uri(_) => NameForm::Uri,
            Self::Ip(_) => NameForm::Ip,
            Self::Other(number) => NameForm::Other(*number),
        }
    }

    /// Describes the name as a noun phrase for messages.
    pub(crate) fn describe(&self) -> String {
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

/// Returns the names that constraints apply to: the subject, the alternative names, and e-mail
/// addresses in the subject.
///
/// RFC 5280 requires the e-mail addresses only if there is no subjectAltName.  They are always
/// included here, because a configuration may take the subject ID from the subject.
pub(crate) fn constrained_names(certificate: &Certificate) -> Vec<PresentedName<'_>> {
    let mut names = Vec::new();
    if !certificate.subject.is_empty() {
        names.push(directory(&certificate.subject));
    }
    for attribute in certificate.subject.rdns().iter().flatten() {
        if attribute.oid == oid::EMAIL_ADDRESS {
            let address = name::text(attribute.value).unwrap_or_default();
            names.push(PresentedName::Email(mailbox(&address)));
        }
    }
    for name in certificate.subject_alt_name.iter().flatten() {
        names.push(match name {
            GeneralName::Directory(name) => directory(name),
            GeneralName::Dns(text) => {
                let text = ascii(text);
                let host = is_host(&text, true).then(|| text.to_ascii_lowercase());
                PresentedName::Dns(host.ok_or(MalformedName))
            }
            GeneralName::Email(text) => PresentedName::Email(mailbox(&ascii(text))),
            GeneralName::Uri(text) => {
                PresentedName::Uri(uri_host(&ascii(text)).ok_or(MalformedName))
            }
            GeneralName::Ip(bytes) => PresentedName::Ip(match bytes.len() {
                4 | 16 => Ok(bytes),
                _ => Err(MalformedName),
            }),
            GeneralName::Other(_) => PresentedName::Other(0),
            GeneralName::Unsupported(number, _) => PresentedName::Other(*number),
        });
    }
    names
}

/// Rejects strings that are not validly encoded.  They are equal only as bytes, so they would not
/// match an excluded subtree.
fn directory(name: &Name) -> PresentedName<'_> {
    PresentedName::Directory(if name.is_legible() { Ok(name) } else { Err(MalformedName) })
}

/// Converts the bytes of an IA5String, which are ASCII, to text.
pub(crate) fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

/// Returns true if `host` is `base` or a subdomain of it.  Both must be in lower case.
pub(crate) fn is_below(host: &str, base: &str) -> bool {
    if base.starts_with('.') {
        return host.ends_with(base) && host.len() > base.len();
    }
    base.is_empty()
        || host.strip_suffix(base).is_some_and(|labels| labels.is_empty() || labels.ends_with('.'))
}

/// Returns true for a domain name in preferred syntax (RFC 1034 section 3.5).  Underscores are
/// allowed, because they occur in practice.  With `wildcard`, the first label may be `*`.
pub(crate) fn is_host(text: &str, wildcard: bool) -> bool {
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

/// Returns true for an unquoted local part: dot-separated atoms (RFC 5321 section 4.1.2).  A quoted
/// local part can spell one mailbox in many ways, so it cannot be compared as bytes.
pub(crate) fn is_local_part(text: &str) -> bool {
    text.split('.').all(|atom| {
        !atom.is_empty()
            && atom
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    })
}

/// Splits an e-mail address into local part and lower-case host.
pub(crate) fn mailbox(address: &str) -> Result<(String, String), MalformedName> {
    match address.split_once('@') {
        Some((local, host)) if is_local_part(local) && is_host(host, false) => {
            Ok((local.to_owned(), host.to_ascii_lowercase()))
        }
        _ => Err(MalformedName),
    }
}

/// Returns the host of a URI in lower case.  RFC 5280 section 4.2.1.10 requires an authority with a
/// domain name.  The result is `None` for an IP address.
pub(crate) fn uri_host(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    let scheme_is_valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?;
    // Parsers disagree on the host if the authority has characters that RFC 3986 does not allow.
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
