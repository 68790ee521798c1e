//! The lists of one series, and which of them amend each other.

use std::sync::Arc;

use crate::trust::revocation::Question;
use crate::x509::crl::{Kind, RevocationList};

/// The lists of one issuer, key and scope.
#[derive(Debug)]
pub(super) struct Series {
    /// The latest complete list.
    pub(super) base: Option<Arc<RevocationList>>,
    /// Deltas, the latest first.
    pub(super) deltas: Vec<Arc<RevocationList>>,
    /// Complete lists that end after the latest one, which had expired when it arrived.
    pub(super) earlier: Vec<Arc<RevocationList>>,
}

impl Series {
    pub(super) fn of(list: Arc<RevocationList>) -> Self {
        let mut series = Self { base: None, deltas: Vec::new(), earlier: Vec::new() };
        series.add(list);
        series
    }

    pub(super) fn add(&mut self, list: Arc<RevocationList>) {
        let age = |list: &RevocationList| (list.number, list.this_update);
        match (list.kind, &self.base) {
            (Kind::Delta { .. }, _) => {
                let later = self.deltas.partition_point(|delta| age(delta) > age(&list));
                self.deltas.insert(later, list);
            }
            (Kind::Complete, Some(base)) if age(base) >= age(&list) => {}
            (Kind::Complete, _) => self.base = Some(list),
        }
    }

    pub(super) fn any(&self) -> &RevocationList {
        match &self.base {
            Some(base) => base,
            None => &self.deltas[0],
        }
    }

    /// Returns true if any list of the series has an entry for the certificate.
    pub(super) fn lists(&self, question: &Question<'_>) -> bool {
        let all = self.base.iter().chain(&self.deltas).chain(&self.earlier);
        let serial = &question.certificate.serial;
        all.into_iter().any(|list| list.listed(question.issuer, serial).is_some())
    }

    /// Returns the deltas that are newer than the complete list, the latest first.
    pub(super) fn later_deltas(&self) -> impl Iterator<Item = &RevocationList> {
        let base = self.base.as_deref().and_then(|base| base.number);
        self.deltas.iter().map(|delta| &**delta).filter(move |delta| delta.number > base)
    }

    /// Returns the latest delta that may be combined with the complete list (section 5.2.4): its
    /// BaseCRLNumber is not above the list's number.
    pub(super) fn delta_for(
        &self,
        base: &RevocationList,
        is_in_force: impl Fn(&RevocationList) -> bool,
    ) -> Option<&RevocationList> {
        self.later_deltas().find(|delta| {
            matches!(delta.kind, Kind::Delta { base: from } if Some(from) <= base.number)
                && is_in_force(delta)
        })
    }
}
