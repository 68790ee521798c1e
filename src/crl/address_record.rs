//! The record of addresses that certificates name, shared by every snapshot.
//!
//! # Design notes
//! Every request brings the same few addresses.  Finding that they are known must cost next to nothing,
//! and the record must know when each was last seen, because their number is bounded.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::task::{Context, Poll, Waker};

use crate::trust::revocation::addresses_seen::{AddressValues, ObserveAddresses, SeenAddresses};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

/// Records that are kept by default.
pub(crate) const MAX_RECORDS: usize = 10_000;

/// Addresses seen in certificates, at most a fixed number of records.
pub struct AddressRecord {
    limit: usize,
    /// Two hashes with keys of their own make one of 128 bits, so that looking up a record allocates
    /// nothing.
    hashes: [RandomState; 2],
    known: RwLock<HashMap<u128, Known>>,
    changes: Mutex<Changes>,
    dropped: AtomicU64,
}

struct Known {
    addresses: Arc<SeenAddresses>,
    seen: AtomicI64,
}

/// Wakes the task that fetches.
#[derive(Default)]
struct Changes {
    pending: bool,
    waker: Option<Waker>,
}

impl AddressRecord {
    /// Keeps at most `limit` records.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            hashes: [RandomState::new(), RandomState::new()],
            known: RwLock::default(),
            changes: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Adds what was recorded before a restart.
    pub fn restore(&self, records: impl IntoIterator<Item = SeenAddresses>) {
        let mut known = self.write();
        for addresses in records {
            self.insert(&mut known, addresses);
        }
        drop(known);
        self.notify();
    }

    /// Removes records under other anchors than these.
    pub fn retain(&self, anchors: &HashSet<Fingerprint>) {
        self.write().retain(|_, known| anchors.contains(&known.addresses.anchor));
    }

    /// Returns all records, with the time that each was last seen.
    pub fn all(&self) -> Vec<SeenAddresses> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let copy = |known: &Known| SeenAddresses {
            seen: Timestamp(known.seen.load(Ordering::Relaxed)),
            ..SeenAddresses::clone(&known.addresses)
        };
        known.values().map(copy).collect()
    }

    /// Returns how many records were dropped because others were seen later.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Ready if a record was added since the last time.  One task at a time may wait.
    pub(crate) fn poll_changed(&self, context: &Context<'_>) -> Poll<()> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut changes.pending) {
            return Poll::Ready(());
        }
        changes.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u128, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.pending = true;
        if let Some(waker) = changes.waker.take() {
            waker.wake();
        }
    }

    fn insert(&self, known: &mut HashMap<u128, Known>, addresses: SeenAddresses) {
        let values =
            AddressValues { points: &addresses.points, freshest: addresses.freshest.as_deref() };
        let key = self.key(&addresses.issuer, &values);
        if known.len() >= self.limit && !known.contains_key(&key) {
            self.make_room(known);
        }
        let seen = AtomicI64::new(addresses.seen.0);
        known.insert(key, Known { addresses: Arc::new(addresses), seen });
    }

    /// Drops records of the trust domain that has most of them, so that no domain's devices displace
    /// another's records: those that were not seen for longest, a sixteenth of the limit at once, so that
    /// a fleet in which every certificate names another address does not cause a search for each.
    fn make_room(&self, known: &mut HashMap<u128, Known>) {
        let mut domains: HashMap<&str, Vec<(i64, u128)>> = HashMap::new();
        for (key, known) in known.iter() {
            let age = (known.seen.load(Ordering::Relaxed), *key);
            domains.entry(&known.addresses.domain).or_default().push(age);
        }
        let largest = domains.into_values().max_by_key(Vec::len);
        let mut by_age = largest.unwrap_or_default();
        let too_many = (known.len() + 1).saturating_sub(self.limit);
        let drop = too_many.max(self.limit / 16).min(by_age.len());
        if drop < by_age.len() {
            by_age.select_nth_unstable(drop);
        }
        for (_, key) in &by_age[..drop] {
            known.remove(key);
        }
        self.dropped.fetch_add(drop as u64, Ordering::Relaxed);
    }

    fn key(&self, issuer: &Certificate, values: &AddressValues<'_>) -> u128 {
        let hashed = (issuer.key, &issuer.subject, values.points, values.freshest);
        let half = |state: &RandomState| u128::from(state.hash_one(hashed));
        half(&self.hashes[0]) << 64 | half(&self.hashes[1])
    }
}

impl ObserveAddresses for AddressRecord {
    fn is_known(&self, issuer: &Certificate, values: &AddressValues<'_>, now: Timestamp) -> bool {
        let key = self.key(issuer, values);
        // While a record is being added, known values look new.
        let Ok(known) = self.known.try_read() else { return false };
        let Some(known) = known.get(&key) else { return false };
        // Most requests arrive in the same second as another: they only read.
        if known.seen.load(Ordering::Relaxed) < now.0 {
            known.seen.store(now.0, Ordering::Relaxed);
        }
        true
    }

    fn record(&self, addresses: SeenAddresses) {
        let Ok(mut known) = self.known.try_write() else { return };
        self.insert(&mut known, addresses);
        drop(known);
        self.notify();
    }
}

impl Default for AddressRecord {
    fn default() -> Self {
        Self::new(MAX_RECORDS)
    }
}

impl fmt::Debug for AddressRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressRecord").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::test_certificates::{Key, NOW, Spec, cn, distribution_points};

    fn issuer() -> Arc<Certificate> {
        let der = Spec::authority(cn("A"), cn("A")).sign(Key::number(1), Key::number(1));
        Arc::new(Certificate::from_der(&der).expect("a certificate"))
    }

    fn record(address: &str, seen: i64) -> SeenAddresses {
        let points = distribution_points(&[&[address]]);
        SeenAddresses::new(issuer(), Fingerprint([7; 32]), &points, None, Timestamp(seen))
            .expect("read")
    }

    #[test]
    fn drops_the_least_recently_seen() {
        let records = AddressRecord::new(32);
        records.restore((0..32).map(|n| record(&format!("http://x/{n}"), NOW + n)));
        assert_eq!((records.all().len(), records.dropped()), (32, 0));
        records.restore([record("http://x/32", NOW)]);
        // A sixteenth of 32 is dropped, and one is added.
        assert_eq!((records.all().len(), records.dropped()), (31, 2));
        let left: Vec<_> = records.all().iter().map(|s| s.complete[0].first.to_string()).collect();
        for (address, is_left) in [("/0", false), ("/1", false), ("/2", true), ("/32", true)] {
            assert_eq!(left.contains(&format!("http://x{address}")), is_left, "{address}");
        }
        // The same record again needs no room.
        records.restore([record("http://x/32", NOW)]);
        assert_eq!(records.all().len(), 31);
        records.retain(&HashSet::new());
        assert!(records.all().is_empty(), "their anchors were removed");
    }

    /// Devices of one trust domain can name any number of addresses.
    #[test]
    fn a_domain_displaces_only_its_own_records() {
        let records = AddressRecord::new(32);
        let of = |domain: &str, n: i64, seen: i64| {
            record(&format!("http://{domain}/{n}"), seen).in_domain(domain)
        };
        records.restore((0..4).map(|n| of("quiet", n, NOW - 1_000)));
        records.restore((0..500).map(|n| of("loud", n, NOW + n)));
        let all = records.all();
        assert!(all.len() <= 32);
        let count = |domain: &str| all.iter().filter(|seen| &*seen.domain == domain).count();
        assert_eq!(count("quiet"), 4);
        assert!(count("loud") > 16, "{}", count("loud"));
    }

    #[test]
    fn wakes_the_waiting_task_once() {
        let records = AddressRecord::default();
        let context = Context::from_waker(Waker::noop());
        assert!(records.poll_changed(&context).is_pending());
        records.restore([record("http://x/1", NOW)]);
        assert!(records.poll_changed(&context).is_ready());
        assert!(records.poll_changed(&context).is_pending());
    }
}
