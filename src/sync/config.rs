//! Settings of the followers of one directory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use url::Url;

use crate::graph::Collection;
use crate::graph::auth::Credential;
use crate::graph::client::Limits;
use crate::http::outbound::Network;
use crate::runtime::unsaved::Unsaved;
use crate::trust::configurations::{ConfigurationId, Devices};

/// Policy for data that the directory has not confirmed for [`Config::max_age`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TooOld {
    /// The data is withdrawn until the directory is reached again.
    Refuse,
    /// The data stays in force, with an alarm.
    #[default]
    Continue,
}

/// Policy for a start without the directory if the newest saved state is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartWithout {
    /// The previous state does not come into force before the directory confirms it: it may contain
    /// anchors, devices and missing lists that the newest state had removed.
    #[default]
    Refuse,
    /// The previous state is used.
    Continue,
}

/// Settings of the followers of one directory.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the directory in logs and metrics, and prefix of ids.
    pub source: Arc<str>,
    /// The collection that is followed.  Each has its own follower, so that a collection that cannot be
    /// fetched delays no other.
    pub collection: Collection,
    /// Prefix the ids of configurations with `source/`, because there are several directories.
    pub prefix_ids: bool,
    /// Root of the directory, such as `https://graph.microsoft.com`.
    pub base: Url,
    /// Authentication to the directory.
    pub credential: Credential,
    /// PEM of the only authorities accepted for the directory's server and the token endpoint.
    pub ca_bundle: Option<Vec<u8>>,
    /// Interval between polls.  It is varied by up to a tenth, so that a fleet does not poll at once.
    pub every: Duration,
    /// Longest time between two fetches of everything.  Those in between ask for changes only.
    pub full_every: Duration,
    /// Time that the directory may delay a response until there is a change (long poll).
    pub wait: Option<Duration>,
    /// Part of the anchors in force that one response may remove without approval.
    pub max_removal: f64,
    /// Hold back responses that remove more than `max_removal`.  If false, every response is applied.
    pub guard: bool,
    /// Hold back responses that make device configurations ambiguous, too.
    pub guard_ambiguity: bool,
    /// Longest time without a confirmation by the directory before `too_old` applies.
    pub max_age: Duration,
    /// Policy after `max_age`.
    pub too_old: TooOld,
    /// Policy for a start with an unusable newest state.
    pub start_without: StartWithout,
    /// Time over which removals are added up for `max_removal`.
    pub guard_window: Duration,
    /// File of the last good configurations.
    pub state_file: Option<PathBuf>,
    /// The configurations that admit registered devices only.
    pub devices: RegisteredOnly,
    /// Limit on the devices that are kept.
    pub max_devices: usize,
    /// File of the last good devices.
    pub devices_file: Option<PathBuf>,
    /// Limits of a fetch.
    pub limits: Limits,
    /// Signalled when the directory or the token endpoint refuses the credential.
    pub refused: Arc<Notify>,
    /// Network that the requests go over.
    pub network: Network,
    /// Is told about state that could not be saved.
    pub unsaved: Unsaved,
}

impl Config {
    /// Default settings for the device configurations of a directory.
    pub fn new(source: &str, base: Url, credential: Credential) -> Self {
        Self {
            source: source.into(),
            collection: Collection::default(),
            prefix_ids: false,
            base,
            credential,
            ca_bundle: None,
            every: Duration::from_secs(60),
            full_every: Duration::from_secs(86_400),
            wait: None,
            max_removal: 0.5,
            guard: true,
            guard_ambiguity: false,
            max_age: Duration::from_secs(7 * 86_400),
            too_old: TooOld::default(),
            start_without: StartWithout::default(),
            guard_window: Duration::from_secs(86_400),
            state_file: None,
            devices: RegisteredOnly::default(),
            max_devices: 10_000_000,
            devices_file: None,
            limits: Limits::default(),
            refused: Arc::default(),
            network: Network::default(),
            unsaved: Unsaved::default(),
        }
    }

    /// Prefix of the ids of configurations.
    pub(super) fn prefix(&self) -> Option<Arc<str>> {
        self.prefix_ids.then(|| Arc::clone(&self.source))
    }
}

/// The configurations of a source that admit registered devices only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegisteredOnly {
    /// Default: true if a configuration admits registered devices only.
    pub registered: bool,
    /// Exceptions from the default.
    pub by_configuration: HashMap<ConfigurationId, bool>,
}

impl RegisteredOnly {
    /// True if a configuration may require the source's devices.
    pub(crate) fn needs_registry(&self) -> bool {
        self.registered || self.by_configuration.values().any(|registered| *registered)
    }

    /// Returns the devices that a configuration of `source` admits.
    pub(super) fn devices(&self, source: &Arc<str>, configuration: &ConfigurationId) -> Devices {
        let exception = self.by_configuration.get(configuration);
        if *exception.unwrap_or(&self.registered) {
            Devices::Registered(Arc::clone(source))
        } else {
            Devices::Any
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_take_precedence_over_the_default() {
        let source: Arc<str> = "hub".into();
        let named = |id: &str, registered| (ConfigurationId::from(id), registered);
        for (registered, expected) in [(false, [false, true, false]), (true, [true, true, false])] {
            let by_configuration = [named("2", true), named("3", false)].into();
            let admission = RegisteredOnly { registered, by_configuration };
            assert!(admission.needs_registry());
            let registered = Devices::Registered(Arc::clone(&source));
            let got = ["1", "2", "3"].map(|id| admission.devices(&source, &id.into()));
            assert_eq!(got.map(|devices| devices == registered), expected);
        }
        assert!(!RegisteredOnly::default().needs_registry());
    }
}
