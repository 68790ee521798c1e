//! Name constraints (RFC 5280 sections 4.2.1.10, 6.1.3 (b) and (c), 6.1.4 (g)).
//!
//! Every authority's constraints are kept apart: a name must satisfy each of them, which is the
//! intersection of permitted and the union of excluded subtrees.  A constraint that cannot be read
//! refuses the path.  A name that cannot be compared is refused as soon as its form is constrained.

use crate::trust::path::names::{
    Form, Malformed, Presented, ascii, is_below, is_host, is_local_part, names_of,
};
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, GeneralName, oid, read_general_name};
use crate::x509::der::{self, DerError, Reader, tag};
use crate::x509::name::Name;

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
    /// What stands between the name and its authority in the sentence.
    Name(&'static str),
    /// The budget is used up.
    Spent,
}

impl From<&Malformed> for Fault {
    fn from(_: &Malformed) -> Self {
        Self::Name("is malformed, and its form is constrained by the names")
    }
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
mod tests;
