//! Change notifications: the last known version of each collection, for tasks that wait for a change.

use std::sync::Arc;

use tokio::sync::watch;

use crate::store::objects::Collection;

/// Version of the last known change of each collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versions {
    by_collection: [u64; 4],
    /// Number of times the history was unknown, so that a change was assumed.
    resets: u64,
}

impl Versions {
    /// Returns the version of the collection's last change.
    pub fn of(&self, collection: Collection) -> u64 {
        self.by_collection[index(collection)]
    }

    /// Returns true if the collection changed after `version`, or may have changed after `before` was
    /// taken.
    pub(crate) fn changed_since(
        &self,
        before: &Self,
        collection: Collection,
        version: u64,
    ) -> bool {
        self.resets != before.resets || self.of(collection) > version
    }

    pub(super) fn set(&mut self, collection: Collection, version: u64) {
        self.by_collection[index(collection)] = version;
    }
}

fn index(collection: Collection) -> usize {
    match collection {
        Collection::MutualTlsOauthConfigurations => 0,
        Collection::ApplicationConfigurations => 1,
        Collection::DeviceTemplates => 2,
        Collection::Devices => 3,
    }
}

/// Notifies subscribers of changes.  A change that is reported from several sources causes one
/// notification.
#[derive(Clone)]
pub(super) struct ChangeNotifier(Arc<watch::Sender<Versions>>);

impl ChangeNotifier {
    pub(super) fn new(versions: Versions) -> Self {
        Self(Arc::new(watch::Sender::new(versions)))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Versions> {
        self.0.subscribe()
    }

    /// Reports a change of one collection.
    pub(super) fn notify(&self, collection: Collection, version: u64) {
        let mut versions = Versions::default();
        versions.set(collection, version);
        self.advance_to(&versions);
    }

    /// Reports versions; subscribers are notified if one of them is newer than the last known one.
    pub(super) fn advance_to(&self, versions: &Versions) {
        self.0.send_if_modified(|last| {
            let mut newer = false;
            for (last, version) in last.by_collection.iter_mut().zip(versions.by_collection) {
                newer |= version > *last;
                *last = version.max(*last);
            }
            newer
        });
    }

    /// Replaces the versions and always notifies.  A version may be lower than the last known one,
    /// because a database can be restored from a backup.
    pub(super) fn reset_to(&self, versions: Versions) {
        self.0.send_modify(|last| {
            last.by_collection = versions.by_collection;
            last.resets += 1;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_notifies_once_and_concerns_only_its_collection() {
        const C: Collection = Collection::MutualTlsOauthConfigurations;
        let notifier = ChangeNotifier::new(Versions::default());
        let mut subscription = notifier.subscribe();
        notifier.notify(Collection::Devices, 7);
        assert!(subscription.has_changed().expect("open"));
        let versions = *subscription.borrow_and_update();
        assert_eq!((versions.of(Collection::Devices), versions.of(C)), (7, 0));
        assert!(versions.changed_since(&Versions::default(), Collection::Devices, 6));
        assert!(!versions.changed_since(&Versions::default(), Collection::Devices, 7));
        assert!(!versions.changed_since(&Versions::default(), C, 0));
        notifier.notify(Collection::Devices, 7);
        notifier.notify(Collection::Devices, 6);
        assert!(!subscription.has_changed().expect("open"), "both versions are known");
        notifier.reset_to(Versions::default());
        assert!(subscription.has_changed().expect("open"));
        assert!(subscription.borrow().changed_since(&versions, C, 9), "its history is unknown");
        assert_eq!(subscription.borrow().of(Collection::Devices), 0);
    }

    #[test]
    fn every_collection_has_its_own_index() {
        for (n, collection) in Collection::ALL.into_iter().enumerate() {
            assert_eq!(index(collection), n);
        }
    }
}
