//! The device registry: the devices that a directory has, and which of them are enabled.
//!
//! # Design notes
//! A fleet has a million devices, a poll changes a few, and every request looks up one.  A registry
//! therefore keeps no text: a device is 128 bits of the SHA-256 of its `externalDeviceId`, an object 128
//! bits of that of its `id`.  Both are in sorted shards that one registry shares with the next
//! (`shards`).  That is 60 bytes a device, 72 with the allocator's overhead.  A change of k devices copies
//! at most 2k small shards, whatever the fleet's size; a look-up is one hash and two binary searches.
//!
//! # Matching
//! The canonical text of a subject ID must equal the `externalDeviceId` of a device, byte by byte.  A
//! device belongs to one directory; if the directory sends the configuration of its template, to that
//! configuration alone.  Two objects with one `externalDeviceId` are a mistake in the directory: the
//! disabled one decides.

mod admission;
mod bytes;
mod removals;
mod shards;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::trust::configurations::ConfigurationId;
use crate::x509::certificate::Fingerprint;
use shards::{Member, Shards};

pub use admission::{Registries, Registry};
pub use removals::Removals;

/// Maximum number of configurations that the devices of one directory name.
pub(crate) const MAX_CONFIGURATIONS: usize = 10_000;

/// The devices of one directory.  Copies are cheap, because they share shards.
#[derive(Clone, Default)]
pub struct DeviceRegistry {
    by_device: Shards<Entry>,
    by_object: Shards<Place>,
    names: Arc<Names>,
    counts: Counts,
}

/// Number of devices in a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects with an `externalDeviceId`.
    pub devices: usize,
    /// Disabled ones among them.
    pub disabled: usize,
    /// Devices whose `externalDeviceId` another object has too.
    pub duplicates: usize,
}

/// Status of a device under a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not registered, or for another configuration.
    Unknown,
    /// Registered and disabled.
    Disabled,
    /// Registered and enabled.
    Enabled,
}

/// Key of an `externalDeviceId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceKey([u8; 16]);

/// Key of the `id` of a directory's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey([u8; 16]);

impl DeviceKey {
    /// Returns the key of an `externalDeviceId`.
    pub fn of(external_device_id: &str) -> Self {
        Self(key(external_device_id))
    }
}

impl ObjectKey {
    /// Returns the key of an object's `id`.
    pub fn of(id: &str) -> Self {
        Self(key(id))
    }
}

fn key(text: &str) -> [u8; 16] {
    let Fingerprint(hash) = Fingerprint::of(text.as_bytes());
    std::array::from_fn(|n| hash[n])
}

/// A change of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The object.
    pub object: ObjectKey,
    /// Its new state.
    pub state: NewState,
}

/// New state of an object.  `None` means that the directory left the property out: it stays unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewState {
    /// The object was removed.
    Removed,
    /// The object has these properties.
    Is {
        /// Its `externalDeviceId`; `Some(None)` if it is a device without one.
        device: Option<Option<DeviceKey>>,
        /// `accountEnabled`.
        enabled: Option<bool>,
        /// The configurations that its template registers it for.
        known_to: Option<KnownTo>,
    },
}

/// The configurations that a device is registered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownTo {
    /// None, because its template names no configuration.
    None,
    /// All of its directory, because the directory does not send them.
    All,
    /// This one.
    Only(ConfigurationId),
}

/// A change or a file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Too many devices.
    #[error("{devices} devices; at most {limit} are kept")]
    TooManyDevices {
        /// Number of devices after the change.
        devices: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many configurations.
    #[error("the devices name more than {MAX_CONFIGURATIONS} configurations")]
    TooManyConfigurations,
    /// The bytes do not form a registry.
    #[error("not a device registry: {0}")]
    Damaged(&'static str),
}

impl DeviceRegistry {
    /// Status of a device under a configuration.
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

    /// Returns the number of devices.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns true if both are the same copy.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.by_device.is_same(&other.by_device)
    }

    /// Applies `changes` in order.  Returns the new registry and the number of objects that are not
    /// registered devices.
    ///
    /// # Errors
    /// More devices than `limit`, or more configurations than `MAX_CONFIGURATIONS`.
    pub fn changed(
        &self,
        changes: &[Change],
        limit: usize,
    ) -> Result<(Self, usize), RegistryError> {
        let mut names = Arc::clone(&self.names);
        let mut latest: HashMap<ObjectKey, Option<Entry>> = HashMap::new();
        let mut others = 0;
        for Change { object, state } in changes {
            let before = || latest.get(object).copied().unwrap_or_else(|| self.find(object));
            let after = match state {
                NewState::Removed => None,
                NewState::Is { device, enabled, known_to } => {
                    let before = before();
                    let device = device.unwrap_or(before.map(|e| DeviceKey(e.device)));
                    // A new device without `accountEnabled` counts as disabled.  A missing template does
                    // not count against it, because only anchorgate's own directory sends one.
                    let enabled = enabled.or(before.map(|e| e.state.enabled())).unwrap_or(false);
                    let tag = match (known_to, before) {
                        (Some(known_to), _) => Names::tag(&mut names, known_to)?,
                        (None, Some(before)) => before.state.tag(),
                        (None, None) => EVERY_CONFIGURATION,
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

    /// Returns the difference to `next`.
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

    /// Makes a registry of these entries, which name each object once.
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

/// Splits off the entries of `device` at the front.
fn same_device(entries: &[Entry], device: [u8; 16]) -> (&[Entry], &[Entry]) {
    entries.split_at(entries.partition_point(|entry| entry.device == device))
}

/// Difference of two registries, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Devices in the former registry.
    pub before: usize,
    /// New devices.
    pub added: usize,
    /// Removed devices.
    pub removed: usize,
    /// Devices that are enabled again.
    pub enabled: usize,
    /// Devices that are disabled now.
    pub disabled: usize,
    /// Devices that are registered for another configuration.
    pub moved: usize,
}

impl Difference {
    /// Returns true if there is no difference.
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

/// One object of the directory.
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

/// Place of an object's entry: half a device's key finds it.
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

/// Whether a device is enabled (the lowest bit), and its configuration (the rest).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct State(u32);

const NO_CONFIGURATION: u32 = 0;
const EVERY_CONFIGURATION: u32 = 1;
/// The tag of the first name; the following names have the following tags.
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

/// The configurations that devices name, so that an entry contains only a number.
#[derive(Debug, Clone, Default)]
struct Names {
    list: Vec<ConfigurationId>,
    tags: HashMap<ConfigurationId, u32>,
}

impl Names {
    fn is_for(&self, state: State, configuration: &ConfigurationId) -> bool {
        match state.tag() {
            NO_CONFIGURATION => false,
            EVERY_CONFIGURATION => true,
            tag => self.list.get((tag - NAMES) as usize) == Some(configuration),
        }
    }

    /// Returns the configuration of an entry, in a form that does not depend on the numbers of names.
    fn known_to(&self, state: State) -> (u32, Option<&ConfigurationId>) {
        let tag = state.tag();
        (tag.min(NAMES), tag.checked_sub(NAMES).and_then(|n| self.list.get(n as usize)))
    }

    /// Returns the number of a name; copies the names if it is new.
    fn tag(names: &mut Arc<Self>, known_to: &KnownTo) -> Result<u32, RegistryError> {
        let id = match known_to {
            KnownTo::None => return Ok(NO_CONFIGURATION),
            KnownTo::All => return Ok(EVERY_CONFIGURATION),
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
            duplicates: shard.windows(2).filter(|pair| pair[0].device == pair[1].device).count(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            devices: self.devices + other.devices,
            disabled: self.disabled + other.disabled,
            duplicates: self.duplicates + other.duplicates,
        }
    }

    fn minus(self, part: Self) -> Self {
        Self {
            devices: self.devices - part.devices,
            disabled: self.disabled - part.disabled,
            duplicates: self.duplicates - part.duplicates,
        }
    }
}

#[cfg(test)]
mod tests;
