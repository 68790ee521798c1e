//! State in force whose last write to the disk failed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state in force that is not on disk, by name, with the reason.
#[derive(Debug, Clone, Default)]
pub struct Unsaved(Arc<Mutex<BTreeMap<String, String>>>);

impl Unsaved {
    /// Notes that a write of the state `name` failed.
    pub(crate) fn failed(&self, name: &str, why: &str) {
        self.lock().insert(name.to_owned(), why.to_owned());
    }

    /// Notes that the state `name` is on disk, or no longer in force.
    pub(crate) fn saved(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Describes the state that is not on disk.
    ///
    /// # Errors
    /// There is such state.
    pub(crate) fn check(&self) -> Result<(), String> {
        let unsaved = self.lock();
        let Some((name, why)) = unsaved.first_key_value() else { return Ok(()) };
        let more = match unsaved.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Err(format!("{name}: {why}{more}"))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // Each statement leaves the map consistent, so a poisoned lock is usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_not_saved_until_it_is() {
        let unsaved = Unsaved::default();
        assert_eq!(unsaved.check(), Ok(()));
        unsaved.failed("b", "full");
        unsaved.failed("a", "full");
        unsaved.failed("a", "read-only");
        assert_eq!(unsaved.check(), Err("a: read-only, and 1 more".to_owned()));
        unsaved.saved("a");
        assert_eq!(unsaved.check(), Err("b: full".to_owned()));
        unsaved.saved("b");
        assert_eq!(unsaved.check(), Ok(()));
    }
}
