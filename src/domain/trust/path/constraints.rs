//! Name constraints (RFC 5280 sections 4.2.1.10, 6.1.3 (b) and (c), 6.1.4 (g)).
//!
//! Every authority's constraints are kept apart: a name must satisfy each of them, which is the
//! intersection of permitted and the union of excluded subtrees.  A constraint that cannot be read
//! refuses the path.  A name that cannot be compared is refused as soon as its form is constrained.

use crate::domain::cert::{Certificate, GeneralName, oid, read_general_name};
use crate::domain::der::{self, DerError, Reader, tag};
use crate::domain::name::Name;
use crate::domain::refusal::{Code, Refusal};

/// The constraints of all authorities above the certificate at hand.
#[derive(Debug, Default)]
pub struct Constraints {
    authorities: Vec<(String, NameConstraints)>,
}

impl Constraints {
    /// Adds what `authority` constrains below it.
    pub fn add(&mut self, authority: &Certificate) -> Result<(), Refusal> {
        if let Some(extension) = authority.extension(oid::NAME_CONSTRAINTS) {
            let constraints = NameConstraints::read(&extension.value).map_err(|why| {
                let detail = format!("nameConstraints of `{}`: {why}", authority.subject);
                Refusal::new(Code::NameConstraint, detail)
            })?;
            self.authorities.push((authority.subject.to_string(), constraints));
        }
        Ok(())
    }

    /// Checks every name of `certificate`; `comparisons` is what is left of the decision's budget.
    pub fn check(&self, certificate: &Certificate, comparisons: &mut usize) -> Result<(), Refusal> {
        if self.authorities.is_empty() {
            return Ok(());
        }
        let names = names_of(certificate);
        for (authority, constraints) in &self.authorities {
            for name in &names {
                constraints.check(name, comparisons).map_err(|fault| match fault {
                    Fault::Spent => Refusal::new(
                        Code::PathBudget,
                        "too many comparisons of names with name constraints for one decision",
                    ),
                    Fault::Name(why) => Refusal::new(
                        Code::NameConstraint,
                        format!(
                            "{} of `{}` {why} of `{authority}`",
                            name.describe(),
                            certificate.subject
                        ),
                    ),
                })?;
            }
        }
        Ok(())
    }
}

/// One nameConstraints extension.
#[derive(Debug)]
pub struct NameConstraints {
    permitted: Vec<Subtree>,
    excluded: Vec<Subtree>,
    explicit_minimum: bool,
}

/// Why a name fails.
enum Fault {
    /// The sentence's middle: "<name> <why> of <authority>".
    Name(&'static str),
    /// The budget is used up.
    Spent,
}

impl NameConstraints {
    /// Reads the extension's DER.
    pub fn read(der: &[u8]) -> Result<Self, DerError> {
        let mut r = der::single(der, tag::SEQUENCE)?.reader();
        let permitted = r.optional(tag::context_constructed(0))?;
        let excluded = r.optional(tag::context_constructed(1))?;
        r.end()?;
        if permitted.is_none() && excluded.is_none() {
            // RFC 5280: "either the permittedSubtrees field or the excludedSubtrees MUST be present".
            return Err(DerError::Value("an empty sequence"));
        }
        let mut explicit_minimum = false;
        let mut list = |subtrees: Option<der::Element<'_>>| match subtrees {
            Some(subtrees) => read_subtrees(subtrees.reader(), &mut explicit_minimum),
            None => Ok(Vec::new()),
        };
        Ok(Self { permitted: list(permitted)?, excluded: list(excluded)?, explicit_minimum })
    }

    /// True when nothing but dNSName and iPAddress is constrained, without the fields that nobody uses.
    pub fn is_on_hosts_only(&self) -> bool {
        let is_host = |s: &Subtree| matches!(s, Subtree::Dns(_) | Subtree::Ip { .. });
        !self.explicit_minimum && self.permitted.iter().chain(&self.excluded).all(is_host)
    }

    fn check(&self, name: &Presented<'_>, comparisons: &mut usize) -> Result<(), Fault> {
        let mut spend = || match comparisons.checked_sub(1) {
            Some(left) => {
                *comparisons = left;
                Ok(())
            }
            None => Err(Fault::Spent),
        };
        for subtree in &self.excluded {
            spend()?;
            if subtree.form() == name.form() && subtree.excludes(name)? {
                return Err(Fault::Name("is within an excluded subtree"));
            }
        }
        let mut constrained = false;
        for subtree in &self.permitted {
            spend()?;
            if subtree.form() == name.form() {
                if subtree.permits(name)? {
                    return Ok(());
                }
                constrained = true;
            }
        }
        if constrained { Err(Fault::Name("is in no permitted subtree")) } else { Ok(()) }
    }
}

/// GeneralSubtrees ::= SEQUENCE SIZE (1..MAX) OF GeneralSubtree
fn read_subtrees(mut r: Reader<'_>, explicit_minimum: &mut bool) -> Result<Vec<Subtree>, DerError> {
    let mut out = Vec::new();
    while !r.is_empty() {
        let mut subtree = r.sequence()?;
        let base = read_general_name(subtree.any()?)?;
        let minimum = subtree.optional(tag::context(0))?.map(der::small_integer).transpose()?;
        let maximum = subtree.optional(tag::context(1))?;
        subtree.end()?;
        *explicit_minimum |= minimum.is_some();
        out.push(if minimum.unwrap_or(0) != 0 || maximum.is_some() {
            // RFC 5280 section 4.2.1.10: process these fields, or reject names of the form.
            Subtree::Unusable(Form::of(&base))
        } else {
            Subtree::read(base)?
        });
    }
    if out.is_empty() { Err(DerError::Value("an empty list of subtrees")) } else { Ok(out) }
}

/// The forms of GeneralName that constraints tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Directory,
    Dns,
    Email,
    Uri,
    Ip,
    /// By tag number: a name of one of these forms is refused when its form is constrained.
    Other(u8),
}

impl Form {
    fn of(name: &GeneralName) -> Self {
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

/// One base of a GeneralSubtree.  Hosts are in lower case.
#[derive(Debug)]
enum Subtree {
    Directory(Name),
    /// Labels right to left below it; empty: all names.
    Dns(String),
    Email(Mail),
    Uri(Host),
    Ip {
        base: Box<[u8]>,
        mask: Box<[u8]>,
    },
    /// Of a form, or with fields, that this program cannot process.
    Unusable(Form),
}

/// A constraint on e-mail addresses.
#[derive(Debug)]
enum Mail {
    /// One mailbox: local part as written, host.
    Box(String, String),
    /// All mailboxes on the hosts.
    At(Host),
}

/// A constraint on hosts, of e-mail addresses and URIs.
#[derive(Debug)]
enum Host {
    /// Exactly this host.
    Is(String),
    /// Hosts with at least one label more.
    Below(String),
    /// Every host.
    Any,
}

impl Host {
    fn read(text: &str) -> Option<Self> {
        match text.strip_prefix('.') {
            None if text.is_empty() => Some(Self::Any),
            None => is_host(text, false).then(|| Self::Is(text.to_ascii_lowercase())),
            Some(domain) => {
                is_host(domain, false).then(|| Self::Below(domain.to_ascii_lowercase()))
            }
        }
    }

    fn contains(&self, host: &str) -> bool {
        match self {
            Self::Is(it) => it == host,
            Self::Below(domain) => host != domain && is_below(host, domain),
            Self::Any => true,
        }
    }
}

impl Subtree {
    fn read(base: GeneralName) -> Result<Self, DerError> {
        Ok(match base {
            GeneralName::Directory(name) if name.is_legible() => Self::Directory(name),
            GeneralName::Directory(_) => {
                return Err(DerError::Value("a directoryName subtree has an illegible string"));
            }
            GeneralName::Dns(text) => {
                let host = ascii(&text);
                // RFC 5280 has no leading period here, unlike for URI and e-mail, and no wildcard.
                if !host.is_empty() && !is_host(&host, false) {
                    return Err(DerError::Value("a dNSName subtree is no domain name"));
                }
                Self::Dns(host.to_ascii_lowercase())
            }
            GeneralName::Email(text) => {
                let text = ascii(&text);
                let mail = match text.split_once('@') {
                    Some((local, host)) if is_local_part(local) && is_host(host, false) => {
                        Some(Mail::Box(local.to_owned(), host.to_ascii_lowercase()))
                    }
                    Some(_) => None,
                    None => Host::read(&text).map(Mail::At),
                };
                Self::Email(mail.ok_or(DerError::Value(
                    "an rfc822Name subtree is neither a mailbox nor a host nor a domain",
                ))?)
            }
            GeneralName::Uri(text) => {
                Self::Uri(Host::read(&ascii(&text)).ok_or(DerError::Value(
                    "a uniformResourceIdentifier subtree is neither a host nor a domain",
                ))?)
            }
            GeneralName::Ip(bytes) => {
                let (base, mask) = bytes.split_at(bytes.len() / 2);
                if !matches!(bytes.len(), 8 | 32) || !is_cidr(mask) {
                    return Err(DerError::Value("an iPAddress subtree is no address and prefix"));
                }
                Self::Ip { base: base.into(), mask: mask.into() }
            }
            other => Self::Unusable(Form::of(&other)),
        })
    }

    fn form(&self) -> Form {
        match self {
            Self::Directory(_) => Form::Directory,
            Self::Dns(_) => Form::Dns,
            Self::Email(_) => Form::Email,
            Self::Uri(_) => Form::Uri,
            Self::Ip { .. } => Form::Ip,
            Self::Unusable(form) => *form,
        }
    }

    /// All that the name can stand for is within this subtree.
    fn permits(&self, name: &Presented<'_>) -> Result<bool, Fault> {
        match (self, name) {
            // The wildcard is a label like any other: all its expansions are below what follows it.
            (Self::Dns(base), Presented::Dns(host)) => Ok(is_below(host.as_ref()?, base)),
            _ => self.contains(name),
        }
    }

    /// Something that the name can stand for is within this subtree.
    fn excludes(&self, name: &Presented<'_>) -> Result<bool, Fault> {
        match (self, name) {
            (Self::Dns(base), Presented::Dns(host)) => {
                let host = host.as_ref()?;
                let reaches_into = |domain: &str| {
                    let label = base.strip_suffix(domain).and_then(|l| l.strip_suffix('.'));
                    label.is_some_and(|l| !l.is_empty() && !l.contains('.'))
                };
                Ok(is_below(host, base) || host.strip_prefix("*.").is_some_and(reaches_into))
            }
            _ => self.contains(name),
        }
    }

    fn contains(&self, name: &Presented<'_>) -> Result<bool, Fault> {
        Ok(match (self, name) {
            (Self::Directory(base), Presented::Directory(name)) => name.as_ref()?.is_within(base),
            (Self::Email(mail), Presented::Email(address)) => {
                let (local, host) = address.as_ref()?;
                match mail {
                    // RFC 5280 section 7.5: the local part exactly, the host in any case.
                    Mail::Box(of, at) => of == local && at == host,
                    Mail::At(hosts) => hosts.contains(host),
                }
            }
            (Self::Uri(hosts), Presented::Uri(host)) => hosts.contains(host.as_ref()?),
            (Self::Ip { base, mask }, Presented::Ip(address)) => {
                let address = address.as_ref()?;
                address.len() == base.len()
                    && address.iter().zip(base).zip(mask).all(|((a, b), m)| a & m == b & m)
            }
            _ => return Err(Fault::Name("has a form that cannot be checked against the names")),
        })
    }
}

/// A name of a certificate, ready to compare, or why it is not.
enum Presented<'a> {
    Directory(Result<&'a Name, Malformed>),
    Dns(Result<String, Malformed>),
    Email(Result<(String, String), Malformed>),
    Uri(Result<String, Malformed>),
    Ip(Result<&'a [u8], Malformed>),
    Other(u8),
}

/// A name of a constrained form that does not have the form's syntax.
struct Malformed;

impl From<&Malformed> for Fault {
    fn from(_: &Malformed) -> Self {
        Self::Name("is malformed, and its form is constrained by the names")
    }
}

impl Presented<'_> {
    fn form(&self) -> Form {
        match self {
            Self::Directory(_) => Form::Directory,
            Self::Dns(_) => Form::Dns,
            Self::Email(_) => Form::Email,
            Self::Uri(_) => Form::Uri,
            Self::Ip(_) => Form::Ip,
            Self::Other(number) => Form::Other(*number),
        }
    }

    fn describe(&self) -> String {
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
fn names_of(certificate: &Certificate) -> Vec<Presented<'_>> {
    let mut names = Vec::new();
    if !certificate.subject.is_empty() {
        names.push(directory(&certificate.subject));
    }
    for attribute in certificate.subject.rdns().iter().flatten() {
        if attribute.oid == oid::EMAIL_ADDRESS {
            let address = crate::domain::name::text(attribute.value).unwrap_or_default();
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
fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

/// True when `host` is `base`, or has labels left of it.  Both in lower case.
fn is_below(host: &str, base: &str) -> bool {
    base.is_empty()
        || host.strip_suffix(base).is_some_and(|labels| labels.is_empty() || labels.ends_with('.'))
}

/// A domain name in preferred syntax (RFC 1034 section 3.5), underscores allowed as found in
/// practice; with `wildcard`, its first label may be `*`.
fn is_host(text: &str, wildcard: bool) -> bool {
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
fn is_local_part(text: &str) -> bool {
    text.split('.').all(|atom| {
        !atom.is_empty()
            && atom
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    })
}

fn mailbox(address: &str) -> Result<(String, String), Malformed> {
    match address.split_once('@') {
        Some((local, host)) if is_local_part(local) && is_host(host, false) => {
            Ok((local.to_owned(), host.to_ascii_lowercase()))
        }
        _ => Err(Malformed),
    }
}

/// The host of a URI, where it has an authority with a domain name as RFC 5280 section 4.2.1.10
/// demands; an address is none.
fn uri_host(uri: &str) -> Option<String> {
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

/// Ones, then zeros.
fn is_cidr(mask: &[u8]) -> bool {
    let ones: u32 = mask.iter().take_while(|&&b| b == 0xff).map(|_| 8).sum();
    let rest = &mask[ones as usize / 8..];
    match rest.split_first() {
        None => true,
        Some((&edge, zeros)) => {
            edge.leading_ones() + edge.trailing_zeros() >= 8 && zeros.iter().all(|&b| b == 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::trust::path::forge::{self, Key, Spec, cn};
    use proptest::prelude::*;

    const EMAIL: u8 = 1;
    const DNS: u8 = 2;
    const DIRECTORY: u8 = 4;
    const URI: u8 = 6;
    const IP: u8 = 7;
    const OTHER: u8 = 0;

    type Names = Vec<(u8, Vec<u8>)>;

    fn text(form: u8, text: &str) -> (u8, Vec<u8>) {
        (form, text.as_bytes().to_vec())
    }

    /// The verdict on a leaf with these alternative names below an authority with this extension.
    fn judge(extension: Vec<u8>, subject: Vec<u8>, names: &Names) -> Result<(), Refusal> {
        let key = Key::number(0);
        let authority = Spec::authority(cn("CA"), cn("CA"))
            .with(forge::NAME_CONSTRAINTS, true, extension)
            .sign(key, key);
        let mut leaf = Spec::device(subject, cn("CA"));
        if !names.is_empty() {
            leaf = leaf.with(forge::SUBJECT_ALT_NAME, false, forge::general_names(names));
        }
        let read = |der: &[u8]| Certificate::from_der(der).expect("a certificate");
        let mut constraints = Constraints::default();
        constraints.add(&read(&authority))?;
        constraints.check(&read(&leaf.sign(key, key)), &mut 1000)
    }

    fn permitted(base: (u8, Vec<u8>), name: (u8, Vec<u8>)) -> bool {
        judge(forge::name_constraints(&[base], &[]), cn("device"), &vec![name]).is_ok()
    }

    fn excluded(base: (u8, Vec<u8>), name: (u8, Vec<u8>)) -> bool {
        judge(forge::name_constraints(&[], &[base]), cn("device"), &vec![name]).is_err()
    }

    #[test]
    fn a_name_is_within_a_subtree_or_it_is_not() {
        // (form, base, name, within): permitted exactly when within, and excluded exactly then.
        for (form, base, name, within) in [
            (DNS, "fleet.example", "fleet.example", true),
            (DNS, "fleet.example", "a.b.FLEET.example", true),
            (DNS, "Fleet.Example", "a.fleet.example", true),
            (DNS, "fleet.example", "afleet.example", false),
            (DNS, "a.fleet.example", "fleet.example", false),
            (DNS, "", "any.example", true),
            (DNS, "fleet.example", "*.fleet.example", true),
            (DNS, "fleet.example", "*.other.example", false),
            (EMAIL, "ops@fleet.example", "ops@FLEET.example", true),
            (EMAIL, "ops@fleet.example", "Ops@fleet.example", false),
            (EMAIL, "*@fleet.example", "ops@fleet.example", false),
            (EMAIL, "fleet.example", "any@fleet.example", true),
            (EMAIL, "fleet.example", "any@a.fleet.example", false),
            (EMAIL, ".fleet.example", "any@a.fleet.example", true),
            (EMAIL, ".fleet.example", "any@fleet.example", false),
            (EMAIL, "", "any@anywhere.example", true),
            (URI, "fleet.example", "https://fleet.example/x", true),
            (URI, "fleet.example", "https://u@FLEET.example:8443?q#f", true),
            (URI, "fleet.example", "https://a.fleet.example/", false),
            (URI, ".fleet.example", "urn2+x://a.b.fleet.example", true),
            (URI, ".fleet.example", "https://fleet.example/", false),
            (URI, "fleet.example", "https://evil.example/?@fleet.example", false),
            (URI, "fleet.example", "https://evil.example#fleet.example", false),
        ] {
            assert_eq!(permitted(text(form, base), text(form, name)), within, "{name} in `{base}`");
            assert_eq!(excluded(text(form, base), text(form, name)), within, "{name} out `{base}`");
        }
    }

    #[test]
    fn a_wildcard_is_judged_by_all_that_it_can_stand_for() {
        let base = || text(DNS, "a.fleet.example");
        // One of its expansions is within: neither all of it is permitted nor all of it allowed.
        assert!(!permitted(base(), text(DNS, "*.fleet.example")));
        assert!(excluded(base(), text(DNS, "*.fleet.example")));
        // It stands for one label, never two.
        assert!(!excluded(text(DNS, "a.b.fleet.example"), text(DNS, "*.fleet.example")));
    }

    #[test]
    fn a_malformed_name_fails_as_soon_as_its_form_is_constrained() {
        for (form, base, name) in [
            (DNS, "x.example", ".a.example"),
            (DNS, "x.example", "a..example"),
            (DNS, "x.example", "a.example."),
            (DNS, "x.example", "f*.example"),
            (DNS, "x.example", "a.*.example"),
            (DNS, "x.example", "a b.example"),
            (DNS, "x.example", "-a.example"),
            (DNS, "x.example", ""),
            (EMAIL, "x.example", "a@b@c.example"),
            (EMAIL, "x.example", "\"a\"@c.example"),
            (EMAIL, "x.example", "a@[10.0.0.1]"),
            (EMAIL, "x.example", "@c.example"),
            (EMAIL, "x.example", "nobody"),
            (URI, "x.example", "urn:device:1"),
            (URI, "x.example", "https://10.0.0.1/"),
            (URI, "x.example", "https://[2001:db8::1]/"),
            (URI, "x.example", "https:///path"),
            (URI, "x.example", "//host.example/"),
            (URI, "x.example", "https://a%2eexample/"),
            (URI, "x.example", "https://a.example\\@x.example/"),
        ] {
            assert!(!permitted(text(form, base), text(form, name)), "{name}");
            assert!(excluded(text(form, base), text(form, name)), "{name}");
        }
        let prefix = || (IP, vec![10, 0, 0, 0, 255, 0, 0, 0]);
        assert!(excluded(prefix(), (IP, vec![192, 0, 2, 0, 255, 255, 255, 0])));
    }

    #[test]
    fn a_constraint_that_cannot_be_read_refuses_everything() {
        for base in [
            text(DNS, "*.fleet.example"),
            text(DNS, ".fleet.example"),
            text(DNS, "fleet.example."),
            text(EMAIL, "a@b@c.example"),
            text(EMAIL, "*.example"),
            text(URI, "https://fleet.example"),
            text(URI, "."),
            (IP, vec![10, 0, 0, 0]),
            (IP, vec![10, 0, 0, 0, 255, 0, 255, 0]),
            (IP, vec![0; 31]),
            (DIRECTORY, forge::name(&[(forge::CN, 0x0c, "a")]).split_off(1)),
        ] {
            let refusal =
                judge(forge::name_constraints(&[base.clone()], &[]), cn("d"), &Vec::new());
            assert_eq!(refusal.map_err(|r| r.code), Err(Code::NameConstraint), "{base:?}");
        }
        assert!(judge(forge::seq::<Vec<u8>>(&[]), cn("d"), &Vec::new()).is_err());
        assert!(judge(forge::seq(&[forge::tlv(0xa0, &[])]), cn("d"), &Vec::new()).is_err());
    }

    #[test]
    fn forms_do_not_constrain_each_other() {
        for base in [text(DNS, "x.example"), text(EMAIL, "x.example"), text(URI, "x.example")] {
            let address = (IP, vec![10, 0, 0, 1]);
            assert!(permitted(base.clone(), address.clone()) && !excluded(base, address));
        }
    }

    #[test]
    fn a_form_that_nobody_can_compare_is_refused_only_where_it_occurs() {
        let other = || (OTHER, [forge::oid(&[0x2a, 3]), forge::tlv(0xa0, &[5, 0])].concat());
        assert!(excluded(other(), other()));
        assert!(!permitted(other(), other()));
        assert!(permitted(other(), text(DNS, "a.example")));
        // A maximum cannot be processed either.
        let base = forge::general_name(&text(DNS, "example"));
        let bounded = forge::seq(&[base, forge::tlv(0x81, &[1])]);
        let extension = forge::seq(&[forge::tlv(0xa0, &bounded)]);
        assert!(judge(extension.clone(), cn("d"), &vec![text(DNS, "a.example")]).is_err());
        assert!(judge(extension, cn("d"), &vec![text(URI, "https://a.example")]).is_ok());
    }

    #[test]
    fn directory_names_and_mail_in_the_subject_are_constrained() {
        let base = (DIRECTORY, forge::name(&[(forge::O, 0x0c, "Acme")]));
        let below = forge::name(&[(forge::O, 0x13, "ACME"), (forge::CN, 0x0c, "d")]);
        let beside = forge::name(&[(forge::O, 0x0c, "Acme Inc"), (forge::CN, 0x0c, "d")]);
        let only = || forge::name_constraints(std::slice::from_ref(&base), &[]);
        let never = || forge::name_constraints(&[], std::slice::from_ref(&base));
        assert!(judge(only(), below.clone(), &Vec::new()).is_ok());
        assert!(judge(only(), beside.clone(), &Vec::new()).is_err());
        assert!(
            judge(only(), forge::seq::<Vec<u8>>(&[]), &vec![(DIRECTORY, beside.clone())]).is_err()
        );
        assert!(judge(never(), below, &Vec::new()).is_err());
        assert!(judge(never(), beside, &Vec::new()).is_ok());
        // Latin-1 in a UTF8String: neither within nor outside of anything.
        let illegible = forge::seq(&[forge::tlv(
            0x31,
            &forge::seq(&[forge::oid(forge::O), vec![0x0c, 1, 0xe9]]),
        )]);
        assert!(judge(never(), illegible, &Vec::new()).is_err());

        let mail = forge::name(&[(forge::EMAIL, 0x16, "a@fleet.example")]);
        let hosts = |host: &str| forge::name_constraints(&[text(EMAIL, host)], &[]);
        assert!(judge(hosts("fleet.example"), mail.clone(), &Vec::new()).is_ok());
        assert!(judge(hosts("other.example"), mail, &Vec::new()).is_err());
    }

    #[test]
    fn every_authority_has_its_say() {
        let key = Key::number(0);
        let mut constraints = Constraints::default();
        for base in ["fleet.example", "b.fleet.example"] {
            let extension = forge::name_constraints(&[text(DNS, base)], &[]);
            let der = Spec::authority(cn("CA"), cn("CA"))
                .with(forge::NAME_CONSTRAINTS, true, extension)
                .sign(key, key);
            constraints.add(&Certificate::from_der(&der).expect("a CA")).expect("readable");
        }
        for (name, good) in [("a.b.fleet.example", true), ("a.fleet.example", false)] {
            let san = forge::general_names(&[text(DNS, name)]);
            let der = Spec::device(cn("d"), cn("CA"))
                .with(forge::SUBJECT_ALT_NAME, false, san)
                .sign(key, key);
            let leaf = Certificate::from_der(&der).expect("a leaf");
            assert_eq!(constraints.check(&leaf, &mut 100).is_ok(), good, "{name}");
            let spent = constraints.check(&leaf, &mut 1).map_err(|refusal| refusal.code);
            assert_eq!(spent, Err(Code::PathBudget));
        }
    }

    proptest! {
        #[test]
        fn hosts_are_compared_label_by_label(
            base in prop::collection::vec("[ab]{1,2}", 1..4),
            name in prop::collection::vec("[ab]{1,2}", 1..5),
        ) {
            let within = name.len() >= base.len() && name[name.len() - base.len()..] == base[..];
            let (base, name) = (base.join("."), name.join("."));
            prop_assert_eq!(permitted(text(DNS, &base), text(DNS, &name)), within);
            prop_assert_eq!(excluded(text(DNS, &base), text(DNS, &name)), within);
        }

        #[test]
        fn addresses_are_compared_bit_by_bit(base: u32, address: u32, bits in 0u32..=32) {
            let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
            let near = (base & mask) | (address & !mask);
            let subtree = || (IP, [base.to_be_bytes(), mask.to_be_bytes()].concat());
            prop_assert!(permitted(subtree(), (IP, near.to_be_bytes().to_vec())));
            prop_assert!(excluded(subtree(), (IP, near.to_be_bytes().to_vec())));
            let within = base & mask == address & mask;
            prop_assert_eq!(permitted(subtree(), (IP, address.to_be_bytes().to_vec())), within);
            // The other family is in no IPv4 subtree.
            prop_assert!(!permitted(subtree(), (IP, vec![0; 16])));
        }

        #[test]
        fn what_is_permitted_is_not_excluded(base in "[a-c.@*]{0,6}", name in "[a-c.@*:/]{0,9}", form in 1u8..=2) {
            let (is_permitted, is_excluded) =
                (permitted(text(form, &base), text(form, &name)), excluded(text(form, &base), text(form, &name)));
            prop_assert!(!is_permitted || is_excluded, "permitted by a subtree that does not exclude it");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), uri in "\\PC{0,40}") {
            let _ = NameConstraints::read(&bytes);
            let _ = (uri_host(&uri), mailbox(&uri), is_host(&uri, true));
        }
    }
}
