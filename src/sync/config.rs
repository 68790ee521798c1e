//! How one directory is followed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::graph::Collection;
use crate::graph::auth::Credential;
use crate::graph::client::Limits;
use crate::trust::configurations::{AnchorSet, ConfigurationId, Devices};

/// What happens to trust when the directory was not reached for [`Config::max_age`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TooOld {
    /// The source's configurations are in force no longer, until it is reached again.
    Refuse,
    /// They stay in force, with an alarm.
    #[default]
    Continue,
}

/// How one directory is followed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name here: in logs, metrics, and as the prefix of ids.
    pub source: Arc<str>,
    /// What is followed: each collection is followed by a [`Sync`] of its own, so that one that
    /// cannot be had holds up no other.
    pub collection: Collection,
    /// Put `source/` before the ids of its configurations; for when there are several directories.
    pub prefix_ids: bool,
    /// Its root, such as `https://graph.microsoft.com`.
    pub base: Url,
    /// How to get a token.
    pub credential: Credential,
    /// PEM of the only authorities that its server, and the token endpoint's, may have.
    pub ca_bundle: Option<Vec<u8>>,
    /// Time between polls; a tenth more or less, so that a fleet does not poll in step.
    pub every: Duration,
    /// Let the directory hold an answer back until there is a change, if it can.
    pub wait: Option<Duration>,
    /// The part of the anchors in force that one answer may remove without approval.
    pub max_removal: f64,
    /// Hold back responses that remove more than `max_removal`.  If false, every response is applied.
    pub guard: bool,
    /// How long configurations are good for without the directory.
    pub max_age: Duration,
    /// What happens then.
    pub too_old: TooOld,
    /// Where the last good list is kept.
    pub state_file: Option<PathBuf>,
    /// Which configurations admit registered devices only.
    pub devices: Admission,
    /// Devices that are kept.
    pub max_devices: usize,
    /// Where the last good devices are kept.
    pub devices_file: Option<PathBuf>,
    /// Bounds of one conversation.
    pub limits: Limits,
}

impl Config {
    /// The defaults for a directory's configurations of devices.
    pub fn new(source: &str, base: Url, credential: Credential) -> Self {
        Self {
            source: source.into(),
            collection: Collection::default(),
            prefix_ids: false,
            base,
            credential,
            ca_bundle: None,
            every: Duration::from_secs(60),
            wait: None,
            max_removal: 0.5,
            guard: true,
            max_age: Duration::from_secs(7 * 86_400),
            too_old: TooOld::default(),
            state_file: None,
            devices: Admission::default(),
            max_devices: 10_000_000,
            devices_file: None,
            limits: Limits::default(),
        }
    }
}

/// Which configurations of a source admit registered devices only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// Those that are not named.
    pub registered: bool,
    /// Those that are.
    pub by_configuration: HashMap<ConfigurationId, bool>,
}

impl Admission {
    /// True when the source's devices need to be known.
    pub fn needs_registry(&self) -> bool {
        self.registered || self.by_configuration.values().any(|registered| *registered)
    }

    /// Says to each configuration of `source` which devices it admits.
    pub(super) fn mark(&self, source: &Arc<str>, set: &mut AnchorSet) {
        for configuration in &mut set.configurations {
            let named = self.by_configuration.get(&configuration.id);
            if *named.unwrap_or(&self.registered) {
                configuration.devices = Devices::Registered(Arc::clone(source));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::tests::set;

    #[test]
    fn a_configuration_that_is_named_goes_its_own_way() {
        let source: Arc<str> = "hub".into();
        let named = |id: &str, registered| (ConfigurationId::from(id), registered);
        for (registered, expected) in [(false, [false, true, false]), (true, [true, true, false])] {
            let by_configuration = [named("2", true), named("3", false)].into();
            let admission = Admission { registered, by_configuration };
            assert!(admission.needs_registry());
            let mut set = set(&[("1", &[]), ("2", &[]), ("3", &[])]);
            admission.mark(&source, &mut set);
            let marked = |c: &crate::trust::configurations::Configuration| {
                c.devices == Devices::Registered(Arc::clone(&source))
            };
            let got: Vec<_> = set.configurations.iter().map(marked).collect();
            assert_eq!(got, expected);
        }
        assert!(!Admission::default().needs_registry());
    }
}
