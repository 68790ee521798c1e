//! The followers of directories, which a new configuration starts and stops.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::app::base::Base;
use crate::app::updates::Updates;
use crate::config::{Config, Origin};
use crate::graph::Collection;
use crate::graph::auth::AuthError;
use crate::http::load_system_authorities;
use crate::runtime::clock::Clock;
use crate::runtime::server_clocks::{Kind, ServerClocks};
use crate::runtime::tasks::Tasks;
use crate::runtime::unsaved::Unsaved;
use crate::sync::{self, Follower, Handle};
use crate::trust::assembly::Update;

/// The running followers.
pub(super) struct Followers {
    running: Vec<Running>,
    /// Their handles, for operators.
    pub(super) handles: watch::Sender<Vec<Handle>>,
    pub(super) metrics: sync::Metrics,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    /// Signalled when a credential is refused.
    refused: Arc<Notify>,
    server_clocks: ServerClocks,
    unsaved: Unsaved,
}

struct Running {
    settings: Settings,
    handle: Handle,
    stop: CancellationToken,
    /// Closed when the follower has ended.
    ended: oneshot::Receiver<()>,
}

/// A follower is kept while its settings are equal.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Settings {
    source: Arc<str>,
    collection: Collection,
    text: String,
}

/// Followers that were set up and do not run yet.
pub(super) struct Prepared(Vec<(Settings, Option<(Handle, Follower)>)>);

impl Prepared {
    /// Settings of the running followers that stay.
    pub(super) fn kept(&self) -> Vec<Settings> {
        let kept = self.0.iter().filter(|(_, new)| new.is_none());
        kept.map(|(settings, _)| settings.clone()).collect()
    }

    /// Names of the directories that are followed, as before or with new settings.
    pub(super) fn sources(&self) -> Vec<Arc<str>> {
        self.0.iter().map(|(settings, _)| Arc::clone(&settings.source)).collect()
    }
}

impl Followers {
    /// Starts to follow the directories of `config`.
    ///
    /// # Errors
    /// The URL or the credential of a directory is not usable.
    pub(super) fn start(
        config: &Config,
        updates: &Updates,
        refused: &Arc<Notify>,
        base: &mut Base,
    ) -> Result<Self, AuthError> {
        let (handles, _) = watch::channel(Vec::new());
        let mut followers = Self {
            running: Vec::new(),
            handles,
            metrics: sync::Metrics::register(&mut base.registry).with_trust_times(&base.times),
            updates: updates.trust.clone(),
            clock: Arc::clone(&base.clock),
            tasks: base.tasks.clone(),
            refused: Arc::clone(refused),
            server_clocks: base.server_clocks.clone(),
            unsaved: base.unsaved.clone(),
        };
        let prepared = followers.prepare(&config.graph, &config.origin)?;
        followers.run(prepared);
        Ok(followers)
    }

    /// Sets up the followers of `sources`, whose settings are in `origin`, that do not run.
    ///
    /// # Errors
    /// The URL or the credential of a directory is not usable.
    pub(super) fn prepare(
        &self,
        sources: &[sync::Config],
        origin: &Origin,
    ) -> Result<Prepared, AuthError> {
        let mut prepared = Vec::new();
        for source in sources {
            let settings = Settings {
                source: Arc::clone(&source.source),
                collection: source.collection,
                text: origin.source_text(&source.source),
            };
            let is_running = self.running.iter().any(|running| running.settings == settings);
            let new = match is_running {
                true => None,
                false => {
                    let (metrics, clock) = (self.metrics.clone(), Arc::clone(&self.clock));
                    let network = source
                        .network
                        .clone()
                        .with_clocks(Kind::Directory, self.server_clocks.clone());
                    let refused = Arc::clone(&self.refused);
                    let unsaved = self.unsaved.clone();
                    let source = sync::Config { refused, network, unsaved, ..source.clone() };
                    Some(sync::follow(source, metrics, self.updates.clone(), clock)?)
                }
            };
            prepared.push((settings, new));
        }
        Ok(Prepared(prepared))
    }

    /// Stops all followers except `kept`.  None of their updates arrives after this returns.  The series
    /// of `sources` stay.
    pub(super) async fn stop_others(&mut self, kept: &[Settings], sources: &[Arc<str>]) {
        let is_kept = |running: &Running| kept.contains(&running.settings);
        let (kept, others): (Vec<_>, Vec<_>) = self.running.drain(..).partition(is_kept);
        self.running = kept;
        for running in others {
            running.stop.cancel();
            let _ = running.ended.await;
            let source = &running.settings.source;
            // A follower with new settings counts in the same series.
            if !sources.contains(source) {
                self.metrics.remove(source);
            }
            info!(source = &**source, "directory no longer followed as before");
        }
    }

    /// Runs the new followers.
    pub(super) fn run(&mut self, prepared: Prepared) {
        for (settings, new) in prepared.0 {
            let Some((handle, follower)) = new else { continue };
            let (stop, (sender, ended)) = (CancellationToken::new(), oneshot::channel());
            let stopped = stop.clone();
            self.tasks.spawn_until_stop(async move {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = follower.run() => {}
                }
                drop::<oneshot::Sender<()>>(sender);
            });
            self.running.push(Running { settings, handle, stop, ended });
        }
        self.handles.send_replace(self.running.iter().map(|r| r.handle.clone()).collect());
    }
}

/// Loads the authorities of the system if a directory is reached with them.  It takes longer than the
/// rest of a start, so it runs beside it.
pub(super) fn load_authorities(directories: &[sync::Config]) {
    let uses_them =
        |source: &sync::Config| source.base.scheme() == "https" && source.ca_bundle.is_none();
    if directories.iter().any(uses_them) {
        spawn_blocking(load_system_authorities);
    }
}
