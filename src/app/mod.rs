//! The composition root.  All parts are built, connected and started here.

pub(crate) mod capacity;
mod directory;
mod followers;
mod readiness;
mod rebuild;
mod reload;
mod sockets;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use futures_util::FutureExt as _;
use hyper::Request;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admin::access::Caller;
use crate::admin::{self, Admin};
use crate::config::Config;
use crate::crl;
use crate::directory::{Directory, Served};
use crate::http::connections::{Admission, Shares};
use crate::http::listen::{serve_plain, serve_plain_within};
use crate::http::load_system_authorities;
use crate::http::local_socket::serve_local;
use crate::http::peer::Peer;
use crate::http::serve::{Limits, RequestBody};
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
use crate::tls::acceptor::{Bounds, TlsListener, serve};
use crate::tls::closing::OpenConnections;
use crate::tls::tickets::Secrets;
use crate::token::keys::SigningKeys;
use crate::trust::assembly::Assembly;
use crate::trust::snapshot::Snapshot;

use capacity::Capacity;
use followers::Followers;
use rebuild::Rebuild;
use reload::Reloader;
use sockets::Sockets;

pub use sockets::Addresses;

/// Interval between two checks of the gateway's own key files.
const KEY_FILES: Duration = Duration::from_secs(10);

/// Longest time after the start in which connections of clients wait for the saved state.
const SAVED_STATE: Duration = Duration::from_secs(2);

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
        let hosts = [&config.oauth.token_origin, &config.oauth.public_origin];
        let hosts = hosts.map(|origin| origin.host_str().unwrap_or_default());
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
                let directory = Directory::until(part.config, store, tasks.stopping());
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
        let endpoint = Arc::new(TokenEndpoint::new(live.clone(), &config.oauth, oauth_metrics));
        let public = PublicPlane::new(live.clone(), &config.oauth, Arc::clone(&endpoint));
        let public = Arc::new(public);
        tasks.spawn_until_stop(readiness::become_ready(
            &ready,
            watched,
            crl_handle.clone(),
            sources.borrow().iter().filter_map(sync::Handle::devices).cloned().collect(),
            own.clone(),
        ));
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
            endpoint: Arc::clone(&endpoint),
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
        let planes =
            Planes { endpoint, public, directory, directory_http, admin: Arc::clone(&admin) };
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
        };
        planes.listen(sockets, listeners, &readiness, &tasks);
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

/// The services of the listeners.
struct Planes {
    endpoint: Arc<TokenEndpoint>,
    public: Arc<PublicPlane>,
    directory: Option<Served>,
    directory_http: Option<Served>,
    admin: Arc<Admin>,
}

/// Settings of the TLS listeners.
struct Listeners {
    token: TlsListener,
    public: TlsListener,
    directory: TlsListener,
    /// `None` serves the admin plane over plain HTTP.
    admin: Option<TlsListener>,
    /// Connections of the directory's listener of plain HTTP.
    plain_directory: Arc<Admission>,
    /// Connections of the admin plane over plain HTTP.
    plain_admin: Arc<Admission>,
}

impl Planes {
    /// Starts every listener.  Those of clients wait until the saved state is in force: with a shared
    /// or a passed socket, clients could be served elsewhere or later, and must not be refused.
    fn listen(self, sockets: Sockets, listeners: Listeners, ready: &Ready, tasks: &Tasks) {
        let Self { endpoint, public, directory, directory_http, admin } = self;
        let stop = || tasks.stop();
        let when_ready = || {
            let (ready, stop) = (ready.clone(), tasks.stopping());
            async move {
                tokio::select! {
                    _ = timeout(SAVED_STATE, ready.reached()) => {}
                    () = stop.cancelled() => {}
                }
            }
        };
        let token = move |peer: Arc<Peer>, request: Request<RequestBody>| {
            let endpoint = Arc::clone(&endpoint);
            async move { endpoint.handle(request, &peer).await }
        };
        let token = serve(listeners.token, sockets.token, stop(), token);
        tasks.spawn(when_ready().then(|()| token));
        let public = move |peer: Arc<Peer>, request: Request<RequestBody>| {
            let public = Arc::clone(&public);
            async move { public.handle(request, &peer).await }
        };
        let public = serve(listeners.public, sockets.public, stop(), public);
        tasks.spawn(when_ready().then(|()| public));
        if let (Some(socket), Some(served)) = (sockets.directory, directory) {
            let directory = move |peer: Arc<Peer>, mut request: Request<RequestBody>| {
                let served = served.clone();
                // A token bound to a certificate is accepted only with that certificate.
                request.extensions_mut().insert(peer);
                async move { served.handle(request).await }
            };
            tasks.spawn(serve(listeners.directory, socket, stop(), directory));
        }
        if let (Some(socket), Some(served)) = (sockets.directory_http, directory_http) {
            let directory = move |request| {
                let served = served.clone();
                async move { served.handle(request).await }
            };
            let admission = listeners.plain_directory;
            let limits = Limits::default();
            tasks.spawn(serve_plain_within(socket, admission, limits, stop(), directory));
        }
        if let Some(socket) = sockets.health {
            let admin = Arc::clone(&admin);
            let health = move |request| {
                let admin = Arc::clone(&admin);
                async move { admin.health(&request) }
            };
            tasks.spawn(serve_plain(socket, Limits::default(), stop(), health));
        }
        if let Some(socket) = sockets.local {
            let admin = Arc::clone(&admin);
            let admin =
                move |user, request| Arc::clone(&admin).handle(Caller::Socket(user), request);
            tasks.spawn(serve_local(socket, Limits::default(), stop(), admin));
        }
        let admin = move |request| Arc::clone(&admin).handle(Caller::Network, request);
        match listeners.admin {
            Some(edge) => {
                let admin = move |_, request| admin(request);
                tasks.spawn(serve(edge, sockets.admin, stop(), admin));
            }
            None => {
                let (admission, limits) = (listeners.plain_admin, Limits::default());
                tasks.spawn(serve_plain_within(sockets.admin, admission, limits, stop(), admin));
            }
        }
    }
}
