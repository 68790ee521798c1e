//! The device registry: which devices a directory knows, and which of them may come in.
//!
//! # Why in this form
//! A fleet has a million devices, a poll changes a few, and every request asks for one.  So a registry
//! keeps no text: a device is 128 bits of the SHA-256 of its `externalDeviceId`, a directory's object as
//! many of its `id`, and both stand in sorted shards that one registry shares with the next (`shards`).
//! That is 60 bytes a device, 72 with what the allocator adds; a change of k devices copies at most 2k
//! small shards, whatever the fleet's size; and a look-up is one hash and two binary searches.
//!
//! # What is matched
//! The canonical text of a subject ID is the `externalDeviceId` of a device, octet by octet.  A device
//! belongs to one directory; where the directory says which configuration its template names, to that
//! configuration alone.  Two objects of one `externalDeviceId` are a mistake in the directory: the
//! disabled one decides.

mod admission;
mod bytes;
mod shards;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::trust::configurations::ConfigurationId;
use crate::x509::certificate::Fingerprint;
use shards::{Member, Shards};

pub use admission::{Registries, Registry};

/// Different configurations that the devices of one directory name.
pub const MAX_CONFIGURATIONS: usize = 10_000;

/// The devices of one directory.  Copies are cheap and share what they have in common.
#[derive(Clone, Default)]
pub struct DeviceRegistry {
    by_device: Shards<Entry>,
    by_object: Shards<Place>,
    names: Arc<Names>,
    counts: Counts,
}

/// How many devices a registry has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects with an `externalDeviceId`.
    pub devices: usize,
    /// Those of them that are disabled.
    pub disabled: usize,
    /// Those whose `externalDeviceId` another object has too.
    pub twins: usize,
}

/// How a device stands with a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not registered, or for another configuration.
    Unknown,
    /// Registered and shut out.
    Disabled,
    /// Registered and let in.
    Enabled,
}

/// What an `externalDeviceId` is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey([u8; 16]);

/// What the `id` of a directory's object is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey([u8; 16]);

impl DeviceKey {
    /// The key of an `externalDeviceId`.
    pub fn of(external_device_id: &str) -> Self {
        Self(key(external_device_id))
    }
}

impl ObjectKey {
    /// The key of an object's `id`.
    pub fn of(id: &str) -> Self {
        Self(key(id))
    }
}

fn key(text: &str) -> [u8; 16] {
    let Fingerprint(hash) = Fingerprint::of(text.as_bytes());
    std::array::from_fn(|n| hash[n])
}

/// One word of a directory about one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The object.
    pub object: ObjectKey,
    /// What is said of it.
    pub news: News,
}

/// What a directory says of an object.  `None` is what it leaves out: that stays as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It is there no longer.
    Removed,
    /// It is so now.
    Is {
        /// Its `externalDeviceId`; `Some(None)` when it is no device of the kind that has one.
        device: Option<Option<DeviceKey>>,
        /// `accountEnabled`.
        enabled: Option<bool>,
        /// Whom its template registers it for.
        known_to: Option<KnownTo>,
    },
}

/// The configurations that a device is registered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownTo {
    /// None: its template names no configuration.
    Nobody,
    /// All of its directory, which does not say.
    Everybody,
    /// This one.
    Only(ConfigurationId),
}

/// Why news were not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// More devices than are kept.
    #[error("{devices} devices; at most {limit} are kept")]
    TooManyDevices {
        /// How many there would be.
        devices: usize,
        /// The limit.
        limit: usize,
    },
    /// More configurations than are kept.
    #[error("the devices name more than {MAX_CONFIGURATIONS} configurations")]
    TooManyConfigurations,
    /// Bytes that are no registry.
    #[error("no registry: {0}")]
    Damaged(&'static str),
}

impl DeviceRegistry {
    /// How a device stands with a configuration.
    pub fn standing(&self, device: DeviceKey, configuration: &ConfigurationId) -> Standing {
        let mut standing = Standing::Unknown;
        for entry in self.by_device.beginning(&device.0) {
            if self.names.is_for(entry.state, configuration) {
                if !entry.state.enabled() {
                    return Standing::Disabled;
                }
                standing = Standing::Enabled;
            }
        }
        standing
    }

    /// How many there are.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// True when both are the same copy.
    pub fn is_same(&self, other: &Self) -> bool {
        self.by_device.is_same(&other.by_device)
    }

    /// The registry after `changes`, one after another; with the number of objects that are no
    /// registered devices.
    ///
    /// # Errors
    /// More devices than `limit`, or more configurations than [`MAX_CONFIGURATIONS`].
    pub fn changed(
        &self,
        changes: &[Change],
        limit: usize,
    ) -> Result<(Self, usize), RegistryError> {
        let mut names = Arc::clone(&self.names);
        let mut latest: HashMap<ObjectKey, Option<Entry>> = HashMap::new();
        let mut others = 0;
        for Change { object, news } in changes {
            let before = || latest.get(object).copied().unwrap_or_else(|| self.find(object));
            let after = match news {
                News::Removed => None,
                News::Is { device, enabled, known_to } => {
                    let before = before();
                    let device = device.unwrap_or(before.map(|e| DeviceKey(e.device)));
                    // What the directory does not say of a new device is not to its favour, but for
                    // the configuration: only an anchorgate tells it.
                    let enabled = enabled.or(before.map(|e| e.state.enabled())).unwrap_or(false);
                    let tag = match (known_to, before) {
                        (Some(known_to), _) => Names::tag(&mut names, known_to)?,
                        (None, Some(before)) => before.state.tag(),
                        (None, None) => EVERYBODY,
                    };
                    let state = State::new(tag, enabled);
                    others += usize::from(device.is_none());
                    device.map(|device| Entry { device: device.0, object: object.0, state })
                }
            };
            latest.insert(*object, after);
        }
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for (object, after) in latest {
            let before = self.find(&object);
            if before != after {
                gone.extend(before);
                come.extend(after);
            }
        }
        if gone.is_empty() && come.is_empty() {
            return Ok((self.clone(), others));
        }
        let devices = self.counts.devices + come.len() - gone.len();
        if devices > limit {
            return Err(RegistryError::TooManyDevices { devices, limit });
        }
        let mut counts = self.counts;
        let places = |entries: &[Entry]| entries.iter().map(Entry::place).collect();
        let by_object = self.by_object.edited(places(&gone), places(&come), |_, _| {});
        let by_device = self.by_device.edited(gone, come, |old, new| {
            counts = counts.minus(Counts::of(old)).plus(Counts::of(new));
        });
        Ok((Self { by_device, by_object, names, counts }, others))
    }

    /// What of the devices differs in `next`.
    pub fn difference(&self, next: &Self) -> Difference {
        let mut difference = Difference { before: self.counts.devices, ..Difference::default() };
        for (old, new) in self.by_device.unshared(&next.by_device) {
            let (mut old, mut new) = (old, new);
            while let Some(device) =
                old.first().into_iter().chain(new.first()).map(Entry::key).min()
            {
                let (was, rest_old) = same_device(old, device);
                let (is, rest_new) = same_device(new, device);
                (old, new) = (rest_old, rest_new);
                let enabled = |entries: &[Entry]| entries.iter().all(|e| e.state.enabled());
                match (was.is_empty(), is.is_empty()) {
                    (true, _) => difference.added += 1,
                    (_, true) => difference.removed += 1,
                    _ if enabled(was) != enabled(is) && enabled(is) => difference.enabled += 1,
                    _ if enabled(was) != enabled(is) => difference.disabled += 1,
                    _ if !self.is_for_the_same(was, next, is) => difference.moved += 1,
                    _ => {}
                }
            }
        }
        difference
    }

    fn is_for_the_same(&self, was: &[Entry], next: &Self, is: &[Entry]) -> bool {
        was.len() == is.len()
            && was.iter().zip(is).all(|(was, is)| {
                was.state.enabled() == is.state.enabled()
                    && self.names.known_to(was.state) == next.names.known_to(is.state)
            })
    }

    fn find(&self, object: &ObjectKey) -> Option<Entry> {
        let place = self.by_object.beginning(&object.0).first()?;
        let entries = self.by_device.beginning(&place.device);
        entries.iter().find(|entry| entry.object == object.0).copied()
    }

    /// A registry of these entries, no object twice.
    fn of(entries: &[Entry], names: Names) -> Self {
        let by_device = Shards::of(entries.iter().copied());
        let by_object = Shards::of(entries.iter().map(Entry::place));
        let counts = by_device.shards().map(Counts::of).fold(Counts::default(), Counts::plus);
        Self { by_device, by_object, names: Arc::new(names), counts }
    }
}

impl fmt::Debug for DeviceRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceRegistry({:?})", self.counts)
    }
}

/// The entries at the front that are of `device`, and the rest.
fn same_device(entries: &[Entry], device: [u8; 16]) -> (&[Entry], &[Entry]) {
    entries.split_at(entries.partition_point(|entry| entry.device == device))
}

/// What of a registry's devices differs in another, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Devices before.
    pub before: usize,
    /// Devices that were not there.
    pub added: usize,
    /// Devices that are there no longer.
    pub removed: usize,
    /// Devices that are let in again.
    pub enabled: usize,
    /// Devices that are shut out.
    pub disabled: usize,
    /// Devices that are registered for another configuration.
    pub moved: usize,
}

impl Difference {
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self { before: self.before, ..Self::default() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, added, removed, enabled, disabled, moved } = self;
        write!(
            f,
            "{added} devices added, {removed} of {before} removed, {enabled} enabled, {disabled} \
             disabled, {moved} moved to another configuration"
        )
    }
}

/// A device, as one object of the directory has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    device: [u8; 16],
    object: [u8; 16],
    state: State,
}

impl Entry {
    fn place(&self) -> Place {
        Place { object: self.object, device: std::array::from_fn(|n| self.device[n]) }
    }
}

impl Member for Entry {
    fn key(&self) -> [u8; 16] {
        self.device
    }
}

/// Where an object's entry is: half a device's key finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    object: [u8; 16],
    device: [u8; 8],
}

impl Member for Place {
    fn key(&self) -> [u8; 16] {
        self.object
    }
}

/// Whether a device is enabled (the lowest bit), and for whom (the rest).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State(u32);

const NOBODY: u32 = 0;
const EVERYBODY: u32 = 1;
/// The tag of the first name; the next has the next.
const NAMES: u32 = 2;

impl State {
    fn new(tag: u32, enabled: bool) -> Self {
        Self(tag << 1 | u32::from(enabled))
    }

    fn enabled(self) -> bool {
        self.0 & 1 == 1
    }

    fn tag(self) -> u32 {
        self.0 >> 1
    }
}

/// The configurations that devices name, so that an entry needs a number only.
#[derive(Debug, Clone, Default)]
struct Names {
    list: Vec<ConfigurationId>,
    tags: HashMap<ConfigurationId, u32>,
}

impl Names {
    fn is_for(&self, state: State, configuration: &ConfigurationId) -> bool {
        match state.tag() {
            NOBODY => false,
            EVERYBODY => true,
            tag => self.list.get((tag - NAMES) as usize) == Some(configuration),
        }
    }

    /// Whom an entry is for, in a form that does not depend on the numbers that names have.
    fn known_to(&self, state: State) -> (u32, Option<&ConfigurationId>) {
        let tag = state.tag();
        (tag.min(NAMES), tag.checked_sub(NAMES).and_then(|n| self.list.get(n as usize)))
    }

    /// The number of a name; the names are copied when it is new.
    fn tag(names: &mut Arc<Self>, known_to: &KnownTo) -> Result<u32, RegistryError> {
        let id = match known_to {
            KnownTo::Nobody => return Ok(NOBODY),
            KnownTo::Everybody => return Ok(EVERYBODY),
            KnownTo::Only(id) => id,
        };
        if let Some(&tag) = names.tags.get(id) {
            return Ok(tag);
        }
        if names.list.len() >= MAX_CONFIGURATIONS {
            return Err(RegistryError::TooManyConfigurations);
        }
        Ok(Arc::make_mut(names).add(id.clone()))
    }

    fn add(&mut self, id: ConfigurationId) -> u32 {
        let tag = NAMES + self.list.len() as u32;
        self.tags.insert(id.clone(), tag);
        self.list.push(id);
        tag
    }
}

impl Counts {
    fn of(shard: &[Entry]) -> Self {
        Self {
            devices: shard.len(),
            disabled: shard.iter().filter(|entry| !entry.state.enabled()).count(),
            twins: shard.windows(2).filter(|pair| pair[0].device == pair[1].device).count(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            devices: self.devices + other.devices,
            disabled: self.disabled + other.disabled,
            twins: self.twins + other.twins,
        }
    }

    fn minus(self, part: Self) -> Self {
        Self {
            devices: self.devices - part.devices,
            disabled: self.disabled - part.disabled,
            twins: self.twins - part.twins,
        }
    }
}

#[cfg(test)]
mod tests;
