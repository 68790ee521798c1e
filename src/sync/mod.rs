//! Follows a directory, and decides what of its answers comes into force.
//!
//! One [`configurations::Sync`] for each directory: it asks (the client of [`graph`](crate::graph)), compares with what is
//! in force ([`configurations::changes`]), and sends what may be applied to the publisher.
//! [`configurations::Handle`] is how operators talk to it.
//!
//! # Why answers are not simply believed
//! The list decides who gets in, and it comes from a remote service that is throttled, eventually
//! consistent and still beta.  So: an answer that fails anywhere changes nothing; what an answer leaves
//! out keeps what is in force; an answer that takes away every anchor, or too many, is held back until a
//! person approves it; and what was good is on disk for a start without the network.

mod config;
pub mod configurations;
pub mod devices;
mod freshness;
mod pauses;

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::graph::Collection;
use crate::graph::auth::AuthError;
use crate::graph::client::Client;
use crate::sync::configurations::Status;
use crate::sync::configurations::handle::{Rules, Shared};
use crate::trust::assembly::Update;

pub use config::{Admission, Config, TooOld};
pub use configurations::{Handle, Metrics, Sync};
pub use pauses::Clock;

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
    let max_removal = config.guard.then_some(config.max_removal);
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
