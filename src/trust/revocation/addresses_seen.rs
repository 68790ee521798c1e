//! Where certificates themselves say that their lists are: cRLDistributionPoints and freshestCRL
//! (RFC 5280 sections 4.2.1.13 and 4.2.1.15) of certificates whose path to an anchor was judged good.
//!
//! A decision notes them in passing, whoever fetches lists takes them up, and the next decision has
//! the list.  The first sight of an address is thus a decision without its list: `crl_missing` where
//! one is required, and nobody waits for a server meanwhile.  What nobody verified is never noted: a
//! stranger cannot make the gateway fetch from a place of his choice.
//!
//! # Why here and not in a channel
//! Every request comes by with the same few addresses.  To know that one is known must cost next to
//! nothing, and how long each was not seen must be known too, since their number is bounded.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};

use crate::x509::certificate::{Certificate, Fingerprint, GeneralName, oid};
use crate::x509::crl::read_points;
use crate::x509::der::DerError;
use crate::x509::time::Timestamp;

/// Sightings that are kept by default.
pub const MAX_SIGHTINGS: usize = 10_000;
/// Addresses that are taken from one extension.
pub const MAX_ADDRESSES: usize = 16;
/// Octets of an address.
pub const MAX_ADDRESS: usize = 2_048;

/// What certificates of one issuer say of their lists, all of them in the same words.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// The issuer, as the path had it.
    pub issuer: Arc<Certificate>,
    /// The anchor of that path.
    pub anchor: Fingerprint,
    /// cRLDistributionPoints' value.
    pub points: Box<[u8]>,
    /// freshestCRL's value, where the certificate has one.
    pub freshest: Option<Box<[u8]>>,
    /// Addresses of complete lists.
    pub complete: Vec<Arc<str>>,
    /// Addresses of deltas.
    pub delta: Vec<Arc<str>>,
    /// When a certificate was last seen that says so.
    pub seen: Timestamp,
}

impl Sighting {
    /// Reads the addresses that these extension values name.
    ///
    /// # Errors
    /// One of them is not what RFC 5280 says.
    pub fn new(
        issuer: Arc<Certificate>,
        anchor: Fingerprint,
        points: &[u8],
        freshest: Option<&[u8]>,
        seen: Timestamp,
    ) -> Result<Self, DerError> {
        let complete = addresses(points, &issuer)?;
        let delta = freshest.map(|value| addresses(value, &issuer)).transpose()?;
        Ok(Self {
            anchor,
            points: points.into(),
            freshest: freshest.map(Into::into),
            complete,
            delta: delta.unwrap_or_default(),
            issuer,
            seen,
        })
    }
}

/// The first http or https address of each point: several of one point lead to the same list.
fn addresses(points: &[u8], issuer: &Certificate) -> Result<Vec<Arc<str>>, DerError> {
    let mut out: Vec<Arc<str>> = Vec::new();
    for point in read_points(points, &issuer.subject)? {
        let address = point.names.iter().flatten().find_map(web_address);
        if let Some(address) =
            address.filter(|address| !out.iter().any(|known| **known == **address))
            && out.len() < MAX_ADDRESSES
        {
            out.push(address.into());
        }
    }
    Ok(out)
}

/// The text of an http or https address that is not too long to be one.
pub fn web_address(name: &GeneralName) -> Option<&str> {
    let GeneralName::Uri(uri) = name else { return None };
    let uri = std::str::from_utf8(uri).ok().filter(|uri| uri.is_ascii())?;
    let scheme = uri.split_once("://")?.0;
    let is_web = ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    (is_web && uri.len() <= MAX_ADDRESS).then_some(uri)
}

/// What is known of the addresses in one certificate.
pub(in crate::trust) enum Look<'c> {
    /// It names none that lists are fetched from.
    None,
    /// They were noted before.
    Known,
    /// They were not.
    New(New<'c>),
}

/// Extension values that were not seen before.
pub(in crate::trust) struct New<'c> {
    key: u128,
    points: &'c [u8],
    freshest: Option<&'c [u8]>,
}

impl Look<'_> {
    /// A list of the certificate is published somewhere.  What cannot be read may say so too.
    pub(in crate::trust) fn has_address(&self) -> bool {
        !matches!(self, Look::None)
    }
}

/// All sightings; shared by every generation of a snapshot.
pub struct Sightings {
    limit: usize,
    /// Two hashes with keys of their own make one of 128 bits, so that nothing is allocated to find
    /// out that a sighting is known.
    hashes: [RandomState; 2],
    known: RwLock<HashMap<u128, Known>>,
    news: Mutex<News>,
    dropped: AtomicU64,
}

struct Known {
    sighting: Arc<Sighting>,
    seen: AtomicI64,
}

/// What whoever fetches is told.
#[derive(Default)]
struct News {
    changed: bool,
    waker: Option<Waker>,
}

impl Sightings {
    /// Keeps at most `limit` sightings.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            hashes: [RandomState::new(), RandomState::new()],
            known: RwLock::default(),
            news: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// What is known of the addresses in `certificate`, which `issuer` signed.  Never waits: while
    /// others are written down, what is known looks new.
    pub(in crate::trust) fn look<'c>(
        &self,
        certificate: &'c Certificate,
        issuer: &Certificate,
        now: Timestamp,
    ) -> Look<'c> {
        let value = |oid| certificate.extension(oid).map(|extension| &*extension.value);
        let Some(points) = value(oid::CRL_DISTRIBUTION_POINTS) else { return Look::None };
        let freshest = value(oid::FRESHEST_CRL);
        let key = self.key(issuer, points, freshest);
        if let Ok(known) = self.known.try_read()
            && let Some(known) = known.get(&key)
        {
            // Most requests come in the second of another one: they only read.
            if known.seen.load(Ordering::Relaxed) < now.0 {
                known.seen.store(now.0, Ordering::Relaxed);
            }
            return Look::Known;
        }
        match addresses(points, issuer) {
            Ok(complete) if complete.is_empty() => Look::None,
            _ => Look::New(New { key, points, freshest }),
        }
    }

    /// Notes addresses that [`Sightings::look`] called new, of a certificate under this issuer and
    /// anchor.  Never waits: what is not noted now is when the certificate comes again.
    pub(in crate::trust) fn note(
        &self,
        new: &New<'_>,
        issuer: &Arc<Certificate>,
        anchor: Fingerprint,
        now: Timestamp,
    ) {
        let issuer = Arc::clone(issuer);
        let Ok(sighting) = Sighting::new(issuer, anchor, new.points, new.freshest, now) else {
            return;
        };
        let Ok(mut known) = self.known.try_write() else { return };
        self.insert(&mut known, new.key, sighting);
        drop(known);
        self.tell();
    }

    /// Takes back what was noted before a restart.
    pub fn restore(&self, sightings: impl IntoIterator<Item = Sighting>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for sighting in sightings {
            let key = self.key(&sighting.issuer, &sighting.points, sighting.freshest.as_deref());
            self.insert(&mut known, key, sighting);
        }
        drop(known);
        self.tell();
    }

    /// Forgets what was sighted under other anchors than these.
    pub fn retain(&self, anchors: &HashSet<Fingerprint>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, known| anchors.contains(&known.sighting.anchor));
    }

    /// All that are known, with the time that each was seen last.
    pub fn all(&self) -> Vec<Sighting> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let sighting = |known: &Known| Sighting {
            seen: Timestamp(known.seen.load(Ordering::Relaxed)),
            ..Sighting::clone(&known.sighting)
        };
        known.values().map(sighting).collect()
    }

    /// How many were dropped because others were seen later.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Ready when something was noted since the last time; one task at a time may wait.
    pub fn poll_changed(&self, context: &Context<'_>) -> Poll<()> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut news.changed) {
            return Poll::Ready(());
        }
        news.waker = Some(context.waker().clone());
        Poll::Pending
    }

    fn tell(&self) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.changed = true;
        if let Some(waker) = news.waker.take() {
            waker.wake();
        }
    }

    fn insert(&self, known: &mut HashMap<u128, Known>, key: u128, sighting: Sighting) {
        if known.len() >= self.limit && !known.contains_key(&key) {
            self.make_room(known);
        }
        let seen = AtomicI64::new(sighting.seen.0);
        known.insert(key, Known { sighting: Arc::new(sighting), seen });
    }

    /// Drops those that were not seen for longest: a sixteenth of them at once, so that where every
    /// certificate names another address not each of them costs a search.
    fn make_room(&self, known: &mut HashMap<u128, Known>) {
        let mut by_age: Vec<(i64, u128)> =
            known.iter().map(|(key, known)| (known.seen.load(Ordering::Relaxed), *key)).collect();
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

    fn key(&self, issuer: &Certificate, points: &[u8], freshest: Option<&[u8]>) -> u128 {
        let said = (issuer.key, &issuer.subject, points, freshest);
        let half = |state: &RandomState| u128::from(state.hash_one(said));
        half(&self.hashes[0]) << 64 | half(&self.hashes[1])
    }
}

impl Default for Sightings {
    fn default() -> Self {
        Self::new(MAX_SIGHTINGS)
    }
}

impl fmt::Debug for Sightings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sightings").field("limit", &self.limit).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::test_certificates::{Key, NOW, Spec, cn};

    /// A CRL issuer, and a sighting below it.
    fn issuer() -> Arc<Certificate> {
        let der = Spec::authority(cn("A"), cn("A")).sign(Key::number(1), Key::number(1));
        Arc::new(Certificate::from_der(&der).expect("a certificate"))
    }

    fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = match value.len() {
            short @ 0..=0x7f => vec![short as u8],
            long => vec![0x82, (long >> 8) as u8, long as u8],
        };
        [&[tag], &length[..], value].concat()
    }

    /// cRLDistributionPoints: one point for each list of addresses.
    fn points(of: &[&[&str]]) -> Vec<u8> {
        let uri = |uri: &&str| tlv(0x86, uri.as_bytes());
        let point = |uris: &&[&str]| {
            let names: Vec<u8> = uris.iter().flat_map(uri).collect();
            tlv(0x30, &tlv(0xa0, &tlv(0xa0, &names)))
        };
        tlv(0x30, &of.iter().flat_map(point).collect::<Vec<u8>>())
    }

    fn sighting(address: &str, seen: i64) -> Sighting {
        let points = points(&[&[address]]);
        Sighting::new(issuer(), Fingerprint([7; 32]), &points, None, Timestamp(seen)).expect("read")
    }

    #[test]
    fn each_point_has_one_web_address() {
        let read = |of: &[&[&str]]| -> Vec<String> {
            let found = addresses(&points(of), &issuer()).expect("readable");
            found.iter().map(ToString::to_string).collect()
        };
        let (one, two) = ("http://ca.example/1", "HTTPS://ca.example/2");
        assert_eq!(read(&[&["ldap://ca.example/x", one, two], &[two], &[one]]), [one, two]);
        assert_eq!(
            read(&[&["ldap://ca.example/x", "file:///etc/passwd", "http:/x"]]),
            [] as [&str; 0]
        );
        let long = format!("http://ca.example/{}", "x".repeat(MAX_ADDRESS - 18));
        assert_eq!(read(&[&[&long]]).len(), 1);
        assert_eq!(read(&[&[&format!("{long}x")]]), [] as [&str; 0]);
        let many: Vec<String> = (0..=MAX_ADDRESSES).map(|n| format!("http://x/{n}")).collect();
        let many: Vec<Vec<&str>> = many.iter().map(|one| vec![&**one]).collect();
        let many: Vec<&[&str]> = many.iter().map(Vec::as_slice).collect();
        assert_eq!(read(&many).len(), MAX_ADDRESSES);
        assert!(addresses(&[0x30, 0], &issuer()).is_err());
    }

    #[test]
    fn the_least_recently_seen_make_room() {
        let sightings = Sightings::new(32);
        sightings.restore((0..32).map(|n| sighting(&format!("http://x/{n}"), NOW + n)));
        assert_eq!((sightings.all().len(), sightings.dropped()), (32, 0));
        sightings.restore([sighting("http://x/32", NOW)]);
        // A sixteenth of 32 went, and one came.
        assert_eq!((sightings.all().len(), sightings.dropped()), (31, 2));
        let left: Vec<_> = sightings.all().iter().map(|s| s.complete[0].to_string()).collect();
        for (address, is_left) in [("/0", false), ("/1", false), ("/2", true), ("/32", true)] {
            assert_eq!(left.contains(&format!("http://x{address}")), is_left, "{address}");
        }
        // The same again takes no room.
        sightings.restore([sighting("http://x/32", NOW)]);
        assert_eq!(sightings.all().len(), 31);
        sightings.retain(&HashSet::new());
        assert!(sightings.all().is_empty(), "of anchors that are gone");
    }

    #[test]
    fn whoever_waits_is_woken_once() {
        let sightings = Sightings::default();
        let context = Context::from_waker(Waker::noop());
        assert!(sightings.poll_changed(&context).is_pending());
        sightings.restore([sighting("http://x/1", NOW)]);
        assert!(sightings.poll_changed(&context).is_ready());
        assert!(sightings.poll_changed(&context).is_pending());
    }
}
