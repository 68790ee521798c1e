//! A registry as bytes, for the state on disk.
//!
//! The names (a count, then length and text of each), the number of entries, and the entries in order.
//! Numbers are big-endian.  The caller checks the integrity of the bytes.

use crate::trust::configurations::ConfigurationId;
use crate::trust::devices::{
    DeviceRegistry, Entry, MAX_CONFIGURATIONS, NAMES, Names, Place, RegistryError, State,
};

/// Bytes of an entry.
const ENTRY: usize = 36;

impl DeviceRegistry {
    /// Appends this registry to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend((self.names.list.len() as u32).to_be_bytes());
        for ConfigurationId(id) in &self.names.list {
            out.extend((id.len() as u32).to_be_bytes());
            out.extend(id.as_bytes());
        }
        out.extend((self.counts.devices as u64).to_be_bytes());
        out.reserve(self.counts.devices * ENTRY);
        for Entry { device, object, state } in self.by_device.iter() {
            out.extend(device);
            out.extend(object);
            out.extend(state.0.to_be_bytes());
        }
    }

    /// Reads the bytes that [`DeviceRegistry::write`] wrote, all of them.
    ///
    /// # Errors
    /// Anything else, and more than `limit` devices.
    pub fn read(bytes: &[u8], limit: usize) -> Result<Self, RegistryError> {
        let mut rest = bytes;
        let mut names = Names::default();
        let count = u32::from_be_bytes(take(&mut rest)?) as usize;
        if count > MAX_CONFIGURATIONS {
            return Err(RegistryError::TooManyConfigurations);
        }
        for _ in 0..count {
            let length = u32::from_be_bytes(take(&mut rest)?) as usize;
            let name =
                rest.split_off(..length).ok_or(RegistryError::Damaged("truncated in a name"))?;
            let name = std::str::from_utf8(name)
                .map_err(|_| RegistryError::Damaged("a name is not UTF-8"))?;
            names.add(name.into());
        }
        if names.tags.len() != count {
            return Err(RegistryError::Damaged("a name appears twice"));
        }
        let devices = u64::from_be_bytes(take(&mut rest)?);
        let devices = usize::try_from(devices).unwrap_or(usize::MAX);
        if devices > limit {
            return Err(RegistryError::TooManyDevices { devices, limit });
        }
        let (entries, []) = rest.as_chunks::<ENTRY>() else {
            return Err(RegistryError::Damaged("truncated in an entry"));
        };
        if entries.len() != devices {
            return Err(RegistryError::Damaged("the number of entries is wrong"));
        }
        let entries: Vec<Entry> = entries.iter().map(entry).collect();
        if entries.iter().any(|entry| (entry.state.tag()) as usize >= NAMES as usize + count) {
            return Err(RegistryError::Damaged("an entry has an unknown name"));
        }
        let registry = Self::of(&entries, names);
        let twice = |places: &[Place]| places.windows(2).any(|p| p[0].object == p[1].object);
        if registry.counts.devices != devices || registry.by_object.shards().any(twice) {
            return Err(RegistryError::Damaged("an object appears twice"));
        }
        Ok(registry)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], RegistryError> {
    let (first, after) = rest.split_first_chunk().ok_or(RegistryError::Damaged("truncated"))?;
    *rest = after;
    Ok(*first)
}

fn entry(bytes: &[u8; ENTRY]) -> Entry {
    let part = |from: usize| std::array::from_fn(|n| bytes[from + n]);
    let state = u32::from_be_bytes(std::array::from_fn(|n| bytes[32 + n]));
    Entry { device: part(0), object: part(16), state: State(state) }
}
