//! Objects that an older registry admits and a newer one does not, for the journal on disk.
//!
//! Bytes: for each object its key, then 0 if it was removed or 1 if it was disabled.

use std::collections::BTreeMap;

use crate::trust::devices::{Change, DeviceRegistry, Entry, NewState, ObjectKey, RegistryError};

/// Bytes of an object.
const OBJECT: usize = 17;

/// Objects that are no longer admitted as before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removals(BTreeMap<ObjectKey, Removal>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Removed,
    Disabled,
}

impl Removals {
    /// Adds `more`, which came later.
    pub fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there is no object.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends them to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (ObjectKey(key), removal) in &self.0 {
            out.extend(key);
            out.push(match removal {
                Removal::Removed => 0,
                Removal::Disabled => 1,
            });
        }
    }

    /// Reads the bytes that [`Removals::write`] wrote.
    ///
    /// # Errors
    /// Anything else.
    pub fn read(bytes: &[u8]) -> Result<Self, RegistryError> {
        let (objects, []) = bytes.as_chunks::<OBJECT>() else {
            return Err(RegistryError::Damaged("truncated in a removed object"));
        };
        let object = |bytes: &[u8; OBJECT]| {
            let key = ObjectKey(std::array::from_fn(|n| bytes[n]));
            match bytes[OBJECT - 1] {
                0 => Ok((key, Removal::Removed)),
                1 => Ok((key, Removal::Disabled)),
                _ => Err(RegistryError::Damaged("the state of a removed object is unknown")),
            }
        };
        objects.iter().map(object).collect::<Result<_, _>>().map(Self)
    }
}

impl DeviceRegistry {
    /// Returns the objects that this registry admits and `next` does not, or only under another
    /// configuration or `externalDeviceId`.
    pub fn removals(&self, next: &Self) -> Removals {
        let mut removals = BTreeMap::new();
        for (old, _) in self.by_device.unshared(&next.by_device) {
            for entry in old.iter().filter(|entry| entry.state.enabled()) {
                let object = ObjectKey(entry.object);
                if let Some(removal) = self.removal(entry, next.find(&object).as_ref(), next) {
                    removals.insert(object, removal);
                }
            }
        }
        Removals(removals)
    }

    fn removal(&self, was: &Entry, is: Option<&Entry>, next: &Self) -> Option<Removal> {
        let Some(is) = is.filter(|is| is.device == was.device) else {
            return Some(Removal::Removed);
        };
        match is.state.enabled() {
            false => Some(Removal::Disabled),
            true if self.is_for_the_same(&[*was], next, &[*is]) => None,
            true => Some(Removal::Removed),
        }
    }

    /// Returns this registry without the objects of `removals`.
    ///
    /// # Errors
    /// None: the number of devices and configurations does not grow.
    pub fn without(&self, removals: &Removals) -> Result<Self, RegistryError> {
        let change = |(object, removal): (&ObjectKey, &Removal)| Change {
            object: *object,
            state: match removal {
                Removal::Removed => NewState::Removed,
                Removal::Disabled => {
                    NewState::Is { device: None, enabled: Some(false), known_to: None }
                }
            },
        };
        let changes: Vec<_> = removals.0.iter().map(change).collect();
        self.changed(&changes, self.counts.devices).map(|(registry, _)| registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::configurations::ConfigurationId;
    use crate::trust::devices::{DeviceKey, KnownTo, Standing};

    fn is(object: &str, device: &str, enabled: bool, configuration: &str) -> Change {
        Change {
            object: ObjectKey::of(object),
            state: NewState::Is {
                device: Some(Some(DeviceKey::of(device))),
                enabled: Some(enabled),
                known_to: Some(KnownTo::Only(configuration.into())),
            },
        }
    }

    fn standings(registry: &DeviceRegistry, configuration: &str) -> Vec<Standing> {
        let id = ConfigurationId::from(configuration);
        let standing = |n: usize| registry.standing(DeviceKey::of(&format!("d{n}")), &id);
        (0..6).map(standing).collect()
    }

    #[test]
    fn an_older_registry_admits_nothing_that_the_newer_one_removed() {
        use Standing::{Disabled, Enabled, Unknown};
        let named = |n: usize, enabled| is(&format!("o{n}"), &format!("d{n}"), enabled, "x");
        let first: Vec<_> = (0..5).map(|n| named(n, n != 4)).collect();
        let (older, _) = DeviceRegistry::default().changed(&first, 100).expect("few");
        let removed = Change { object: ObjectKey::of("o1"), state: NewState::Removed };
        // d2 is disabled, d3 belongs to another configuration, d4 is enabled, d5 is new.
        let changes =
            [removed, named(2, false), is("o3", "d3", true, "y"), named(4, true), named(5, true)];
        let (newer, _) = older.changed(&changes, 100).expect("few");
        let removals = older.removals(&newer);
        assert_eq!(removals.len(), 3, "{removals:?}");

        let mut bytes = Vec::new();
        removals.write(&mut bytes);
        let read = Removals::read(&bytes).expect("readable");
        assert_eq!(read, removals);
        let without = older.without(&read).expect("no growth");
        let expected = [Enabled, Unknown, Disabled, Unknown, Disabled, Unknown];
        assert_eq!(standings(&without, "x"), expected);
        assert_eq!(standings(&without, "y"), [Unknown; 6]);

        assert!(Removals::read(&bytes[1..]).is_err());
        *bytes.last_mut().expect("an object") = 2;
        assert!(Removals::read(&bytes).is_err());
        assert!(older.removals(&older).is_empty());
    }

    #[test]
    fn a_device_with_another_name_is_removed_under_the_old_one() {
        let change = [is("o0", "d0", true, "x")];
        let (older, _) = DeviceRegistry::default().changed(&change, 9).expect("few");
        let (newer, _) = older.changed(&[is("o0", "d1", true, "x")], 9).expect("few");
        let without = older.without(&older.removals(&newer)).expect("no growth");
        assert_eq!(standings(&without, "x"), [Standing::Unknown; 6]);
    }
}
