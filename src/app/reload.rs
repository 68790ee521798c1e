//! A new configuration while the gateway runs.
//!
//! The file is read again on SIGHUP, when an operator asks for it, and when its content changes or that
//! of a file that it names.  It is checked as a whole.  Then every value that needs no restart is applied; the others are reported
//! and wait for the restart.  A file with a problem changes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use crate::admin::Admin;
use crate::app::Drain;
use crate::app::followers::Followers;
use crate::app::planes::ListenerLimits;
use crate::app::updates::rules;
use crate::config::{Candidate, Config, LoadError, Origin};
use crate::crl;
use crate::directory::Directory;
use crate::keyring;
use crate::oauth::TokenEndpoint;
use crate::runtime::health::Ready;
use crate::runtime::live::Live;
use crate::runtime::log;
use crate::runtime::publisher::GatewayChange;
use crate::runtime::reload::{
    Inbox, KeyChange, OtherFile, Rejected, Reply, Report, Request, Status,
};
use crate::runtime::secret_files::FileModes;
use crate::tls;
use crate::x509::certificate::Fingerprint;
use crate::x509::time::Timestamp;

/// Interval between two readings of the file.
const INTERVAL: Duration = Duration::from_secs(5);
/// Shortest time between two reloads.  Requests in between share one.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest wait for a change to come into force.
const IN_FORCE: Duration = Duration::from_secs(10);
/// Part that a warning is about.
const PART: &str = "configuration";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadResult {
    result: &'static str,
}

/// Metrics of reloads.
pub(super) struct Metrics {
    reloads: Family<ReloadResult, Counter>,
    successful: Gauge,
    last_success: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reloads = Family::default();
        registry.register(
            "config_reloads",
            "Reloads of the configuration, by result: applied, rejected",
            reloads.clone(),
        );
        for result in ["applied", "rejected"] {
            let _ = reloads.get_or_create(&ReloadResult { result });
        }
        let mut gauge = |name, help| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            reloads,
            successful: gauge(
                "config_last_reload_successful",
                "1 if the newest configuration file is in force, else 0",
            ),
            last_success: gauge(
                "config_last_reload_success_timestamp_seconds",
                "Time at which a configuration was applied last, seconds since 1970",
            ),
        }
    }

    fn succeeded(&self, now: Timestamp) {
        self.successful.set(1);
        self.last_success.set(now.0);
    }
}

/// The task that reloads.
pub(super) struct Reloader {
    pub(super) origin: Origin,
    pub(super) rotation: Option<keyring::RotationConfig>,
    /// Files with secrets that are refused.
    pub(super) file_modes: FileModes,
    pub(super) keys: keyring::Handle,
    pub(super) gateway: mpsc::Sender<GatewayChange>,
    pub(super) followers: Followers,
    pub(super) admin: Arc<Admin>,
    pub(super) endpoint: Option<Arc<TokenEndpoint>>,
    pub(super) live: Live,
    pub(super) ready: Ready,
    pub(super) metrics: Metrics,
    pub(super) inbox: Inbox,
    /// Signals a reload.
    pub(super) now: Arc<Notify>,
    pub(super) lists: crl::Handle,
    pub(super) directory: Option<Directory>,
    /// Signals that a credential was refused: its file may have changed.
    pub(super) refused: Arc<Notify>,
    /// Receives changed TLS settings.
    pub(super) tls: mpsc::Sender<tls::Config>,
    pub(super) limits: ListenerLimits,
    pub(super) drain: watch::Sender<Drain>,
}

/// The state of a configuration that was read now.
pub(super) fn status(origin: &Origin) -> Status {
    let (file, loaded) = (origin.path.display().to_string(), now().to_string());
    Status { file, loaded, ..Status::default() }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

impl Reloader {
    pub(super) async fn run(mut self) {
        self.metrics.succeeded(now());
        let mut seen = self.origin.content;
        let mut next = Instant::now();
        loop {
            let mut waiting: Vec<Reply> = Vec::new();
            let mut is_wanted = false;
            tokio::select! {
                request = self.inbox.requests.recv() => match request {
                    Some((Request::Compare(other), reply)) => {
                        let _ = reply.send(self.compare(other).await);
                        continue;
                    }
                    Some((Request::Reload, reply)) => waiting.push(reply),
                    None => return,
                },
                () = self.now.notified() => is_wanted = true,
                () = self.refused.notified() => {}
                () = sleep(INTERVAL) => {}
            }
            let content = self.content().await;
            if waiting.is_empty() && !is_wanted && content == seen {
                continue;
            }
            sleep_until(next).await;
            self.collect(&mut waiting).await;
            seen = self.content().await;
            let result = self.reload().await;
            next = Instant::now() + PAUSE;
            for reply in waiting {
                let _ = reply.send(result.clone());
            }
        }
    }

    /// Adds the requests that arrived meanwhile.
    async fn collect(&mut self, waiting: &mut Vec<Reply>) {
        while let Ok((request, reply)) = self.inbox.requests.try_recv() {
            match request {
                Request::Reload => waiting.push(reply),
                Request::Compare(other) => drop(reply.send(self.compare(other).await)),
            }
        }
    }

    /// Hash of the file and of the files it names; `None` if the file cannot be read.
    async fn content(&self) -> Option<Fingerprint> {
        let origin = self.origin.clone();
        spawn_blocking(move || origin.current_content()).await.ok().flatten()
    }

    async fn candidate(&self, other: Option<OtherFile>) -> Result<Candidate, LoadError> {
        let origin = self.origin.clone();
        let read = spawn_blocking(move || match other {
            Some(OtherFile { name, toml }) => {
                origin.compare(toml.as_bytes()).map_err(|error| error.of_other_file(&name))
            }
            None => origin.compare(&origin.read()?),
        });
        match read.await {
            Ok(candidate) => candidate,
            // The runtime is shutting down.
            Err(error) => Err(LoadError::Syntax(self.origin.path.clone(), error.to_string())),
        }
    }

    async fn compare(&self, other: Option<OtherFile>) -> Result<Report, Rejected> {
        match self.candidate(other).await {
            Ok(candidate) => Ok(Report { changes: candidate.changes }),
            Err(error) => Err(Rejected(error.to_string().into())),
        }
    }

    async fn reload(&mut self) -> Result<Report, Rejected> {
        let result = match self.candidate(None).await {
            Ok(Candidate { config, changes }) => {
                // New TLS configurations forget which certificates are known.
                let is_tls =
                    |change: &KeyChange| !change.needs_restart && change.key.starts_with("tls.");
                let has_tls = changes.iter().any(is_tls);
                let applied = self.apply(config, has_tls).await;
                applied.map(|()| Report { changes }).map_err(|why| Rejected(why.into()))
            }
            Err(error) => Err(Rejected(error.to_string().into())),
        };
        let label = if result.is_ok() { "applied" } else { "rejected" };
        self.metrics.reloads.get_or_create(&ReloadResult { result: label }).inc();
        match &result {
            Ok(report) => self.succeeded(report),
            Err(Rejected(why)) => {
                // One record is one line.
                let line = why.replace("\n  ", "; ");
                error!("configuration rejected; the earlier one stays in use: {line}");
                self.metrics.successful.set(0);
                let warning = format!("{why}; the earlier configuration stays in use");
                self.ready.warn(PART, Some(warning));
                self.inbox.status.send_modify(|status| status.last_error = Some(why.to_string()));
            }
        }
        result
    }

    fn succeeded(&self, report: &Report) {
        let keys = |needs_restart: bool| -> Vec<String> {
            let changes = report.changes.iter().filter(|c| c.needs_restart == needs_restart);
            changes.map(|change| change.key.clone()).collect()
        };
        let (applied, waiting) = (keys(false), keys(true));
        match applied[..] {
            [] => info!("configuration read again; nothing to apply"),
            _ => info!(applied = applied.join(", "), "configuration applied"),
        }
        self.ready.warn(
            PART,
            (!waiting.is_empty())
                .then(|| format!("a restart is needed for {}", waiting.join(", "))),
        );
        if !waiting.is_empty() {
            warn!(keys = waiting.join(", "), "configuration partly applied; a restart is needed");
        }
        self.metrics.succeeded(now());
        let status = Status { restart_needed: waiting, ..status(&self.origin) };
        self.inbox.status.send_replace(status);
    }

    /// Applies a checked configuration; `has_tls` if TLS settings differ.  Whatever can fail comes first
    /// and changes nothing, except a new rotation of signing keys: it stays if the key that a client needs
    /// does not come into force.
    async fn apply(&mut self, mut config: Config, has_tls: bool) -> Result<(), String> {
        if let Some(fault) = config.insecure_files(self.file_modes).refused.first() {
            return Err(fault.to_string());
        }
        let prepared = self.followers.prepare(&config.graph, &config.origin);
        let prepared = prepared.map_err(|error| error.to_string())?;
        let part = config.directory.as_ref();
        let database = part.and_then(|part| part.database.as_ref());
        if let Some(directory) = &self.directory {
            directory.check(database)?;
        }
        let roots = config.crl.transport.roots_pem.as_deref();
        let client = self.lists.client_with(roots).map_err(|error| error.to_string())?;
        if let Some(rotation) = &config.keyring.rotation
            && self.rotation.as_ref() != Some(rotation)
        {
            let followed = self.keys.follow(rotation.clone()).await;
            followed.map_err(|error| format!("oauth.rotation: {error}"))?;
            self.rotation = Some(rotation.clone());
        }
        let policy = Arc::clone(&config.policy);
        self.until(|live| {
            let keys = &live.current().keys;
            policy
                .signing_algorithms()
                .into_iter()
                .all(|algorithm| keys.of(Some(algorithm)).is_ok())
        })
        .await
        .map_err(|()| "no signing key of a client's algorithm came into force".to_owned())?;
        log::set_filter(&config.log_filter).map_err(|error| format!("log.filter: {error}"))?;
        if let Some(client) = client {
            self.lists.use_client(client);
        }
        if let (Some(directory), Some(part)) = (&self.directory, part) {
            directory.use_files(&part.config, database);
        }
        let (kept, sources) = (prepared.kept(), prepared.sources());
        self.followers.stop_others(&kept, &sources).await;
        let rules = GatewayChange::Rules(Box::new(rules(&config)));
        if self.gateway.send(rules).await.is_err() {
            return Err("the gateway is stopping".to_owned());
        }
        self.followers.run(prepared);
        self.admin.permit(&config.admin);
        if let (Some(endpoint), Some(oauth)) = (&self.endpoint, &config.oauth) {
            endpoint.limit(&oauth.rate_limits);
        }
        self.limits.apply(&mut config);
        self.drain.send_replace(Drain::of(&config));
        if has_tls && self.tls.send(config.tls).await.is_err() {
            return Err("the gateway is stopping".to_owned());
        }
        self.origin = config.origin;
        let is_in_force = |live: &Live| Arc::ptr_eq(&live.current().policy, &policy);
        self.until(is_in_force).await.map_err(|()| "the publisher does not answer".to_owned())
    }

    /// Waits until the state in force fulfils a condition.
    async fn until(&self, is_fulfilled: impl Fn(&Live) -> bool) -> Result<(), ()> {
        let wait = async {
            while !is_fulfilled(&self.live) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(IN_FORCE, wait).await.map_err(|_| ())
    }
}
