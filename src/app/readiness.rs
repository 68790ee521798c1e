//! Readiness of a gateway.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{error, info};

use crate::crl;
use crate::runtime::clock;
use crate::runtime::health::Ready;
use crate::runtime::publisher::{ConfigurationsInForce, OwnChange};
use crate::sync;

/// Grants readiness once three conditions hold: a directory has returned its configurations of
/// devices, each revocation list that they need was fetched or has failed once, and the registries
/// of devices that they require are loaded.  The first of them completes the start.
pub(super) fn become_ready(
    ready: &Ready,
    mut in_force: watch::Receiver<ConfigurationsInForce>,
    lists: crl::Handle,
    registries: Vec<sync::devices::Handle>,
    own: mpsc::Sender<OwnChange>,
) -> impl Future<Output = ()> + Send + 'static {
    let (trust, revocation) = (ready.latch("trust"), ready.latch("revocation"));
    let devices = ready.latch("devices");
    let ready = ready.clone();
    async move {
        // An empty directory counts as loaded; one that has not answered does not.  Configurations
        // of applications are not waited for: devices are served without them.
        let generation = match in_force.wait_for(|in_force| in_force.devices_loaded).await {
            Ok(in_force) => in_force.generation,
            Err(_) => return,
        };
        ready.start();
        drop(trust);
        if lists.wait_until_attempted(generation).await.is_err() {
            return;
        }
        // The lists were read and may not be in force yet.
        let (flush, flushed) = oneshot::channel();
        if own.send(OwnChange::Flush(flush)).await.is_err() || flushed.await.is_err() {
            return;
        }
        drop(revocation);
        for registry in &registries {
            if registry.wait_until_loaded().await.is_err() {
                return;
            }
        }
        drop(devices);
    }
}

/// Interval between two checks of the clock.
const CLOCK: Duration = Duration::from_secs(10);

/// Warns while the clock of the system is before the release of this version.
pub(super) async fn watch_clock(ready: Ready) {
    let mut was_wrong = false;
    loop {
        let problem = clock::problem();
        match &problem {
            Some(problem) if !was_wrong => error!("clock not usable: {problem}"),
            None if was_wrong => info!("clock usable again"),
            _ => {}
        }
        was_wrong = problem.is_some();
        ready.warn("clock", problem);
        sleep(CLOCK).await;
    }
}
