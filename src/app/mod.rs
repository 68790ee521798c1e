//! The composition root.  All parts are built, connected and started here.

pub(crate) mod capacity;
mod directory;
mod followers;
mod health;
mod planes;
mod readiness;
mod rebuild;
mod reload;
mod sockets;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::crl;
use crate::directory::{Directory, Metrics as DirectoryMetrics};
use crate::http::connections::{Admission, Shares};
use crate::http::load_system_authorities;
use crate::keyring;
use crate::oauth::{self, PublicPlane, TokenEndpoint};
use crate::runtime::health::Ready;
use crate::runtime::live::{Active, Live};
use crate::runtime::lock_file::DirectoryLock;
use crate::runtime::log;
use crate::runtime::memory::{self, Budget, Pressure};
use crate::runtime::publisher::{ConfigurationsInForce, Publisher};
use crate::runtime::reload::Handle;
use crate::runtime::tasks::Tasks;
use crate::runtime::telemetry;
use crate::sync;
use crate::tls;
use crate::tls::acceptor::{Bounds, TlsListener};
use crate::tls::closing::OpenConnections;
use crate::tls::tickets::Secrets;
use crate::token::keys::SigningKeys;
use crate::trust::assembly::Assembly;
use crate::trust::snapshot::Snapshot;

use capacity::Capacity;
use followers::Followers;
use planes::{Listeners, Planes, TokenPlane};
use rebuild::Rebuild;
use reload::Reloader;
use sockets::Sockets;

pub use sockets::Addresses;

/// Interval between two checks of the gateway's own key files.
const KEY_FILES: Duration = Duration::from_secs(10);

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
    drain_delay: Duration,
    drain: Duration,
    check_keys: Arc<Notify>,
    reload: Arc<Notify>,
    _lock: DirectoryLock,
}

impl App {
    /// Starts a gateway.  The listening sockets are bound first, so that an address in use is an
    /// error here.
    ///
    /// # Errors
    /// A key, a file or an address is not usable.
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        let lock = DirectoryLock::acquire(&config.data_dir).context("data_dir")?;
        if config.admin.socket.is_none() {
            warn!(
                "no Unix socket for commands: the path of data_dir is too long; set admin.socket"
            );
        }
        let capacity = Capacity::raise(&config);
        match capacity.is_reduced {
            true => warn!("{capacity}"),
            false => info!("{capacity}"),
        }
        capacity.apply(&mut config);
        let sockets = Sockets::open(&config)?;
        let addresses = sockets.addresses()?;
        let tasks = Tasks::default();
        let ready = Ready::default();
        let readiness = ready.clone();
        let mut registry = Registry::with_prefix("anchorgate");

        let provider = tls::provider();
        log::register(&mut registry);
        telemetry::register(&mut registry);
        let memory = Pressure::default();
        let budgets = config.memory_limit.map(Budget::of_process);
        let budgets = budgets.into_iter().chain(Budget::of_control_group()).collect();
        memory::watch(budgets, &memory, &mut registry).context("memory_limit")?;
        let edge_metrics = tls::metrics::Metrics::register(&mut registry);
        let (key_changes, changed_keys) = mpsc::channel(4);
        let check_keys = Arc::<Notify>::default();
        keyring::remove_temporary_files(&config.keyring);
        let key_files = keyring::watch(
            config.keyring.clone(),
            Arc::clone(&provider),
            KEY_FILES,
            Arc::clone(&check_keys),
            ready.clone(),
            key_changes.clone(),
        );
        let identity = keyring::identity(&config.keyring, &provider)?;
        let hosts = config.advertised_hosts();
        for problem in keyring::problems(&identity, &hosts, SystemTime::now().into()) {
            warn!(file = %config.keyring.certificate.display(), "server certificate: {problem}");
        }
        let clock = crl::system_clock();
        let (signing, keys, rotator) = signing_keys(&config.keyring, &clock, &ready, key_changes)?;
        let tickets = Secrets::new(keyring::ticket_secrets(&config.keyring)?);
        let rules = followers::rules(&config);
        let tls_config = tls::Config { tickets, ..config.tls };
        let trust = Snapshot::nothing(Arc::new(config.trust.clone()))
            .with_address_observer(config.crl.address_record.clone().map(|record| record as _));
        let (live, writer) = Live::start(|live| {
            let tls = Arc::new(tls::build(&tls_config, &identity, live, &edge_metrics)?);
            let policy = Arc::clone(&config.policy);
            let (trust, keys) = (Arc::new(trust), Arc::new(signing));
            Ok::<_, tls::TlsError>(Active { trust, keys, policy, tls })
        })?;

        // The inboxes of the publisher, which is the one writer, and its notifications.
        let (updates, inbox) = mpsc::channel(256);
        let (own, own_inbox) = mpsc::channel(16);
        let (in_force, watched) = watch::channel(ConfigurationsInForce::default());
        let publisher = Publisher {
            assembly: Assembly::new(rules.lists).with_domain_order(rules.domains),
            writer,
            updates: inbox,
            own: own_inbox,
            in_force,
            lists: None,
        };
        tasks.spawn_until_stop(publisher.run());

        let crl_metrics = crl::Metrics::default();
        crl_metrics.register(&mut registry);
        let (lists, crl_handle) = crl::Source::new(
            config.crl,
            watched.clone(),
            updates.clone(),
            crl_metrics,
            Arc::clone(&clock),
        )?;
        tasks.spawn(lists.run(tasks.stopping()));

        tasks.spawn_until_stop(key_files);
        if let Some(rotator) = rotator {
            tasks.spawn_until_stop(rotator.run());
        }
        let (reader, metrics) = (live.downgrade(), edge_metrics.clone());
        let build = move |config: &_, identity: &_| tls::build(config, identity, &reader, &metrics);
        let rebuild = Rebuild { config: tls_config, identity, build };
        tasks.spawn_until_stop(rebuild.run(changed_keys, own.clone()));

        // The directory is served before it is polled: a gateway can sync from its own directory.
        let refused = Arc::<Notify>::default();
        let (directory, served) = match config.directory {
            Some(part) => {
                let (database, data_dir) = (part.database.clone(), &config.data_dir);
                let store =
                    directory::open_store(database.as_ref(), data_dir, &refused, &tasks).await?;
                let metrics = DirectoryMetrics::register(&mut registry);
                let directory =
                    Directory::until(part.config, store, tasks.stopping()).with_metrics(metrics);
                let served = directory::serve(&directory, part.public_url, &addresses, capacity);
                (Some(directory), served)
            }
            None => (None, (None, None)),
        };
        let needs_system_authorities = config
            .graph
            .iter()
            .any(|source| source.base.scheme() == "https" && source.ca_bundle.is_none());
        let graph_metrics = sync::Metrics::register(&mut registry);
        let mut followers =
            Followers::new(graph_metrics, updates, clock, tasks.clone(), Arc::clone(&refused));
        let prepared = followers.prepare(&config.graph, &config.origin)?;
        followers.start(prepared);
        let sources = followers.handles.subscribe();

        let oauth_metrics = oauth::Metrics::register(&mut registry);
        let token_plane = config.oauth.as_ref().map(|plane| {
            let endpoint = Arc::new(TokenEndpoint::new(live.clone(), plane, oauth_metrics));
            let public = PublicPlane::new(live.clone(), plane, Arc::clone(&endpoint));
            TokenPlane { endpoint, public: Arc::new(public) }
        });
        tasks.spawn_until_stop(readiness::watch_clock(ready.clone()));
        // A directory that follows no other one has nothing to wait for.
        if directory.is_none() || !config.graph.is_empty() {
            tasks.spawn_until_stop(readiness::become_ready(
                &ready,
                watched,
                crl_handle.clone(),
                sources.borrow().iter().filter_map(sync::Handle::devices).cloned().collect(),
                own.clone(),
            ));
        } else {
            ready.start();
        }
        let metrics = reload::Metrics::register(&mut registry);
        let (configuration, inbox) = Handle::new(reload::status(&config.origin));
        let parts = admin::Parts {
            ready: ready.clone(),
            registry,
            live: live.clone(),
            lists: crl_handle.clone(),
            sources,
            keys: keys.clone(),
            configuration,
        };
        let admin = Arc::new(Admin::new(&config.admin, parts));
        let reload = Arc::<Notify>::default();
        let reloader = Reloader {
            origin: config.origin,
            rotation: config.keyring.rotation,
            keys,
            own,
            followers,
            admin: Arc::clone(&admin),
            endpoint: token_plane.as_ref().map(|plane| Arc::clone(&plane.endpoint)),
            live: live.clone(),
            ready,
            metrics,
            inbox,
            now: Arc::clone(&reload),
            lists: crl_handle,
            directory,
            refused,
        };
        tasks.spawn_until_stop(reloader.run());

        let (directory, directory_http) = served;
        let admin_plane = Arc::clone(&admin);
        let planes = Planes { token_plane, directory, directory_http, admin: admin_plane };
        let edge = |name, tls, bounds| TlsListener {
            name,
            tls,
            bounds,
            live: live.clone(),
            metrics: edge_metrics.clone(),
            keeps_chains: false,
            memory: memory.clone(),
            open: None,
        };
        let plain = |most, memory| Admission::new(Shares::new(most), memory, |_| {});
        let open = config.close_refused.then(OpenConnections::default);
        if let Some(open) = open.clone() {
            tasks.spawn_until_stop(open.judge_after_updates(live.clone()));
        }
        let listeners = Listeners {
            token: TlsListener {
                open,
                keeps_chains: true,
                ..edge("token", |tls| &tls.token, config.token.bounds)
            },
            public: edge("public", |tls| &tls.public, config.public.bounds.clone()),
            directory: edge(
                "directory",
                |tls| &tls.directory,
                // A write may take as long as the database needs.
                Bounds { unfinished: config.drain, ..config.public.bounds },
            ),
            admin: config
                .admin
                .tls
                .then(|| edge("admin", |tls| &tls.public, admin_bounds(capacity.admin)))
                // Operators are served when memory is short.
                .map(|admin| TlsListener { memory: Pressure::default(), ..admin }),
            plain_directory: plain(capacity.directory_http, memory.clone()),
            plain_admin: plain(capacity.admin, Pressure::default()),
            health: capacity.health,
        };
        planes.listen(sockets, listeners, &readiness, &tasks).context("health listener")?;
        if needs_system_authorities {
            spawn_blocking(load_system_authorities);
        }
        info!(?addresses, "listening");
        Ok(Self {
            addresses,
            live,
            tasks,
            ready: readiness,
            admin,
            connections: edge_metrics,
            drain_delay: config.drain_delay,
            drain: config.drain,
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
        let _ = timeout(self.drain_delay, failed.cancelled()).await;
        let is_clean = self.tasks.drain(self.drain).await;
        let cut = self.connections.cut();
        if cut > 0 {
            warn!(cut, "connections closed before their requests were answered");
        }
        is_clean
    }
}

/// Reads the signing keys, and prepares their rotation if it is configured.
fn signing_keys(
    config: &keyring::Config,
    clock: &keyring::Clock,
    ready: &Ready,
    changes: mpsc::Sender<keyring::Change>,
) -> Result<(SigningKeys, keyring::Handle, Option<keyring::Rotator>), keyring::KeyringError> {
    let Some(rotation) = &config.rotation else {
        return Ok((keyring::signing_keys(config)?, keyring::Handle::default(), None));
    };
    let (clock, ready) = (Arc::clone(clock), ready.clone());
    let (keys, rotator, handle) = keyring::Rotator::start(config, rotation, clock, ready, changes)?;
    Ok((keys, handle, Some(rotator)))
}

/// Limits of the admin listener.  Few clients use it, and handshakes of others must not delay
/// devices.
fn admin_bounds(connections: usize) -> Bounds {
    Bounds { shares: Shares::new(connections), handshakes: 16, ..Bounds::default() }
}
