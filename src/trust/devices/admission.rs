//! Admission of a subject by a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::trust::configurations::{Configuration, Device, Devices};
use crate::trust::devices::{DeviceKey, DeviceRegistry, Standing};
use crate::trust::refusal::{Code, Refusal};
use crate::trust::subject::SubjectId;

/// The device registries of all directories, by source.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    by_source: BTreeMap<Arc<str>, Registry>,
}

/// State of one directory's devices.
#[derive(Debug, Clone)]
pub enum Registry {
    /// Its devices are known.
    InForce(DeviceRegistry),
    /// Its devices must not be used, for this reason.
    Withdrawn(Arc<str>),
}

impl Registries {
    /// Decides whether a configuration admits a subject.
    ///
    /// # Errors
    /// `device_unknown` or `device_disabled`.
    pub fn admit(
        &self,
        configuration: &Configuration<Device>,
        subject: &SubjectId,
    ) -> Result<(), Refusal> {
        let Devices::Registered(source) = &configuration.kind.devices else { return Ok(()) };
        let id = &configuration.id;
        let refused = |code, what: &str| {
            let detail = format!("`{subject}` of configuration {id}: {what}");
            Err(Refusal::new(code, detail))
        };
        let registry = match self.by_source.get(source) {
            Some(Registry::InForce(registry)) => registry,
            Some(Registry::Withdrawn(why)) => {
                let why = format!("the device registry of `{source}` is not in force: {why}");
                return refused(Code::DeviceUnknown, &why);
            }
            None => {
                let why = format!("the device registry of `{source}` was never loaded");
                return refused(Code::DeviceUnknown, &why);
            }
        };
        match registry.standing(DeviceKey::of(subject.as_str()), id) {
            Standing::Enabled => Ok(()),
            Standing::Disabled => {
                let why = format!("disabled in the device registry of `{source}`");
                refused(Code::DeviceDisabled, &why)
            }
            Standing::Unknown => {
                let why = format!("not in the device registry of `{source}`");
                refused(Code::DeviceUnknown, &why)
            }
        }
    }

    /// Stores the newest registry of `source`.  Returns false if it equals the current one.
    pub fn set(&mut self, source: Arc<str>, registry: Registry) -> bool {
        let same = match (self.by_source.get(&source), &registry) {
            (Some(Registry::InForce(old)), Registry::InForce(new)) => old.is_same(new),
            (Some(Registry::Withdrawn(old)), Registry::Withdrawn(new)) => old == new,
            _ => false,
        };
        self.by_source.insert(source, registry);
        !same
    }

    /// Drops the devices of directories for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        self.by_source.retain(|source, _| keep(source));
    }
}
