//! Microsoft Graph, or a server that speaks as it does, as the source of trust configurations.
//!
//! One [`Sync`] for each directory: it asks ([`client`], with a token of [`auth`]), understands
//! ([`wire`]), compares with what is in force ([`changes`]), and sends what may be applied to the
//! publisher.  [`Handle`] is how operators talk to it.
//!
//! # Why answers are not simply believed
//! The list decides who gets in, and it comes from a remote service that is throttled, eventually
//! consistent and still beta.  So: an answer that fails anywhere changes nothing; what an answer leaves
//! out keeps what is in force; an answer that takes away every anchor, or too many, is held back until a
//! person approves it; and what was good is on disk for a start without the network.

pub mod auth;
pub mod changes;
pub mod client;
mod confirmed;
pub mod devices;
mod poll;
mod preview;
mod rhythm;
mod state;
mod status;
pub mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use url::Url;

use crate::domain::trust::anchors::AnchorSet;
use crate::domain::trust::assembly::Update;
use crate::graph::auth::{AuthError, Credential};
use crate::graph::changes::Changes;
use crate::graph::client::{Client, Limits};
use crate::graph::devices::Admission;
use crate::graph::poll::Command;

pub use poll::Sync;
pub use preview::Preview;
pub use rhythm::Clock;
pub use status::{HeldBack, Metrics, SkippedStatus, Status};

/// What of a directory is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Collection {
    /// `mutualTlsOauthConfigurations`: whose devices are trusted.
    #[default]
    Devices,
    /// `certificateBasedApplicationConfigurations`: whose applications are.
    Applications,
}

impl Collection {
    /// Its path below the directory's root.
    const fn path(self) -> &'static str {
        match self {
            Self::Devices => "beta/directory/certificateAuthorities/mutualTlsOauthConfigurations",
            Self::Applications => {
                "beta/directory/certificateAuthorities/certificateBasedApplicationConfigurations"
            }
        }
    }

    /// The query that makes a list of it whole.
    const fn query(self) -> Option<&'static str> {
        match self {
            Self::Devices => None,
            // Authorities are a navigation property there.
            Self::Applications => Some("$expand=trustedCertificateAuthorities"),
        }
    }

    /// What the sync with it is called, where that with the devices' is called as the directory is.
    fn name_in(self, source: &Arc<str>) -> Arc<str> {
        match self {
            Self::Devices => Arc::clone(source),
            Self::Applications => format!("{source}/applications").into(),
        }
    }
}

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
    /// Apply every answer, whatever it removes.
    pub unguarded: bool,
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
            unguarded: false,
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

/// What an operator asked for did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The poll failed; what is in force stays.
    #[error("{0}")]
    Failed(String),
    /// No answer waits for approval.
    #[error("nothing is held back")]
    NothingHeld,
    /// The process stops.
    #[error("the sync has ended")]
    Ended,
}

/// An operator's hold on a [`Sync`].
#[derive(Clone)]
pub struct Handle {
    source: Arc<str>,
    rules: Rules,
    commands: mpsc::Sender<Command>,
    shared: Arc<Mutex<Shared>>,
    devices: Option<devices::Handle>,
}

/// How an answer is read, and compared with what is in force.
#[derive(Clone)]
struct Rules {
    collection: Collection,
    /// What is put before ids: the directory's name, where there are several.
    prefix: Option<Arc<str>>,
    /// [`Config::max_removal`]; `None` where nothing is held back.
    max_removal: Option<f64>,
}

/// What the sync lets be seen.
struct Shared {
    status: Status,
    in_force: Arc<AnchorSet>,
}

impl Handle {
    /// The sync's name: the directory's, or that and `/applications`.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// What is followed.
    pub fn collection(&self) -> Collection {
        self.rules.collection
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let devices = self.devices.as_ref().map(devices::Handle::status);
        Status { devices, ..lock(&self.shared).status.clone() }
    }

    /// The sync of its devices, where a configuration needs them.
    pub fn devices(&self) -> Option<&devices::Handle> {
        self.devices.as_ref()
    }

    /// The configurations of this source that are in force, as last accepted.
    pub fn in_force(&self) -> Arc<AnchorSet> {
        Arc::clone(&lock(&self.shared).in_force)
    }

    /// Polls now, and tells what changed.
    ///
    /// # Errors
    /// When the poll fails.
    pub async fn sync_now(&self) -> Result<Changes, HandleError> {
        self.ask(Command::Sync).await
    }

    /// Applies the answer that is held back, and tells what changed.
    ///
    /// # Errors
    /// When none is.
    pub async fn approve(&self) -> Result<Changes, HandleError> {
        self.ask(Command::Approve).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<Changes, HandleError>>) -> Command,
    ) -> Result<Changes, HandleError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| HandleError::Ended)?;
        answer.await.unwrap_or(Err(HandleError::Ended))
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    // Fields are assigned one by one: a panic elsewhere leaves at worst an older status.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets up the sync with one directory.  Nothing happens until [`Sync::run`].
///
/// # Errors
/// An address or credential that cannot be used.
pub fn follow(
    mut config: Config,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
    clock: Clock,
) -> Result<(Handle, Sync), AuthError> {
    let client = Client::new(
        &config.base,
        config.credential.clone(),
        config.ca_bundle.clone(),
        config.limits.clone(),
    )?;
    let client = Arc::new(client.following(config.collection));
    let prefix = config.prefix_ids.then(|| Arc::clone(&config.source));
    config.source = config.collection.name_in(&config.source);
    let (commands, inbox) = mpsc::channel(8);
    let status = Status::new(&config.source, client.url().as_str());
    let shared = Arc::new(Mutex::new(Shared { status, in_force: Arc::default() }));
    let max_removal = (!config.unguarded).then_some(config.max_removal);
    let rules = Rules { collection: config.collection, prefix, max_removal };
    let (devices, devices_sync) = match config.collection == Collection::Devices
        && config.devices.needs_registry()
    {
        true => {
            let (client, metrics) = (Arc::clone(&client), metrics.devices.clone());
            let (config, updates, clock) = (config.clone(), updates.clone(), Arc::clone(&clock));
            let (handle, sync) = devices::Sync::new(config, client, metrics, updates, clock);
            (Some(handle), Some(sync))
        }
        false => (None, None),
    };
    let source = Arc::clone(&config.source);
    let handle = Handle { source, rules, commands, shared, devices };
    let sync = Sync::new(config, client, metrics, updates, clock, handle.clone(), inbox);
    Ok((handle, sync.with_devices(devices_sync)))
}
