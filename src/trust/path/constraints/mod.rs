//! Name constraints (RFC 5280 sections 4.2.1.10, 6.1.3 (b) and (c), 6.1.4 (g)).
//!
//! The constraints of each authority are stored separately, and a name must satisfy all of them.
//! This equals the intersection of permitted and the union of excluded subtrees.  A path with a
//! constraint that cannot be parsed is refused.  A name that cannot be compared is refused if its
//! form is constrained.

use crate::trust::path::names::{
    MalformedName, NameForm, PresentedName, ascii, constrained_names, is_below, is_host,
    is_local_part,
};
use crate::trust::refusal::{Code, Refusal};
use crate::x509::certificate::{Certificate, GeneralName, oid, read_general_name};
use crate::x509::der::{self, DerError, Reader, tag};
use crate::x509::name::Name;

/// Constraints of all authorities above the certificate that is checked.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    authorities: Vec<(String, NameConstraints)>,
}

impl Constraints {
    /// Adds the constraints of `authority`.
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

    /// Checks every name of `certificate`.  `comparisons` is the remaining budget of the decision.
    pub fn check(&self, certificate: &Certificate, comparisons: &mut usize) -> Result<(), Refusal> {
        if self.authorities.is_empty() {
            return Ok(());
        }
        let names = constrained_names(certificate);
        for (authority, constraints) in &self.authorities {
            for name in &names {
                constraints.check(name, comparisons).map_err(|violation| match violation {
                    Violation::BudgetExceeded => Refusal::new(
                        Code::PathBudget,
                        "too many comparisons of names with name constraints for one decision",
                    ),
                    Violation::Name(why) => Refusal::new(
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

/// Decoded nameConstraints extension.
#[derive(Debug)]
pub(crate) struct NameConstraints {
    permitted: Vec<Subtree>,
    excluded: Vec<Subtree>,
    explicit_minimum: bool,
}

/// Reason why a name is refused.
enum Violation {
    /// Part of the message between the name and the authority.
    Name(&'static str),
    BudgetExceeded,
}

impl From<&MalformedName> for Violation {
    fn from(_: &MalformedName) -> Self {
        Self::Name("is malformed, and its form is constrained by nameConstraints")
    }
}

impl NameConstraints {
    /// Parses the extension value.
    pub fn read(der: &[u8]) -> Result<Self, DerError> {
        let mut r = der::single(der, tag::SEQUENCE)?.reader();
        let permitted = r.optional(tag::context_constructed(0))?;
        let excluded = r.optional(tag::context_constructed(1))?;
        r.end()?;
        if permitted.is_none() && excluded.is_none() {
            // RFC 5280: "either the permittedSubtrees field or the excludedSubtrees MUST be
            // present".
            return Err(DerError::Value("an empty sequence"));
        }
        let mut explicit_minimum = false;
        let mut list = |subtrees: Option<der::Element<'_>>| match subtrees {
            Some(subtrees) => read_subtrees(subtrees.reader(), &mut explicit_minimum),
            None => Ok(Vec::new()),
        };
        Ok(Self { permitted: list(permitted)?, excluded: list(excluded)?, explicit_minimum })
    }

    /// Returns true if only dNSName and iPAddress are constrained, and `minimum` does not occur.
    pub(crate) fn is_on_hosts_only(&self) -> bool {
        let is_host = |s: &Subtree| matches!(s, Subtree::Dns(_) | Subtree::Ip { .. });
        !self.explicit_minimum && self.permitted.iter().chain(&self.excluded).all(is_host)
    }

    fn check(&self, name: &PresentedName<'_>, comparisons: &mut usize) -> Result<(), Violation> {
        let mut spend = || match comparisons.checked_sub(1) {
            Some(left) => {
                *comparisons = left;
                Ok(())
            }
            None => Err(Violation::BudgetExceeded),
        };
        for subtree in &self.excluded {
            spend()?;
            if subtree.form() == name.form() && subtree.excludes(name)? {
                return Err(Violation::Name("is within an excluded subtree"));
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
        if constrained { Err(Violation::Name("is not within a permitted subtree")) } else { Ok(()) }
    }
}

/// Parses `GeneralSubtrees ::= SEQUENCE SIZE (1..MAX) OF GeneralSubtree`.
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
            Subtree::Unusable(NameForm::of(&base))
        } else {
            Subtree::read(base)?
        });
    }
    if out.is_empty() { Err(DerError::Value("an empty list of subtrees")) } else { Ok(out) }
}

/// Base of a GeneralSubtree.  Hosts are in lower case.
#[derive(Debug)]
enum Subtree {
    Directory(Name),
    /// The domain and its subdomains.  The empty string means all names.  With a leading period,
    /// subdomains only.
    Dns(String),
    Email(MailConstraint),
    Uri(HostConstraint),
    Ip {
        base: Box<[u8]>,
        mask: Box<[u8]>,
    },
    /// A form or field that is not supported.
    Unusable(NameForm),
}

/// Constraint on e-mail addresses.
#[derive(Debug)]
enum MailConstraint {
    /// One mailbox: local part unchanged, host.
    Mailbox(String, String),
    /// All mailboxes on the hosts.
    Hosts(HostConstraint),
}

/// Constraint on the hosts of e-mail addresses and URIs.
#[derive(Debug)]
enum HostConstraint {
    Exact(String),
    /// Hosts with at least one more label than this domain.
    Subdomains(String),
    Any,
}

impl HostConstraint {
    fn read(text: &str) -> Option<Self> {
        match text.strip_prefix('.') {
            None if text.is_empty() => Some(Self::Any),
            None => is_host(text, false).then(|| Self::Exact(text.to_ascii_lowercase())),
            Some(domain) => {
                is_host(domain, false).then(|| Self::Subdomains(domain.to_ascii_lowercase()))
            }
        }
    }

    fn contains(&self, host: &str) -> bool {
        match self {
            Self::Exact(it) => it == host,
            Self::Subdomains(domain) => host != domain && is_below(host, domain),
            Self::Any => true,
        }
    }
}

impl Subtree {
    fn read(base: GeneralName) -> Result<Self, DerError> {
        Ok(match base {
            GeneralName::Directory(name) if name.is_legible() => Self::Directory(name),
            GeneralName::Directory(_) => {
                return Err(DerError::Value(
                    "a directoryName subtree has an invalid string encoding",
                ));
            }
            GeneralName::Dns(text) => {
                let host = ascii(&text);
                // A leading period is tolerated.  OpenSSL, NSS, Go and webpki read it as "subdomains
                // only".  RFC 5280 allows no wildcard.
                let domain = host.strip_prefix('.').unwrap_or(&host);
                if !host.is_empty() && !is_host(domain, false) {
                    return Err(DerError::Value("a dNSName subtree is not a domain name"));
                }
                Self::Dns(host.to_ascii_lowercase())
            }
            GeneralName::Email(text) => {
                let text = ascii(&text);
                let mail = match text.split_once('@') {
                    Some((local, host)) if is_local_part(local) && is_host(host, false) => {
                        Some(MailConstraint::Mailbox(local.to_owned(), host.to_ascii_lowercase()))
                    }
                    Some(_) => None,
                    None => HostConstraint::read(&text).map(MailConstraint::Hosts),
                };
                Self::Email(mail.ok_or(DerError::Value(
                    "an rfc822Name subtree is not a mailbox, host or domain",
                ))?)
            }
            GeneralName::Uri(text) => Self::Uri(HostConstraint::read(&ascii(&text)).ok_or(
                DerError::Value("a uniformResourceIdentifier subtree is not a host or domain"),
            )?),
            GeneralName::Ip(bytes) => {
                let (base, mask) = bytes.split_at(bytes.len() / 2);
                if !matches!(bytes.len(), 8 | 32) || !is_cidr(mask) {
                    return Err(DerError::Value(
                        "an iPAddress subtree is not an address with a prefix",
                    ));
                }
                Self::Ip { base: base.into(), mask: mask.into() }
            }
            other => Self::Unusable(NameForm::of(&other)),
        })
    }

    fn form(&self) -> NameForm {
        match self {
            Self::Directory(_) => NameForm::Directory,
            Self::Dns(_) => NameForm::Dns,
            Self::Email(_) => NameForm::Email,
            Self::Uri(_) => NameForm::Uri,
            Self::Ip { .. } => NameForm::Ip,
            Self::Unusable(form) => *form,
        }
    }

    /// Returns true if every expansion of the name is within this subtree.
    fn permits(&self, name: &PresentedName<'_>) -> Result<bool, Violation> {
        match (self, name) {
            // A wildcard counts as a label: all its expansions are below the labels that follow it.
            (Self::Dns(base), PresentedName::Dns(host)) => Ok(is_below(host.as_ref()?, base)),
            _ => self.contains(name),
        }
    }

    /// Returns true if any expansion of the name is within this subtree.
    fn excludes(&self, name: &PresentedName<'_>) -> Result<bool, Violation> {
        match (self, name) {
            (Self::Dns(base), PresentedName::Dns(host)) => {
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

    fn contains(&self, name: &PresentedName<'_>) -> Result<bool, Violation> {
        Ok(match (self, name) {
            (Self::Directory(base), PresentedName::Directory(name)) => {
                name.as_ref()?.is_within(base)
            }
            (Self::Email(mail), PresentedName::Email(address)) => {
                let (local, host) = address.as_ref()?;
                match mail {
                    // RFC 5280 section 7.5: letter case counts in the local part only.
                    MailConstraint::Mailbox(of, at) => of == local && at == host,
                    MailConstraint::Hosts(hosts) => hosts.contains(host),
                }
            }
            (Self::Uri(hosts), PresentedName::Uri(host)) => hosts.contains(host.as_ref()?),
            (Self::Ip { base, mask }, PresentedName::Ip(address)) => {
                let address = address.as_ref()?;
                address.len() == base.len()
                    && address.iter().zip(base).zip(mask).all(|((a, b), m)| a & m == b & m)
            }
            _ => {
                return Err(Violation::Name(
                    "has a form that cannot be checked against nameConstraints",
                ));
            }
        })
    }
}

/// Returns true if the mask is a run of ones followed by zeros.
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
