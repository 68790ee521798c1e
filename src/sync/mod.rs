//! Follows a directory, and decides which of its data comes into force.
//!
//! [`follow`] sets up one follower for the configurations of a directory and, if they are required, one
//! for its devices.  A follower fetches with the client of [`graph`](crate::graph), compares the response
//! with the data in force, and sends accepted changes to the publisher.  Operators reach it through a
//! [`Handle`].
//!
//! # Vocabulary
//! A follower *polls* on a schedule; each poll is a *fetch*, one exchange with the directory.  A *retry*
//! follows a failed fetch, and an operator can *refresh*, which fetches now.  Between two fetches there is
//! a *pause*.
//!
//! # Design notes
//! The data decides which devices are admitted, and comes from a remote service that is throttled,
//! eventually consistent and still beta.  Therefore responses are not applied unchecked:
//! - A response that fails anywhere changes nothing.
//! - What a response leaves out stays in force.
//! - A response that removes everything, or too much, is held back until an operator approves it.
//! - The last good data is on disk, for a start without the network, with a journal of what it removed.

mod config;
pub mod configurations;
pub mod devices;
mod files;
mod follower;
mod freshness;
mod handle;
mod journal;
mod metrics;
mod pauses;
mod payload;
mod status;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use crate::graph::Collection;
use crate::graph::auth::AuthError;
use crate::graph::client::{Client, RequestMetrics};
use crate::runtime::clock::Clock;
use crate::runtime::metrics::trust::TrustTimes;
use crate::sync::configurations::{FollowedKind, Payload};
use crate::sync::devices::Devices;
use crate::sync::follower::Context;
use crate::trust::assembly::Update;
use crate::trust::configurations::{Application, Device};

pub use config::{Config, RegisteredOnly, StartWithout, TooOld};
pub use configurations::Handle;
pub use handle::HandleError;
pub use status::{HeldBack, Status};

/// Metrics of the followers of all directories.
#[derive(Clone)]
pub struct Metrics {
    configurations: configurations::Metrics,
    devices: devices::Metrics,
    requests: RequestMetrics,
}

impl Metrics {
    /// Creates the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            configurations: configurations::Metrics::register(registry),
            devices: devices::Metrics::register(registry),
            requests: RequestMetrics::register(registry),
        }
    }

    /// Adds the arrivals of changes to `times`.
    #[must_use]
    pub(crate) fn with_trust_times(mut self, times: &TrustTimes) -> Self {
        self.configurations.follower.times = times.clone();
        self.devices.follower.times = times.clone();
        self
    }

    /// Removes the series of a directory that is no longer followed.  Call it after its followers ended.
    pub fn remove(&self, source: &str) {
        self.configurations.remove(source);
        self.devices.remove(source);
        self.requests.remove(source);
    }
}

/// Follows one collection of a directory and, if its configurations require them, its devices.
pub struct Follower(BoxFuture<'static, ()>);

impl Follower {
    /// Publishes the saved data, then follows the directory until the publisher stops.  The future can
    /// be dropped at any time.
    pub async fn run(self) {
        self.0.await;
    }
}

/// Sets up the followers of a directory.  They do nothing until [`Follower::run`].
///
/// # Errors
/// The directory's URL or the credential is not usable.
pub fn follow(
    config: Config,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
    clock: Clock,
) -> Result<(Handle, Follower), AuthError> {
    let context = Context { config, updates, clock };
    match context.config.collection {
        Collection::MutualTlsOauth => follow_kind::<Device>(&context, metrics),
        Collection::CertificateBasedApplication => follow_kind::<Application>(&context, metrics),
    }
}

fn follow_kind<K: FollowedKind>(
    context: &Context,
    metrics: Metrics,
) -> Result<(Handle, Follower), AuthError> {
    let config = &context.config;
    let client = Client::new(
        &config.base,
        config.credential.clone(),
        config.ca_bundle.clone(),
        config.limits.clone(),
    )?;
    let collection = K::COLLECTION;
    let client = client.with_collection(collection).with_network(config.network.clone());
    let client = client.with_metrics(metrics.requests.of(&config.source));
    let client = Arc::new(client);

    let has_devices = collection == Collection::MutualTlsOauth && config.devices.needs_registry();
    let devices = has_devices.then(|| {
        let payload = Devices::new(config, Arc::clone(&client), metrics.devices);
        follower::Follower::new(Arc::clone(&config.source), context.clone(), payload)
    });
    let (devices_handle, devices) = devices.unzip();

    let source = collection.follower_name(&config.source);
    let payload = Payload::<K>::new(Arc::clone(&source), client, config, metrics.configurations);
    let (configurations_handle, configurations) =
        follower::Follower::new(Arc::clone(&source), context.clone(), payload);
    let handle = Handle {
        source,
        collection,
        prefix: config.prefix(),
        max_removal: config.guard.then_some(config.max_removal),
        guard_ambiguity: config.guard && config.guard_ambiguity,
        configurations: configurations_handle,
        devices: devices_handle,
    };
    let devices = OptionFuture::from(devices.map(follower::Follower::run));
    let run = async move {
        tokio::join!(configurations.run(), devices);
    };
    Ok((handle, Follower(run.boxed())))
}
