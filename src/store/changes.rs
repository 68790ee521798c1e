//! Tells of changes, to whoever waits for one.

use std::sync::Arc;

use tokio::sync::watch;

use crate::store::objects::Collection;

/// The version of the last change of each collection, as far as it is known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versions {
    by_collection: [u64; 4],
    /// Times that what had happened before was not known, and a change was assumed.
    assumed: u64,
}

impl Versions {
    /// The version of the collection's last change.
    pub fn of(&self, collection: Collection) -> u64 {
        self.by_collection[place(collection)]
    }

    /// True when the collection has changed since `version`, or may have since `before`.
    pub fn are_news(&self, before: &Self, collection: Collection, version: u64) -> bool {
        self.assumed != before.assumed || self.of(collection) > version
    }

    pub(super) fn set(&mut self, collection: Collection, version: u64) {
        self.by_collection[place(collection)] = version;
    }
}

fn place(collection: Collection) -> usize {
    match collection {
        Collection::MutualTlsOauthConfigurations => 0,
        Collection::ApplicationConfigurations => 1,
        Collection::DeviceTemplates => 2,
        Collection::Devices => 3,
    }
}

/// Hears of changes in more than one way, and tells each once.
#[derive(Clone)]
pub(super) struct Announcer(Arc<watch::Sender<Versions>>);

impl Announcer {
    pub(super) fn new(versions: Versions) -> Self {
        Self(Arc::new(watch::Sender::new(versions)))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Versions> {
        self.0.subscribe()
    }

    /// A change of one collection.
    pub(super) fn changed(&self, collection: Collection, version: u64) {
        let mut versions = Versions::default();
        versions.set(collection, version);
        self.at_least(&versions);
    }

    /// Told when it is news.
    pub(super) fn at_least(&self, versions: &Versions) {
        self.0.send_if_modified(|last| {
            let mut newer = false;
            for (last, version) in last.by_collection.iter_mut().zip(versions.by_collection) {
                newer |= version > *last;
                *last = version.max(*last);
            }
            newer
        });
    }

    /// Told in any case.  A number may be lower than the last: a database can be put back to what it
    /// was.
    pub(super) fn assume(&self, versions: Versions) {
        self.0.send_modify(|last| {
            last.by_collection = versions.by_collection;
            last.assumed += 1;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_to_its_collection_alone() {
        const C: Collection = Collection::MutualTlsOauthConfigurations;
        let announcer = Announcer::new(Versions::default());
        let mut heard = announcer.subscribe();
        announcer.changed(Collection::Devices, 7);
        assert!(heard.has_changed().expect("open"));
        let versions = *heard.borrow_and_update();
        assert_eq!((versions.of(Collection::Devices), versions.of(C)), (7, 0));
        assert!(versions.are_news(&Versions::default(), Collection::Devices, 6));
        assert!(!versions.are_news(&Versions::default(), Collection::Devices, 7));
        assert!(!versions.are_news(&Versions::default(), C, 0));
        announcer.changed(Collection::Devices, 7);
        announcer.changed(Collection::Devices, 6);
        assert!(!heard.has_changed().expect("open"), "no news");
        announcer.assume(Versions::default());
        assert!(heard.has_changed().expect("open"));
        assert!(heard.borrow().are_news(&versions, C, 9), "it is not known what happened to it");
        assert_eq!(heard.borrow().of(Collection::Devices), 0);
    }

    #[test]
    fn every_collection_has_its_own_place() {
        for (n, collection) in Collection::ALL.into_iter().enumerate() {
            assert_eq!(place(collection), n);
        }
    }
}
