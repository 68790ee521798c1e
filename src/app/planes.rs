//! The services of the listeners, and their start.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::Request;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admin::Admin;
use crate::admin::access::Caller;
use crate::app::base::Base;
use crate::app::capacity::Capacity;
use crate::app::health;
use crate::app::sockets::Sockets;
use crate::config::Config;
use crate::directory::Served;
use crate::http::connections::{Admission, Shares};
use crate::http::listen::serve_plain_within;
use crate::http::local_socket::serve_local;
use crate::http::peer::Peer;
use crate::http::serve::{Limits, RequestBody};
use crate::oauth::{self, PublicPlane, TokenEndpoint};
use crate::runtime::health::Ready;
use crate::runtime::live::Live;
use crate::runtime::memory::Pressure;
use crate::runtime::tasks::Tasks;
use crate::tls;
use crate::tls::acceptor::{Bounds, TlsListener, serve};
use crate::tls::closing::OpenConnections;

/// Longest time after the start in which connections of clients wait for the saved state.
const SAVED_STATE: Duration = Duration::from_secs(2);

/// The services of the listeners.
pub(super) struct Planes {
    /// `None` in a hub.
    pub(super) token_plane: Option<TokenPlane>,
    pub(super) directory: Option<Served>,
    pub(super) directory_http: Option<Served>,
    pub(super) admin: Arc<Admin>,
}

/// The services of the token listener and the public listener.
pub(super) struct TokenPlane {
    pub(super) endpoint: Arc<TokenEndpoint>,
    pub(super) public: Arc<PublicPlane>,
}

/// Settings of the TLS listeners.
pub(super) struct Listeners {
    pub(super) token: TlsListener,
    pub(super) public: TlsListener,
    pub(super) directory: TlsListener,
    /// `None` serves the admin plane over plain HTTP.
    pub(super) admin: Option<TlsListener>,
    /// Connections of the directory's listener of plain HTTP.
    pub(super) plain_directory: Arc<Admission>,
    /// Connections of the admin plane over plain HTTP.
    pub(super) plain_admin: Arc<Admission>,
    /// Connections of the health listener.
    pub(super) health: usize,
}

/// Limits of the listeners, which a new configuration changes.
pub(super) struct ListenerLimits {
    token: watch::Sender<Bounds>,
    public: watch::Sender<Bounds>,
    directory: watch::Sender<Bounds>,
    plain_directory: Arc<Admission>,
}

impl ListenerLimits {
    /// Applies the limits of `config`, fitted to the limit on open files.
    pub(super) fn apply(&self, config: &mut Config) {
        let capacity = Capacity::raise(config);
        self.token.send_replace(config.token.bounds.clone());
        self.public.send_replace(config.public.bounds.clone());
        self.directory.send_replace(directory_bounds(config));
        self.plain_directory.limit(Shares::new(capacity.directory_http));
    }
}

/// Bounds of the directory's TLS listener.  A write may take as long as the database needs.
fn directory_bounds(config: &Config) -> Bounds {
    Bounds { unfinished: config.drain, ..config.public.bounds.clone() }
}

impl TokenPlane {
    /// Builds the services.  Returns `None` in a hub.
    pub(super) fn start(config: &Config, live: &Live, base: &mut Base) -> Option<Self> {
        let metrics = oauth::Metrics::register(&mut base.registry);
        let metrics = metrics.with_judge_times(base.judging.clone());
        let plane = config.oauth.as_ref()?;
        let endpoint = Arc::new(TokenEndpoint::new(live.clone(), plane, metrics));
        let public = PublicPlane::new(live.clone(), plane, Arc::clone(&endpoint));
        Some(Self { endpoint, public: Arc::new(public) })
    }
}

impl Listeners {
    pub(super) fn new(
        config: &Config,
        capacity: Capacity,
        live: &Live,
        metrics: &tls::metrics::Metrics,
        memory: &Pressure,
    ) -> (Self, ListenerLimits) {
        let tls = |name, tls, bounds: watch::Receiver<Bounds>| TlsListener {
            name,
            tls,
            bounds,
            live: live.clone(),
            metrics: metrics.clone(),
            keeps_chains: false,
            memory: memory.clone(),
            open: None,
        };
        let plain = |most, memory| Admission::new(Shares::new(most), memory, |_| {});
        let plain_directory = plain(capacity.directory_http, memory.clone());
        let (token_limits, token) = watch::channel(config.token.bounds.clone());
        let (public_limits, public) = watch::channel(config.public.bounds.clone());
        let (directory_limits, directory) = watch::channel(directory_bounds(config));
        // Few clients use the admin listener, and handshakes of others must not delay devices.
        let admin =
            Bounds { shares: Shares::new(capacity.admin), handshakes: 16, ..Bounds::default() };
        let limits = ListenerLimits {
            token: token_limits,
            public: public_limits,
            directory: directory_limits,
            plain_directory: Arc::clone(&plain_directory),
        };
        let listeners = Self {
            token: TlsListener {
                open: config.close_refused.then(OpenConnections::default),
                keeps_chains: true,
                ..tls("token", |tls| &tls.token, token)
            },
            public: tls("public", |tls| &tls.public, public),
            directory: tls("directory", |tls| &tls.directory, directory),
            // Operators are served when memory is short.
            admin: config.admin.tls.then(|| TlsListener {
                memory: Pressure::default(),
                ..tls("admin", |tls| &tls.public, watch::channel(admin).1)
            }),
            plain_directory,
            plain_admin: plain(capacity.admin, Pressure::default()),
            health: capacity.health,
        };
        (listeners, limits)
    }
}

impl Planes {
    /// Starts every listener.  Those of clients wait until the saved state is in force: with a shared
    /// or a passed socket, clients could be served elsewhere or later, and must not be refused.
    ///
    /// # Errors
    /// The health listener gets no thread.
    pub(super) fn listen(
        self,
        sockets: Sockets,
        listeners: Listeners,
        ready: &Ready,
        tasks: &Tasks,
    ) -> io::Result<()> {
        let Self { token_plane, directory, directory_http, admin } = self;
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
        if let (Some(plane), Some(token), Some(public)) =
            (token_plane, sockets.token, sockets.public)
        {
            let TokenPlane { endpoint, public: metadata } = plane;
            let handle = move |peer: Arc<Peer>, request: Request<RequestBody>| {
                let endpoint = Arc::clone(&endpoint);
                async move { endpoint.handle(request, &peer).await }
            };
            let token = serve(listeners.token, token, stop(), handle);
            tasks.spawn(when_ready().then(|()| token));
            let handle = move |peer: Arc<Peer>, request: Request<RequestBody>| {
                let metadata = Arc::clone(&metadata);
                async move { metadata.handle(request, &peer).await }
            };
            let public = serve(listeners.public, public, stop(), handle);
            tasks.spawn(when_ready().then(|()| public));
        }
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
            health::serve(socket, listeners.health, Arc::clone(&admin), tasks)?;
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
        Ok(())
    }
}
