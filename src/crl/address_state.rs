//! One address: what is wanted of it, what is in force from it, and whether a newer list may replace
//! that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::crl::schedule::{self, Looked, Times, Timing};
use crate::crl::transport::{Location, Validators};
use crate::trust::configurations::AnchorSet;
use crate::trust::revocation::addresses_seen::Sighting;
use crate::trust::revocation::{CrlMode, ListPolicy, ListRules};
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::crl::{CrlNumber, RevocationList};
use crate::x509::name::Name;
use crate::x509::time::Timestamp;

/// What authorities expect at an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) complete: bool,
    pub(super) delta: bool,
    /// The authorities that name the address.
    pub(super) authorities: Vec<Namer>,
}

/// An authority that names an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Namer {
    pub(super) name: Name,
    pub(super) key: Fingerprint,
    /// What is demanded of its lists.
    pub(super) rules: ListRules,
}

impl Wanted {
    /// The names of the authorities.
    pub(super) fn issuers(&self) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        for authority in &self.authorities {
            if !names.contains(&authority.name) {
                names.push(authority.name.clone());
            }
        }
        names
    }

    fn add(&mut self, authority: Namer, is_delta: bool) {
        self.delta |= is_delta;
        self.complete |= !is_delta;
        if !self.authorities.contains(&authority) {
            self.authorities.push(authority);
        }
    }
}

/// What is looked at.
#[derive(Default)]
pub(super) struct Wants {
    /// By address.
    pub(super) addresses: BTreeMap<Arc<str>, Wanted>,
    /// All certificates that may sign lists.
    pub(super) signers: Vec<Arc<Certificate>>,
    /// Those that the directory names.
    pub(super) authorities: BTreeSet<Fingerprint>,
    /// Entries of the settings that fit no authority.
    pub(super) unmatched: Vec<String>,
}

impl Wants {
    pub(super) fn add(&mut self, address: &Arc<str>, namer: Namer, is_delta: bool) {
        self.addresses.entry(Arc::clone(address)).or_default().add(namer, is_delta);
    }
}

/// The addresses that matter under these settings.
pub(super) fn wants(anchors: &AnchorSet, policy: &ListPolicy, sightings: &[Sighting]) -> Wants {
    let policy = policy.resolve(anchors.authorities());
    let mut wants = Wants::default();
    let mut signers: BTreeMap<Fingerprint, Arc<Certificate>> = BTreeMap::new();
    let namer = |certificate: &Certificate| {
        let rules = policy.of(&certificate.subject, certificate.key);
        let name = certificate.subject.clone();
        let namer = Namer { name, key: certificate.key, rules: rules.clone() };
        (rules.mode != Some(CrlMode::Off)).then_some(namer)
    };
    for authority in anchors.configurations.iter().flat_map(|c| &c.authorities) {
        let certificate = &authority.certificate;
        signers.entry(certificate.fingerprint).or_insert_with(|| Arc::clone(certificate));
        let Some(namer) = namer(certificate) else { continue };
        for (address, is_delta) in [(&authority.crl_url, false), (&authority.delta_crl_url, true)] {
            if let Some(address) = address {
                wants.add(address, namer.clone(), is_delta);
            }
        }
    }
    wants.authorities = signers.keys().copied().collect();
    for sighting in sightings {
        let issuer = &sighting.issuer;
        signers.entry(issuer.fingerprint).or_insert_with(|| Arc::clone(issuer));
        let Some(namer) = namer(issuer) else { continue };
        for (addresses, is_delta) in [(&sighting.complete, false), (&sighting.delta, true)] {
            addresses.iter().for_each(|address| wants.add(address, namer.clone(), is_delta));
        }
    }
    Wants { signers: signers.into_values().collect(), unmatched: policy.unmatched, ..wants }
}

/// Why a list that can be read and verified is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// A delta where a complete list belongs.
    #[error("a delta list where a complete one belongs")]
    Delta,
    /// Not a list of the authority that names the address.
    #[error("a list of `{found}`, which is none of the authorities that name this address")]
    Issuer {
        /// Whose it is.
        found: String,
    },
    /// Signed by another key than the list in force, and not by one that belongs here.
    #[error("signed by another key than the list in force")]
    Key,
    /// cRLNumber goes down (RFC 5280 section 5.2.3): an old list, replayed.
    #[error("cRLNumber {found} is below {in_force}, the one in force")]
    NumberWentDown {
        /// In force.
        in_force: String,
        /// Found.
        found: String,
    },
    /// thisUpdate goes back.
    #[error("thisUpdate {found} is before {in_force}, the one in force")]
    Older {
        /// In force.
        in_force: Timestamp,
        /// Found.
        found: Timestamp,
    },
}

/// Whether `new` may take the place of `old`; `Ok(false)` when it is the same list again.
pub(super) fn accept(
    wanted: &Wanted,
    old: Option<&RevocationList>,
    new: &RevocationList,
) -> Result<bool, Rejected> {
    if new.is_delta() && !wanted.delta {
        return Err(Rejected::Delta);
    }
    // An indirect list has its own issuer's name; whether that one is trusted is asked at each use.
    let indirect = new.scope.as_ref().is_some_and(|scope| scope.indirect);
    if !indirect && !wanted.authorities.iter().any(|authority| authority.name == new.issuer) {
        return Err(Rejected::Issuer { found: new.issuer.to_string() });
    }
    let Some(old) = old else { return Ok(true) };
    let belongs = |list: &RevocationList| {
        let key = list.signer_key();
        wanted.authorities.iter().any(|authority| Some(authority.key) == key)
    };
    if belongs(old) && !belongs(new) {
        return Err(Rejected::Key);
    }
    let same_series = old.is_same_series(new) && old.is_delta() == new.is_delta();
    if same_series && new.number < old.number {
        let text = |number: Option<CrlNumber>| match number {
            Some(number) => number.to_string(),
            None => "(none)".to_owned(),
        };
        let (in_force, found) = (text(old.number), text(new.number));
        return Err(Rejected::NumberWentDown { in_force, found });
    }
    // Of another scope or key as well: by way of such a list, whoever is on the way could otherwise
    // put back any old one.
    if new.this_update < old.this_update {
        return Err(Rejected::Older { in_force: old.this_update, found: new.this_update });
    }
    Ok(!new.is_copy_of(old))
}

/// An address and its state.
pub(super) struct Point {
    pub(super) location: Location,
    pub(super) wanted: Wanted,
    /// Tells it from an earlier one of the same address.
    pub(super) born: u64,
    pub(super) list: Option<Arc<RevocationList>>,
    pub(super) validators: Validators,
    pub(super) fetched: Option<Timestamp>,
    pub(super) from_disk: bool,
    /// A copy of the list in force is on disk.
    pub(super) kept: bool,
    /// When it was last tried to make one.
    keeping: Timestamp,
    pub(super) last_error: Option<(Timestamp, String)>,
    /// The disk was asked.
    pub(super) loaded: bool,
    /// A fetch (or load) is under way: there is never a second one.
    pub(super) flying: bool,
    /// Asked to look once more when the flight is over; what is under way may be too old already.
    pub(super) again: bool,
    /// Past caches, because somebody asked.
    pub(super) past_caches: bool,
    /// Whatever list is in force, because an operator said so.
    pub(super) anew: bool,
    pub(super) due: Timestamp,
    pub(super) waiting: Vec<oneshot::Sender<()>>,
    /// When `due` was planned.
    planned: Timestamp,
    in_vain: u32,
    looks: u64,
    seed: u64,
}

impl Point {
    pub(super) fn new(
        address: &str,
        location: Location,
        wanted: Wanted,
        seed: u64,
        born: u64,
        now: Timestamp,
    ) -> Self {
        let Fingerprint(digest) = Fingerprint::of(address.as_bytes());
        let own = digest.iter().take(8).fold(0u64, |n, &b| (n << 8) | u64::from(b));
        Self {
            location,
            wanted,
            born,
            list: None,
            validators: Validators::default(),
            fetched: None,
            from_disk: false,
            kept: false,
            keeping: now,
            last_error: None,
            loaded: false,
            flying: false,
            again: false,
            past_caches: false,
            anew: false,
            due: now,
            waiting: Vec::new(),
            planned: now,
            in_vain: 0,
            looks: 0,
            seed: seed ^ own,
        }
    }

    /// Time to look.  A clock that was set back would put it off for as long.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due <= now || now < self.planned
    }

    /// Looks that are over.
    pub(super) fn looks(&self) -> u64 {
        self.looks
    }

    /// The version of the list in force, for a conditional request.  `None` where the list is wanted
    /// whole.
    pub(super) fn known(&self, whole: bool) -> Option<Validators> {
        (self.list.is_some() && !whole).then(|| self.validators.clone())
    }

    /// Whether the next look is to bring the list in force once more, for a copy on disk.  A list can
    /// be large and a disk full for long, so not each look does.
    pub(super) fn keep(&mut self, now: Timestamp, timing: &Timing) -> bool {
        let is_time = self.past_caches || now.since(self.keeping) >= timing.max;
        let keep = self.list.is_some() && !self.kept && is_time;
        if keep {
            self.keeping = now;
        }
        keep
    }

    pub(super) fn succeeded(&mut self, now: Timestamp, max_age: Option<Duration>, timing: &Timing) {
        self.last_error = None;
        self.fetched = Some(now);
        self.from_disk = false;
        let times = self.list.as_deref().map(Times::from);
        let overdue = times.is_some_and(|times| schedule::is_overdue(&times, now));
        self.in_vain = if overdue { self.in_vain.saturating_add(1) } else { 0 };
        self.plan(now, max_age, None, timing);
    }

    /// `retry_after`: how long the server asked to be left alone.
    pub(super) fn failed(
        &mut self,
        now: Timestamp,
        why: String,
        retry_after: Option<Duration>,
        timing: &Timing,
    ) {
        self.last_error = Some((now, why));
        self.in_vain = self.in_vain.saturating_add(1);
        self.plan(now, None, retry_after, timing);
    }

    fn plan(
        &mut self,
        now: Timestamp,
        max_age: Option<Duration>,
        retry_after: Option<Duration>,
        timing: &Timing,
    ) {
        self.looks += 1;
        self.planned = now;
        let looked = Looked {
            now,
            times: self.list.as_deref().map(Times::from),
            max_age,
            in_vain: self.in_vain,
            retry_after,
            is_file: matches!(self.location, Location::File(_)),
            seed: self.seed.wrapping_add(self.looks),
        };
        self.due = schedule::next_look(timing, &looked);
    }
}
