//! Rules for lists that the operator sets: for all authorities, and for single ones.
//!
//! An authority is a name with a key.  Its rules apply to every certificate that it issued, independent
//! of the signer of the list and of the authority's certificate in the path.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::trust::configurations::Authority;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::name::Name;

/// Requirement for the certificates of one authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum CrlMode {
    /// A usable, fresh list is required.
    #[default]
    Require,
    /// A list is used if there is one.  A missing or stale list does not refuse a certificate.
    IfAvailable,
    /// Lists are neither fetched nor used.
    Off,
}

impl CrlMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Require, Self::IfAvailable, Self::Off];

    /// Returns its name in settings and statuses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::IfAvailable => "if-available",
            Self::Off => "off",
        }
    }
}

/// Rules for one authority's lists.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ListRules {
    /// `None`: [`CrlMode::Require`] if an address is known.
    pub mode: Option<CrlMode>,
    /// Time past nextUpdate during which a list, complete or delta, still decides.
    pub grace: Duration,
    /// A complete list decides only together with a fresh delta.
    pub require_delta: bool,
    /// A list without nextUpdate decides; otherwise it never does.
    pub without_next_update: bool,
}

/// Rules with the authorities in force resolved.
#[derive(Debug, Clone, Default)]
pub struct RevocationPolicy {
    /// Rules of every authority without an entry of its own.
    pub rules: ListRules,
    /// Rules of the others by key.
    pub by_authority: HashMap<Fingerprint, Vec<AuthorityRules>>,
    /// Selectors in the settings that match no authority in force.
    pub unmatched: Vec<String>,
}

/// Rules of one authority in one trust domain.  A certificate that another domain makes for the same
/// name and key never changes them.
#[derive(Debug, Clone)]
pub struct AuthorityRules {
    /// The trust domain.
    pub domain: Arc<str>,
    /// The authority's name: a key may have several.
    pub name: Name,
    /// Its rules.
    pub rules: ListRules,
}

impl RevocationPolicy {
    /// Returns the rules of the authority of this name and key in a trust domain.
    pub fn of(&self, domain: &str, name: &Name, key: Fingerprint) -> &ListRules {
        let mut configured = self.by_authority.get(&key).into_iter().flatten();
        configured
            .find(|of| *of.domain == *domain && of.name == *name)
            .map_or(&self.rules, |of| &of.rules)
    }

    /// Returns the rules by which lists of the authority are fetched when its domain is not known:
    /// they are fetched unless every domain that configures it forbids that.
    pub(crate) fn in_any_domain(&self, name: &Name, key: Fingerprint) -> &ListRules {
        let configured = self.by_authority.get(&key).into_iter().flatten();
        let rules = configured.filter(|of| of.name == *name).map(|of| &of.rules);
        rules.min_by_key(|rules| rules.mode == Some(CrlMode::Off)).unwrap_or(&self.rules)
    }
}

/// The settings: rules for all authorities, and for single ones.
#[derive(Debug, Clone, Default)]
pub struct ListPolicy {
    /// Time past nextUpdate during which a list still decides.
    pub grace: Duration,
    /// Authorities with a delta address need a fresh delta; otherwise their complete list decides
    /// until its own nextUpdate.
    pub require_delta: bool,
    /// Lists without nextUpdate decide.
    pub without_next_update: bool,
    /// Single authorities.  The first matching entry applies.
    pub authorities: Vec<AuthorityPolicy>,
}

/// Rules for the authorities that a selector matches.  Absent values are those for all.
#[derive(Debug, Clone, Default)]
pub struct AuthorityPolicy {
    /// The authorities.
    pub selector: Selector,
    /// See [`ListRules::mode`].
    pub mode: Option<CrlMode>,
    /// See [`ListRules::grace`].
    pub grace: Option<Duration>,
    /// See [`ListRules::require_delta`]; `true` also where the directory names no delta address.
    pub require_delta: Option<bool>,
    /// See [`ListRules::without_next_update`].
    pub without_next_update: Option<bool>,
}

/// Selects an authority's certificate in the directory by one or several properties, which must all
/// match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// subjectKeyIdentifier, as in Graph's `issuerSubjectKeyIdentifier`.
    pub key_id: Option<Box<[u8]>>,
    /// The subject.
    pub subject: Option<Name>,
    /// SHA-256 of the certificate.
    pub sha256: Option<Fingerprint>,
}

impl Selector {
    fn matches(&self, certificate: &Certificate) -> bool {
        let Self { key_id, subject, sha256 } = self;
        key_id.as_ref().is_none_or(|id| certificate.subject_key_id.as_ref() == Some(id))
            && subject.as_ref().is_none_or(|name| *name == certificate.subject)
            && sha256.is_none_or(|print| print == certificate.fingerprint)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        if let Some(key_id) = &self.key_id {
            write!(f, "key_id ")?;
            key_id.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
            between = ", ";
        }
        if let Some(subject) = &self.subject {
            write!(f, "{between}subject `{subject}`")?;
            between = ", ";
        }
        match self.sha256 {
            Some(print) => write!(f, "{between}sha256 {print}"),
            None => Ok(()),
        }
    }
}

impl ListPolicy {
    /// Resolves the entries against the authorities in force.
    pub fn resolve<'a>(
        &self,
        authorities: impl IntoIterator<Item = (&'a Arc<str>, &'a Authority)>,
    ) -> RevocationPolicy {
        let index = Index::of(&self.authorities);
        let mut found: HashMap<Fingerprint, Vec<Found<'_>>> = HashMap::new();
        let mut matched = HashSet::new();
        for (domain, authority) in authorities {
            let certificate = &*authority.certificate;
            let entry = index.first(&self.authorities, certificate);
            let with_delta = self.require_delta && authority.delta_crl_url.is_some();
            matched.extend(entry);
            if entry.is_none() && !with_delta {
                continue;
            }
            // One authority may appear in several certificates and in several configurations.
            let of_key = found.entry(certificate.key).or_default();
            match of_key
                .iter_mut()
                .find(|found| found.domain == domain && *found.name == certificate.subject)
            {
                None => {
                    of_key.push(Found { domain, name: &certificate.subject, entry, with_delta });
                }
                Some(found) => {
                    found.entry = found.entry.into_iter().chain(entry).min();
                    found.with_delta |= with_delta;
                }
            }
        }
        let configured = |found: Vec<Found<'_>>| {
            let rules = |found: Found<'_>| AuthorityRules {
                domain: Arc::clone(found.domain),
                name: found.name.clone(),
                rules: self.rules(&found),
            };
            found.into_iter().map(rules).collect()
        };
        RevocationPolicy {
            rules: ListRules {
                mode: None,
                grace: self.grace,
                require_delta: false,
                without_next_update: self.without_next_update,
            },
            by_authority: found.into_iter().map(|(key, found)| (key, configured(found))).collect(),
            unmatched: (0..self.authorities.len())
                .filter(|number| !matched.contains(number))
                .map(|number| self.authorities[number].selector.to_string())
                .collect(),
        }
    }

    fn rules(&self, found: &Found<'_>) -> ListRules {
        let entry = found.entry.map(|number| &self.authorities[number]);
        ListRules {
            mode: entry.and_then(|entry| entry.mode),
            grace: entry.and_then(|entry| entry.grace).unwrap_or(self.grace),
            require_delta: entry.and_then(|entry| entry.require_delta).unwrap_or(found.with_delta),
            without_next_update: entry
                .and_then(|entry| entry.without_next_update)
                .unwrap_or(self.without_next_update),
        }
    }
}

/// An authority in force with rules of its own.
struct Found<'a> {
    domain: &'a Arc<str>,
    name: &'a Name,
    /// The number of its entry.
    entry: Option<usize>,
    with_delta: bool,
}

/// Entries by the most specific property that each names, so that the cost of finding one does not grow
/// with their number.
#[derive(Default)]
struct Index<'a> {
    by_sha256: HashMap<Fingerprint, Vec<usize>>,
    by_key_id: HashMap<&'a [u8], Vec<usize>>,
    by_subject: HashMap<&'a Name, Vec<usize>>,
}

impl<'a> Index<'a> {
    fn of(entries: &'a [AuthorityPolicy]) -> Self {
        let mut index = Self::default();
        for (number, AuthorityPolicy { selector, .. }) in entries.iter().enumerate() {
            let place = match (selector.sha256, &selector.key_id, &selector.subject) {
                (Some(print), _, _) => index.by_sha256.entry(print).or_default(),
                (None, Some(key_id), _) => index.by_key_id.entry(key_id).or_default(),
                (None, None, Some(name)) => index.by_subject.entry(name).or_default(),
                // An empty selector matches nothing.
                (None, None, None) => continue,
            };
            place.push(number);
        }
        index
    }

    /// Returns the number of the first entry that matches.
    fn first(&self, entries: &[AuthorityPolicy], certificate: &Certificate) -> Option<usize> {
        let key_id = certificate.subject_key_id.as_deref();
        let candidates = [
            self.by_sha256.get(&certificate.fingerprint),
            key_id.and_then(|key_id| self.by_key_id.get(key_id)),
            self.by_subject.get(&certificate.subject),
        ];
        let fits = |number: &usize| entries[*number].selector.matches(certificate);
        candidates.into_iter().flatten().flatten().copied().filter(fits).min()
    }
}
