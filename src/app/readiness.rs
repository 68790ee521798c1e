//! Readiness of a gateway.

use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;
use tracing::{error, info};

use crate::app::base::Base;
use crate::app::followers::Followers;
use crate::app::updates::Updates;
use crate::config::Config;
use crate::crl;
use crate::runtime::clock;
use crate::runtime::health::Ready;
use crate::runtime::publisher::{ConfigurationsInForce, GatewayChange};
use crate::runtime::server_clocks::ClockReport;
use crate::sync;

/// Starts the tasks that decide on readiness.
pub(super) fn start(config: &Config, updates: &Updates, followers: &Followers, base: &mut Base) {
    let server_clocks = ClockReport::register(base.server_clocks.clone(), &mut base.registry);
    let ready = &base.ready;
    base.tasks.spawn_until_stop(watch_clock(ready.clone(), server_clocks));
    if config.directory.is_some() && config.graph.is_empty() {
        // A directory that follows no other one has nothing to wait for.
        ready.start();
        return;
    }
    let handles = followers.handles.borrow();
    base.tasks.spawn_until_stop(become_ready(
        ready,
        updates.in_force.clone(),
        updates.lists.clone(),
        handles.iter().filter_map(sync::Handle::devices).cloned().collect(),
        updates.gateway.clone(),
    ));
}

/// Grants readiness once three conditions hold: a directory has returned its configurations of
/// devices, each revocation list that they need was fetched or has failed once, and the registries
/// of devices that they require are loaded.  The first of them completes the start.
fn become_ready(
    ready: &Ready,
    mut in_force: watch::Receiver<ConfigurationsInForce>,
    lists: crl::Handle,
    registries: Vec<sync::devices::Handle>,
    gateway: mpsc::Sender<GatewayChange>,
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
        if gateway.send(GatewayChange::Flush(flush)).await.is_err() || flushed.await.is_err() {
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

/// Warns while the clock of the system is before the release of this version, or differs from that of
/// servers.
async fn watch_clock(ready: Ready, mut server_clocks: ClockReport) {
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
        server_clocks.update(&ready, SystemTime::now().into());
        sleep(CLOCK).await;
    }
}
