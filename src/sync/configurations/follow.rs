//! The loop that follows one directory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use crate::graph::Collection;
use crate::graph::client::{Client, FetchError, Fetched, Since};
use crate::graph::wire::Entry;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::sync::configurations::changes::Changes;
use crate::sync::configurations::handle::{Command, Handle, lock};
use crate::sync::configurations::state;
use crate::sync::configurations::status::{HeldBack, Metrics, SkippedStatus, Status};
use crate::sync::devices;
use crate::sync::freshness::{Confirmed, Expiry};
use crate::sync::pauses::{Clock, Ended, GAP, interval, pause_after};
use crate::sync::{Config, HandleError};
use crate::trust::assembly::Update;
use crate::trust::configurations::{AnchorSet, Configuration, ConfigurationId, Skipped};
use crate::x509::time::Timestamp;

/// How often a list that did not change is written to disk again, for its time of fetching.
const SAVE_EVERY: Duration = Duration::from_secs(600);
/// Lines of a change that are logged.
const MAX_LINES: usize = 100;

/// Follows one directory.
pub struct Sync {
    config: Config,
    client: Arc<Client>,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    /// Kept so that the loop outlives the handles of others, and for what it shows.
    handle: Handle,
    /// The loop that follows the devices, where a configuration needs them.
    devices: Option<devices::Sync>,

    /// What was accepted last; what answers are compared with.
    in_force: Arc<AnchorSet>,
    /// Something was accepted, in this run or in an earlier one.
    loaded: bool,
    held: Option<Held>,
    etag: Option<String>,
    /// The directory lets readers wait for a change.
    waits: bool,
    confirmed: Confirmed,
    saved: Option<Instant>,
    failures: u32,
}

struct Held {
    set: AnchorSet,
    changes: Changes,
    since: Timestamp,
}

impl Sync {
    pub(in crate::sync) fn new(
        config: Config,
        client: Arc<Client>,
        metrics: Metrics,
        updates: mpsc::Sender<Update>,
        clock: Clock,
        handle: Handle,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        Self {
            confirmed: Confirmed::new(&config),
            config,
            client,
            metrics,
            updates,
            clock,
            commands,
            handle,
            devices: None,
            in_force: Arc::default(),
            loaded: false,
            held: None,
            etag: None,
            waits: false,
            saved: None,
            failures: 0,
        }
    }

    /// With the sync of the directory's devices beside it.
    pub(in crate::sync) fn with_devices(self, devices: Option<devices::Sync>) -> Self {
        Self { devices, ..self }
    }

    /// Sends what the disk has, then follows the directory until the publisher is gone.
    pub async fn run(mut self) {
        let devices = self.devices.take().map(devices::Sync::run);
        // Whoever stops the process drops this future: no state needs an orderly end.
        let list = async {
            let Err(Ended) = self.follow().await;
        };
        tokio::join!(list, OptionFuture::from(devices));
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, Ended> {
        self.load().await?;
        let mut next = Instant::now();
        loop {
            let since = Since { etag: self.etag.clone(), wait: self.config.wait };
            let too_old = self.confirmed.expires_at().filter(|_| !self.status(|s| s.too_old));
            let client = &self.client;
            tokio::select! {
                // In this order: what is too old is not in force while the directory is asked.
                biased;
                () = sleep_until(too_old.unwrap_or(next)), if too_old.is_some() => {
                    self.expire().await?;
                }
                command = self.commands.recv() => match command {
                    Some(Command::Sync(reply)) => {
                        // No waiting, and the whole list: the operator wants to know.
                        let wait = self.config.wait.map(|_| Duration::ZERO);
                        let fetched = self.client.fetch(&Since { etag: None, wait }).await;
                        let (result, at) = self.take(fetched).await?;
                        next = at;
                        let _ = reply.send(result);
                    }
                    Some(Command::Approve(reply)) => {
                        let result = self.approve().await?;
                        let _ = reply.send(result);
                        // What was approved may be old news by now.
                        next = Instant::now();
                    }
                    // The loop holds a sender itself.
                    None => {}
                },
                fetched = async { sleep_until(next).await; client.fetch(&since).await } => {
                    next = self.take(fetched).await?.1;
                }
            }
        }
    }

    /// Sends the last good list of an earlier run.
    async fn load(&mut self) -> Result<(), Ended> {
        let Some(path) = self.config.state_file.clone() else { return Ok(()) };
        let source = &self.config.source;
        match state::load(path, self.config.collection).await {
            Ok(None) => info!(%source, "no list of an earlier run: waiting for the directory"),
            Err(why) => error!(%source, "the list of the last run cannot be used: {why}"),
            Ok(Some(last)) => {
                if let Some(why) = &last.fell_back {
                    error!(%source, "the newest list on disk is not usable, an older one is: {why}");
                }
                let now = (self.clock)();
                let age = now.since(last.at);
                info!(%source, "{} configurations of the last run, {age:?} old", last.set.configurations.len());
                let usable = self.confirmed.restore(last.at, now);
                self.in_force = Arc::new(last.set);
                self.loaded = true;
                self.show(|status| status.from_disk = true);
                if usable {
                    self.send(AnchorSet::clone(&self.in_force)).await?;
                } else {
                    self.expire().await?;
                }
            }
        }
        Ok(())
    }

    /// Takes the result of a poll, and tells when the next one is.
    async fn take(
        &mut self,
        fetched: Result<Fetched, FetchError>,
    ) -> Result<(Result<Changes, HandleError>, Instant), Ended> {
        let now = (self.clock)();
        self.show(|status| status.last_poll = Some(now.to_string()));
        let (result, pause) = match fetched {
            Err(error) => self.fail(&error),
            Ok(Fetched::Unchanged) => {
                self.confirm(now).await?;
                self.metrics.polled(&self.config.source, "unchanged");
                (Ok(Changes::default()), self.pause())
            }
            Ok(Fetched::List { entries, etag, waits }) => {
                let whole = entries.iter().all(|e| !matches!(e, Entry::Shortened { .. }));
                let prefix = self.handle.rules.prefix.as_deref();
                let set = assemble(&self.in_force, entries, prefix);
                let changes = Changes::between(&self.in_force, &set);
                if self.handle.rules.holds_back(&changes) {
                    self.hold(set, changes.clone(), now);
                    (Ok(changes), interval(self.config.every))
                } else {
                    self.accept(set, &changes, now).await?;
                    // A tag stands for an answer that was taken whole, else the rest never comes.
                    self.etag = etag.filter(|_| whole);
                    self.waits = waits;
                    (Ok(changes), self.pause())
                }
            }
        };
        let next = now.after(pause).to_string();
        self.show(|status| status.next_poll = Some(next));
        Ok((result, Instant::now() + pause))
    }

    fn fail(&mut self, error: &FetchError) -> (Result<Changes, HandleError>, Duration) {
        self.failures = self.failures.saturating_add(1);
        let pause = pause_after(self.failures, self.config.every, error.retry_after());
        let (source, failures, why) = (&self.config.source, self.failures, error.to_string());
        warn!(%source, failures, "poll failed, what is in force stays; again in {pause:?}: {why}");
        self.metrics.polled(source, "failed");
        self.show(|status| {
            status.last_error = Some(why.clone());
            status.failures = failures;
        });
        (Err(HandleError::Failed(why)), pause)
    }

    fn hold(&mut self, set: AnchorSet, changes: Changes, now: Timestamp) {
        let source = &self.config.source;
        error!(
            %source,
            "held back: the directory's answer removes too much ({changes}); what is in force stays \
             until the answer is approved"
        );
        self.metrics.polled(source, "held_back");
        // Since when it is this answer; another one is another matter.
        let since = match &self.held {
            Some(held) if held.changes == changes => held.since,
            _ => now,
        };
        self.etag = None;
        self.failures = 0;
        let held_back = HeldBack { since: since.to_string(), changes: changes.clone() };
        self.held = Some(Held { set, changes, since });
        self.show(|status| {
            status.held_back = Some(held_back);
            status.last_error = None;
            status.failures = 0;
        });
    }

    fn audit(&self, outcome: Outcome, action: &str, detail: &str) {
        Record {
            action: Some(action),
            detail: Some(detail),
            object_type: Some(match self.config.collection {
                Collection::Devices => "mutualTlsOauthConfiguration",
                Collection::Applications => "certificateBasedApplicationConfiguration",
            }),
            source: Some(&self.config.source),
            ..Record::new(Event::Trust, outcome)
        }
        .emit();
    }

    async fn approve(&mut self) -> Result<Result<Changes, HandleError>, Ended> {
        let Some(held) = self.held.take() else { return Ok(Err(HandleError::NothingHeld)) };
        let detail = held.changes.to_string();
        self.audit(Outcome::Approved, "approve", &detail);
        self.accept(held.set, &held.changes, (self.clock)()).await?;
        Ok(Ok(held.changes))
    }

    async fn accept(
        &mut self,
        set: AnchorSet,
        changes: &Changes,
        now: Timestamp,
    ) -> Result<(), Ended> {
        let source = &self.config.source;
        let news = !changes.is_empty() || !self.loaded || set.skipped != self.in_force.skipped;
        if news {
            info!(%source, "trust list taken: {changes}");
            for line in changes.lines.iter().take(MAX_LINES) {
                self.audit(Outcome::Changed, "change", line);
            }
            if let Some(more) = changes.lines.len().checked_sub(MAX_LINES + 1) {
                self.audit(Outcome::Changed, "change", &format!("and {} more changes", more + 1));
            }
            for Skipped { configuration, why } in &set.skipped {
                warn!(%source, %configuration, "not in force: {why}");
            }
        }
        self.metrics.polled(source, if news { "changed" } else { "unchanged" });
        if !changes.is_empty() {
            let change = Some((now.to_string(), changes.clone()));
            self.show(|status| status.last_change = change);
        }
        self.loaded = true;
        self.held = None;
        self.in_force = Arc::new(set);
        if news {
            self.saved = None;
            self.confirmed.put_back();
            self.send(AnchorSet::clone(&self.in_force)).await?;
        }
        self.confirm(now).await
    }

    /// The directory was reached, and what is in force is what it has.
    async fn confirm(&mut self, now: Timestamp) -> Result<(), Ended> {
        self.failures = 0;
        self.confirmed.confirm(now);
        if self.confirmed.put_back() {
            self.send(AnchorSet::clone(&self.in_force)).await?;
        }
        self.show(|status| {
            status.last_success = Some(now.to_string());
            status.last_error = None;
            status.failures = 0;
            status.from_disk = false;
            status.too_old = false;
            status.held_back = None;
        });
        if self.saved.is_none_or(|at| at.elapsed() >= SAVE_EVERY)
            && let Some(path) = &self.config.state_file
        {
            match state::save(path, self.config.collection, &self.in_force, now).await {
                Ok(()) => self.saved = Some(Instant::now()),
                Err(why) => {
                    let source = &self.config.source;
                    error!(%source, "the list is in force, but was not written to disk: {why}");
                }
            }
        }
        Ok(())
    }

    async fn expire(&mut self) -> Result<(), Ended> {
        let (source, age) = (&self.config.source, self.config.max_age);
        let Expiry { policy, withdraws } = self.confirmed.expire();
        error!(%source, "the directory was not reached for {age:?}: its configurations are {policy}");
        self.show(|status| status.too_old = true);
        if withdraws {
            let why = format!("the directory `{source}` was not reached for {age:?}");
            let skip =
                |c: &Configuration| Skipped { configuration: c.id.clone(), why: why.clone() };
            let skipped = self.in_force.configurations.iter().map(skip).collect();
            self.send(AnchorSet { configurations: vec![], skipped }).await?;
        }
        Ok(())
    }

    async fn send(&self, mut set: AnchorSet) -> Result<(), Ended> {
        let source = Arc::clone(&self.config.source);
        let update = match self.config.collection {
            Collection::Devices => {
                // Here and nowhere else: the directory does not say it, and neither does the disk.
                self.config.devices.mark(&source, &mut set);
                Update::Anchors { source, set }
            }
            Collection::Applications => Update::Applications { source, set },
        };
        self.updates.send(update).await.map_err(|_| Ended)
    }

    /// Until the next poll after a good one.
    fn pause(&self) -> Duration {
        let waiting = self.waits && self.config.wait.is_some() && self.etag.is_some();
        if waiting { GAP } else { interval(self.config.every) }
    }

    fn status<T>(&self, read: impl FnOnce(&Status) -> T) -> T {
        read(&lock(&self.handle.shared).status)
    }

    /// Changes the status and brings the rest of what is shown in line with it.
    fn show(&self, change: impl FnOnce(&mut Status)) {
        let mut shared = lock(&self.handle.shared);
        change(&mut shared.status);
        shared.in_force = Arc::clone(&self.in_force);
        let status = &mut shared.status;
        let authorities = || self.in_force.configurations.iter().flat_map(|c| &c.authorities);
        status.configurations = self.in_force.configurations.len();
        status.anchors = authorities().filter(|a| a.is_root).count();
        status.intermediates = authorities().filter(|a| !a.is_root).count();
        status.skipped = self.in_force.skipped.iter().map(SkippedStatus::from).collect();
        self.metrics.show(status, self.confirmed.at());
    }
}

/// The list that an answer makes of what is in force.  What the answer shortens stays as it is.
pub(super) fn assemble(
    in_force: &AnchorSet,
    entries: Vec<Entry>,
    prefix: Option<&str>,
) -> AnchorSet {
    let before: HashMap<&ConfigurationId, &Configuration> =
        in_force.configurations.iter().map(|c| (&c.id, c)).collect();
    let named = |id: ConfigurationId| match prefix {
        Some(source) => ConfigurationId(format!("{source}/{id}").into()),
        None => id,
    };
    let mut set = AnchorSet::default();
    for entry in entries {
        match entry {
            Entry::Whole { mut configuration, skipped } => {
                configuration.id = named(configuration.id);
                let id = configuration.id.clone();
                let skip = |s: Skipped| Skipped { configuration: id.clone(), why: s.why };
                set.skipped.extend(skipped.into_iter().map(skip));
                set.configurations.push(configuration);
            }
            Entry::Shortened { id, why, readable } => {
                let id = named(id);
                let kept = before.get(&id).map(|&kept| kept.clone());
                let why = match &kept {
                    Some(_) => format!("{why}; it stays as it was"),
                    None => why,
                };
                let rest = || readable.map(|rest| Configuration { id: id.clone(), ..rest });
                set.configurations.extend(kept.or_else(rest));
                set.skipped.push(Skipped { configuration: id, why });
            }
            Entry::Out(skipped) => {
                let configuration = named(skipped.configuration);
                set.skipped.push(Skipped { configuration, why: skipped.why });
            }
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::configurations::changes::tests::{authority, set};

    #[test]
    fn what_is_shortened_stays_as_it_was() {
        let (a, b) = (authority("a", true), authority("b", true));
        let in_force = set(&[("1", &[a.clone(), b.clone()])]);
        let shortened = |id: &str| Entry::Shortened {
            id: id.into(),
            why: "cut".into(),
            readable: set(&[(id, std::slice::from_ref(&a))]).configurations.pop(),
        };
        let next = assemble(&in_force, vec![shortened("1"), shortened("2")], None);
        assert_eq!(next.configurations[0].authorities.len(), 2, "kept");
        assert_eq!(next.configurations[1].authorities.len(), 1, "nothing better to be had");
        assert_eq!(next.skipped.len(), 2);
        assert!(next.skipped[0].why.contains("stays as it was"));
    }

    #[test]
    fn ids_are_put_under_their_source() {
        let whole = |c: Configuration| Entry::Whole { configuration: c, skipped: vec![] };
        let list = set(&[("1", &[])]).configurations.into_iter().map(whole).collect();
        let next = assemble(&AnchorSet::default(), list, Some("contoso"));
        assert_eq!(next.configurations[0].id.as_str(), "contoso/1");
    }
}
