//! The composition root.  All parts are built, connected and started here.

mod base;
pub(crate) mod capacity;
mod data_dir;
mod directory;
mod followers;
mod health;
mod keys;
mod planes;
mod readiness;
mod rebuild;
mod reload;
mod sockets;
mod updates;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::runtime::health::Ready;
use crate::runtime::live::{Active, Live, Writer};
use crate::runtime::lock_file::DirectoryLock;
use crate::runtime::reload::Handle;
use crate::runtime::tasks::Tasks;
use crate::tls::{self, TlsError};
use crate::trust::snapshot::Snapshot;

use base::Base;
use capacity::Capacity;
use followers::Followers;
use keys::{GatewayKeys, build_tls};
use planes::{Listeners, Planes, TokenPlane};
use reload::Reloader;
use sockets::Sockets;
use updates::Updates;

pub use sockets::Addresses;

/// A running gateway.
pub struct App {
    /// Addresses of its listeners.
    pub addresses: Addresses,
    /// The state in force.
    pub live: Live,
    tasks: Tasks,
    ready: Ready,
    admin: Arc<Admin>,
    connections: tls::metrics::Metrics,
    drain: watch::Receiver<Drain>,
    check_keys: Arc<Notify>,
    reload: Arc<Notify>,
    _lock: DirectoryLock,
}

/// Times of a stop.
#[derive(Debug, Clone, Copy)]
struct Drain {
    /// Time in which the gateway is not ready but still serves.
    delay: Duration,
    /// Time limit for requests in progress.
    limit: Duration,
}

impl Drain {
    fn of(config: &Config) -> Self {
        Self { delay: config.drain_delay, limit: config.drain }
    }
}

impl App {
    /// Starts a gateway.  The listening sockets are bound first, so that an address in use is an
    /// error here.
    ///
    /// # Errors
    /// A key, a file or an address is not usable.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        let lock = DirectoryLock::acquire(&config.data_dir).context("data_dir")?;
        let capacity = Capacity::raise(&mut config);
        let sockets = Sockets::open(&config)?;
        let addresses = sockets.addresses()?;
        let mut base = Base::start(&config)?;
        let keys = GatewayKeys::start(&config, &mut base)?;
        let (live, writer) = first_state(&config, &keys, &base)?;
        let updates = Updates::start(&config, writer, &mut base)?;
        let (tls, tls_settings) = mpsc::channel(1);
        let (keys, check_keys) = keys.follow(&base, &live, updates.gateway.clone(), tls_settings);

        // The directory is served before it is polled: a gateway can sync from its own directory.
        let refused = Arc::<Notify>::default();
        let opened = directory::open(&config, &addresses, capacity, &refused, &mut base).await?;
        let followers = Followers::start(&config, &updates, &refused, &mut base)?;
        let token_plane = TokenPlane::start(&config, &live, &mut base);
        readiness::start(&config, &updates, &followers, &mut base);
        data_dir::start(&config, &mut base);

        let metrics = reload::Metrics::register(&mut base.registry);
        let (configuration, inbox) = Handle::new(reload::status(&config.origin));
        let parts = admin::Parts {
            ready: base.ready.clone(),
            registry: base.registry,
            live: live.clone(),
            lists: updates.lists.clone(),
            sources: followers.handles.subscribe(),
            keys: keys.clone(),
            configuration,
            store: opened.store.clone(),
        };
        let admin = Arc::new(Admin::new(&config.admin, parts));
        let (settings, limits) =
            Listeners::new(&config, capacity, &live, &base.connections, &base.memory);
        let (drain, stop_times) = watch::channel(Drain::of(&config));
        if let Some(open) = settings.token.open.clone() {
            base.tasks.spawn_until_stop(open.judge_after_updates(live.clone()));
        }
        let reload = Arc::<Notify>::default();
        let reloader = Reloader {
            origin: config.origin,
            rotation: config.keyring.rotation,
            file_modes: config.keyring.file_modes,
            keys,
            gateway: updates.gateway,
            followers,
            admin: Arc::clone(&admin),
            endpoint: token_plane.as_ref().map(|plane| Arc::clone(&plane.endpoint)),
            live: live.clone(),
            ready: base.ready.clone(),
            metrics,
            inbox,
            now: Arc::clone(&reload),
            lists: updates.lists,
            directory: opened.directory,
            refused,
            tls,
            limits,
            drain,
        };
        base.tasks.spawn_until_stop(reloader.run());

        let planes = Planes {
            token_plane,
            directory: opened.tls,
            directory_http: opened.http,
            admin: Arc::clone(&admin),
        };
        let listening = planes.listen(sockets, settings, &base.ready, &base.tasks);
        listening.context("health listener")?;
        followers::load_authorities(&config.graph);
        info!("listening: {addresses}");
        Ok(Self {
            addresses,
            live,
            tasks: base.tasks,
            ready: base.ready,
            admin,
            connections: base.connections,
            drain: stop_times,
            check_keys,
            reload,
            _lock: lock,
        })
    }

    /// Reads the configuration file and the gateway's own key files again.
    pub fn reload(&self) {
        self.check_keys.notify_one();
        self.reload.notify_one();
    }

    /// Returns a function that reads the metrics, as OpenMetrics text; empty if they cannot be encoded.
    pub fn metrics(&self) -> impl Fn() -> String + Send + use<> {
        let admin = Arc::clone(&self.admin);
        move || admin.metrics_text().unwrap_or_default()
    }

    /// Waits until a part that must run has ended, after which the gateway cannot work.
    pub async fn failed(&self) {
        self.tasks.stopping().cancelled().await;
    }

    /// Stops.  From now on the gateway is not ready, and clients are told to use another connection.
    /// After `drain_delay` it accepts no connection, finishes the requests in progress, and ends all
    /// tasks.  Returns false if some did not end within `drain`, or a part had failed.
    pub async fn stop(self) -> bool {
        let _not_ready = self.ready.latch("stopping");
        self.tasks.stop().announce();
        let failed = self.tasks.stopping();
        let Drain { delay, limit } = *self.drain.borrow();
        let _ = timeout(delay, failed.cancelled()).await;
        let is_clean = self.tasks.drain(limit).await;
        let cut = self.connections.cut();
        if cut > 0 {
            warn!(cut, "connections closed before their requests were answered");
        }
        is_clean
    }
}

/// Makes the state before the first update: it trusts no certificate.
fn first_state(
    config: &Config,
    keys: &GatewayKeys,
    base: &Base,
) -> Result<(Live, Writer), TlsError> {
    let observer = config.crl.address_record.clone();
    let trust = Snapshot::nothing(Arc::new(config.trust.clone()))
        .with_address_observer(observer.map(|record| record as _));
    Live::start(|live| {
        Ok(Active {
            trust: Arc::new(trust),
            keys: Arc::clone(&keys.signing),
            policy: Arc::clone(&config.policy),
            tls: Arc::new(build_tls(
                &keys.tls,
                &keys.identity,
                live,
                &base.connections,
                &keys.names,
            )?),
        })
    })
}
