//! Collector of the entries of a list, by certificate issuer.

use std::collections::HashMap;

use crate::x509::crl::entries::{Entries, EntriesBuilder, MAX_IRREGULAR_SERIALS};
use crate::x509::crl::entry;
use crate::x509::crl::error::Fault;
use crate::x509::crl::reason::Reason;
use crate::x509::crl::serial_groups::Progress;
use crate::x509::name::Name;

/// Largest number of certificate issuers in an indirect list.
const MAX_CERTIFICATE_ISSUERS: usize = 10_000;

/// Entries of a list while it is read.
pub(super) struct EntryCollector {
    /// Entries by certificate issuer.  The first is the issuer of the list.
    by_issuer: Vec<EntriesBuilder>,
    /// Index in `by_issuer` of each other issuer.
    others: HashMap<Name, usize>,
    /// Index in `by_issuer` of the current certificate issuer.
    current: usize,
    irregular_serials: usize,
    has_removals: bool,
}

impl Default for EntryCollector {
    fn default() -> Self {
        Self {
            by_issuer: vec![EntriesBuilder::default()],
            others: HashMap::new(),
            current: 0,
            irregular_serials: 0,
            has_removals: false,
        }
    }
}

impl EntryCollector {
    /// Parses the contents of one entry of a list with this version and issuer, and stores the
    /// entry.
    #[inline]
    pub(super) fn add(
        &mut self,
        contents: &[u8],
        version: u8,
        list_issuer: Option<&Name>,
        progress: impl Fn() -> Progress,
    ) -> Result<(), Fault> {
        let entry = match entry::parse_common(contents) {
            Some(entry) => entry,
            None => {
                let (entry, issuer) = entry::parse(contents)?;
                if let Some(issuer) = issuer {
                    self.current = self.index_of(issuer, list_issuer)?;
                }
                entry
            }
        };
        if entry.has_extensions && version == 1 {
            return Err(Fault::Rule("an entry of a v1 list has extensions"));
        }
        self.has_removals |= entry.reason == Reason::RemoveFromCrl;
        if self.by_issuer[self.current].add(entry.serial, entry.reason, progress) {
            self.irregular_serials += 1;
            if self.irregular_serials > MAX_IRREGULAR_SERIALS {
                let what = "serial numbers that are negative or longer than 20 bytes";
                return Err(Fault::TooMany { what, limit: MAX_IRREGULAR_SERIALS });
            }
        }
        Ok(())
    }

    /// Returns the index in `by_issuer` of this certificate issuer.
    fn index_of(&mut self, issuer: Name, list_issuer: Option<&Name>) -> Result<usize, Fault> {
        if list_issuer == Some(&issuer) {
            return Ok(0);
        }
        if let Some(&index) = self.others.get(&issuer) {
            return Ok(index);
        }
        let index = self.by_issuer.len();
        if index > MAX_CERTIFICATE_ISSUERS {
            let what = "certificate issuers in one list";
            return Err(Fault::TooMany { what, limit: MAX_CERTIFICATE_ISSUERS });
        }
        self.by_issuer.push(EntriesBuilder::default());
        self.others.insert(issuer, index);
        Ok(index)
    }

    /// Returns true if an entry is for a certificate of another issuer than the list's.
    pub(super) fn has_other_issuers(&self) -> bool {
        !self.others.is_empty()
    }

    /// Returns true if an entry has the reason removeFromCRL.
    pub(super) fn has_removals(&self) -> bool {
        self.has_removals
    }

    /// Returns the entries of `list_issuer`, then those of other issuers sorted by canonical name.
    /// `between` is called between small portions of the work.
    pub(super) fn finish(
        self,
        list_issuer: Name,
        between: &mut dyn FnMut(),
    ) -> Vec<(Name, Entries)> {
        let mut names: Vec<_> = self.others.into_iter().collect();
        names.sort_unstable_by_key(|(_, index)| *index);
        let names = std::iter::once(list_issuer).chain(names.into_iter().map(|(name, _)| name));
        let entries = self.by_issuer.into_iter().map(|builder| builder.finish(between));
        let mut by_issuer: Vec<_> = names.zip(entries).collect();
        by_issuer[1..].sort_unstable_by(|(a, _), (b, _)| a.canonical().cmp(b.canonical()));
        by_issuer
    }
}
