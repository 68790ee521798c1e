//! The loop that follows one directory's devices.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};
use url::Url;

use crate::graph::client::{Client, FetchError, below};
use crate::runtime::audit::{Event, Outcome, Record};
use crate::sync::devices::Handle;
use crate::sync::devices::round::Round;
use crate::sync::devices::state;
use crate::sync::devices::status::{HeldBack, Metrics, Status};
use crate::sync::freshness::{Confirmed, Expiry};
use crate::sync::pauses::{Clock, Ended, GAP, interval, pause_after};
use crate::sync::{Config, HandleError};
use crate::trust::assembly::Update;
use crate::trust::devices::{DeviceRegistry, Difference, Registry};
use crate::x509::time::Timestamp;

/// What is told to an operator.
pub(super) type Answer = Result<Difference, HandleError>;
/// Where it is told.
pub(super) type Reply = oneshot::Sender<Answer>;

/// What an operator asks of the loop.
pub(super) enum Command {
    /// Poll now.
    Sync(Reply),
    /// Apply what is held back.
    Approve(Reply),
}

/// The collection, below the directory's root.
const COLLECTION: &str = "beta/devices/delta";
/// What of a device decides.
const QUERY: &str = "$select=accountEnabled,physicalIds";
/// Devices that an answer may remove, whatever part of all they are.
const REMOVED_FREELY: usize = 100;
/// The least time between two changes that are written to disk, for each so many devices: all of them
/// are written each time.
const SAVE_CHANGES: (Duration, usize) = (Duration::from_secs(1), 20_000);
/// The longest of it: as old may be what a start without the directory goes on with.
const SAVE_CHANGES_WITHIN: Duration = Duration::from_secs(60);
/// How often a registry that did not change is written to disk again, for its deltaLink.
const SAVE_EVERY: Duration = Duration::from_secs(600);

/// Follows one directory's devices.
pub struct Sync {
    config: Config,
    client: Arc<Client>,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
    clock: Clock,
    commands: mpsc::Receiver<Command>,
    /// Kept so that the loop outlives the handles of others, and for what it shows.
    handle: Handle,
    /// Where an enumeration begins.
    start: Url,

    /// What the directory said last, and where it tells what changed since.
    told: DeviceRegistry,
    cursor: Option<Url>,
    /// It has enumerated since something was accepted: what it does not name it may only have left out.
    enumerated: bool,
    /// What was accepted last; what answers are compared with.
    in_force: DeviceRegistry,
    /// Something was accepted, in this run or in an earlier one.
    loaded: bool,
    /// What was said last is not in force: it waits for approval, since then.
    held: Option<(Difference, Timestamp)>,
    round: Round,
    /// The directory lets readers wait for a change.
    waits: bool,
    confirmed: Confirmed,
    saved: Option<Instant>,
    /// When what is in force is to be written to disk.
    save_at: Option<Instant>,
    failures: u32,
    /// Operators who wait for the round, and for the one after it.
    waiting: Vec<Reply>,
    waiting_next: Vec<Reply>,
}

impl Sync {
    /// Sets up the sync.  Nothing happens until [`Sync::run`].
    pub(in crate::sync) fn new(
        config: Config,
        client: Arc<Client>,
        metrics: Metrics,
        updates: mpsc::Sender<Update>,
        clock: Clock,
    ) -> (Handle, Self) {
        let mut start = below(&config.base, COLLECTION);
        start.set_query(Some(QUERY));
        let (sender, commands) = mpsc::channel(8);
        let status = Status { url: start.to_string(), ..Status::default() };
        let handle = Handle { commands: sender, status: Arc::new(Mutex::new(status)) };
        let sync = Self {
            confirmed: Confirmed::new(&config),
            config,
            client,
            metrics,
            updates,
            clock,
            commands,
            handle: handle.clone(),
            round: Round::new(true, start.clone(), DeviceRegistry::default()),
            start,
            told: DeviceRegistry::default(),
            cursor: None,
            enumerated: false,
            in_force: DeviceRegistry::default(),
            loaded: false,
            held: None,
            waits: false,
            saved: None,
            save_at: None,
            failures: 0,
            waiting: Vec::new(),
            waiting_next: Vec::new(),
        };
        (handle, sync)
    }

    /// Sends what the disk has, then follows the directory until the publisher is gone.
    pub(in crate::sync) async fn run(mut self) {
        let Err(Ended) = self.follow().await;
    }

    async fn follow(&mut self) -> Result<Infallible, Ended> {
        self.load().await?;
        let mut next = Instant::now();
        loop {
            let too_old = self.confirmed.expires_at().filter(|_| !self.handle.lock().too_old);
            let save_at = self.save_at;
            let (client, url, wait) =
                (Arc::clone(&self.client), self.round.url.clone(), self.wait());
            tokio::select! {
                // In this order: what is too old is not in force while the directory is asked.
                biased;
                () = sleep_until(too_old.unwrap_or(next)), if too_old.is_some() => {
                    self.expire().await?;
                }
                () = sleep_until(save_at.unwrap_or(next)), if save_at.is_some() => self.save().await,
                command = self.commands.recv() => match command {
                    Some(Command::Sync(reply)) => {
                        // A round that began before may miss what the operator asks for.
                        let begun = self.round.pages > 0;
                        if begun { &mut self.waiting_next } else { &mut self.waiting }.push(reply);
                        next = Instant::now();
                    }
                    Some(Command::Approve(reply)) => {
                        let answer = self.approve().await?;
                        let _ = reply.send(answer);
                    }
                    // The loop holds a sender itself.
                    None => {}
                },
                // Dropped by any of the above, and asked for again: a page changes nothing before it is here.
                page = async { sleep_until(next).await; client.page(&url, wait).await } => {
                    let now = (self.clock)();
                    let pause = self.take(page, now).await?;
                    next = Instant::now() + pause;
                    let again = now.after(pause).to_string();
                    self.show(|status| {
                        status.last_poll = Some(now.to_string());
                        status.next_poll = Some(again);
                    });
                }
            }
        }
    }

    /// How long the directory may wait for a change: only where it is asked for changes, and nobody
    /// waits for it.
    fn wait(&self) -> Option<Duration> {
        let changes = !self.round.whole && self.round.pages == 0;
        let wait = self.config.wait.filter(|_| changes)?;
        Some(if self.waiting.is_empty() { wait } else { Duration::ZERO })
    }

    /// Sends the registry of an earlier run.
    async fn load(&mut self) -> Result<(), Ended> {
        let Some(path) = self.config.devices_file.clone() else { return Ok(()) };
        let source = Arc::clone(&self.config.source);
        match state::load(path, self.start.clone(), self.config.max_devices).await {
            Ok(None) => info!(%source, "no devices of an earlier run: waiting for the directory"),
            Err(why) => error!(%source, "the devices of the last run cannot be used: {why}"),
            Ok(Some(last)) => {
                if let Some(why) = &last.fell_back {
                    error!(%source, "the newest devices on disk are not usable, older ones are: {why}");
                }
                let now = (self.clock)();
                let age = now.since(last.at);
                info!(%source, "{} devices of the last run, {age:?} old", last.registry.counts().devices);
                let usable = self.confirmed.restore(last.at, now);
                self.in_force = last.registry.clone();
                self.told = last.registry;
                self.cursor = self.client.same_origin(&last.cursor).ok();
                self.loaded = true;
                self.begin();
                self.show(|status| status.from_disk = true);
                if usable {
                    self.send(Registry::InForce(self.in_force.clone())).await?;
                } else {
                    self.expire().await?;
                }
            }
        }
        Ok(())
    }

    /// A new round, from where the last whole one ended.
    fn begin(&mut self) {
        self.round = match &self.cursor {
            Some(cursor) => Round::new(false, cursor.clone(), self.told.clone()),
            None => Round::new(true, self.start.clone(), DeviceRegistry::default()),
        };
    }

    /// Takes the answer for a page, and tells how long to pause.
    async fn take(
        &mut self,
        answer: Result<(Vec<u8>, bool), FetchError>,
        now: Timestamp,
    ) -> Result<Duration, Ended> {
        let taken = match answer {
            Ok((body, waits)) => {
                if self.round.pages == 0 {
                    // An enumeration has nothing to wait for: what it ends with may.
                    self.waits = waits || self.round.whole;
                }
                let prefix = self.config.prefix_ids.then(|| Arc::clone(&self.config.source));
                let page = (body, prefix, self.config.max_devices);
                self.round.read(&self.client, page, self.in_force.clone()).await
            }
            Err(error) => Err(error),
        };
        match taken {
            Ok(None) => {
                let pages = self.round.pages;
                self.show(|status| status.pages = pages);
                Ok(Duration::ZERO)
            }
            Ok(Some((cursor, difference))) => self.finish(cursor, difference, now).await,
            Err(error) => Ok(self.fail(&error)),
        }
    }

    /// The round is whole.
    async fn finish(
        &mut self,
        cursor: Url,
        difference: Difference,
        now: Timestamp,
    ) -> Result<Duration, Ended> {
        let others = self.round.others;
        self.enumerated |= self.round.whole;
        self.told = self.round.registry.clone();
        self.cursor = Some(cursor);
        self.begin();
        self.failures = 0;
        self.show(|status| {
            status.skipped = others;
            status.last_error = None;
            status.failures = 0;
            status.pages = 0;
        });
        let pause = if self.holds_back(&difference) {
            self.hold(difference, now);
            interval(self.config.every)
        } else {
            self.accept(&difference, now).await?;
            let waiting = self.waits && self.config.wait.is_some();
            if waiting { GAP } else { interval(self.config.every) }
        };
        self.answer(&Ok(difference));
        Ok(if self.waiting.is_empty() { pause } else { Duration::ZERO })
    }

    /// Tells those who wait for this round; the next one is for those who came later.
    fn answer(&mut self, answer: &Answer) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(answer.clone());
        }
        self.waiting = std::mem::take(&mut self.waiting_next);
    }

    /// True for an answer that removes too much to be believed: more than the configured part, or every
    /// device, where it is only that an enumeration does not name them.
    fn holds_back(&self, difference: &Difference) -> bool {
        let Difference { before, removed, .. } = *difference;
        // Counts of devices are far below 2^52.
        let too_many = removed as f64 > self.config.max_removal * before as f64;
        let suspicious = if removed > REMOVED_FREELY {
            too_many || removed == before
        } else {
            removed > 0 && removed == before && self.enumerated
        };
        self.loaded && suspicious && self.config.guard
    }

    fn hold(&mut self, difference: Difference, now: Timestamp) {
        let source = &self.config.source;
        error!(
            %source,
            "held back: the directory's answer removes too many devices ({difference}); those in force \
             stay until the answer is approved"
        );
        self.metrics.polled(source, "held_back");
        let since = self.held.map_or(now, |(_, since)| since);
        self.held = Some((difference, since));
        let held_back = HeldBack { since: since.to_string(), changes: difference };
        self.show(|status| status.held_back = Some(held_back));
    }

    fn audit(&self, outcome: Outcome, action: &str, difference: &Difference) {
        Record {
            action: Some(action),
            detail: Some(&difference.to_string()),
            object_type: Some("device"),
            source: Some(&self.config.source),
            ..Record::new(Event::Trust, outcome)
        }
        .emit();
    }

    async fn approve(&mut self) -> Result<Answer, Ended> {
        let Some((difference, _)) = self.held else { return Ok(Err(HandleError::NothingHeld)) };
        self.audit(Outcome::Approved, "approve", &difference);
        self.accept(&difference, (self.clock)()).await?;
        Ok(Ok(difference))
    }

    /// Puts in force what the directory said last.
    async fn accept(&mut self, difference: &Difference, now: Timestamp) -> Result<(), Ended> {
        let source = &self.config.source;
        // Twins come and go without a difference to the judge; they are kept, to be told.
        let news = !self.loaded || !self.in_force.is_same(&self.told);
        let changed = !self.loaded || !difference.is_empty();
        self.metrics.polled(source, if changed { "changed" } else { "unchanged" });
        if changed {
            self.audit(Outcome::Changed, "change", difference);
            let change = Some((now.to_string(), *difference));
            self.show(|status| status.last_change = change);
        }
        let twins = self.told.counts().twins;
        if twins > self.in_force.counts().twins {
            warn!(
                %source,
                "{twins} devices have an externalDeviceId that another object has too: where one of \
                 them is disabled, that one decides"
            );
        }
        let first = !std::mem::replace(&mut self.loaded, true);
        self.held = None;
        self.enumerated = false;
        self.in_force = self.told.clone();
        self.confirmed.confirm(now);
        if self.confirmed.put_back() || news {
            self.send(Registry::InForce(self.in_force.clone())).await?;
        }
        self.show(|status| {
            status.last_success = Some(now.to_string());
            status.from_disk = false;
            status.too_old = false;
            status.held_back = None;
        });
        let pause = if news { self.save_pause() } else { SAVE_EVERY };
        let due = match self.saved {
            Some(saved) if !first => saved + pause,
            _ => Instant::now(),
        };
        self.save_at = Some(self.save_at.map_or(due, |at| at.min(due)));
        Ok(())
    }

    fn save_pause(&self) -> Duration {
        let (pause, devices) = SAVE_CHANGES;
        let times = u32::try_from(self.in_force.counts().devices / devices).unwrap_or(u32::MAX);
        pause.saturating_mul(times.saturating_add(1)).min(SAVE_CHANGES_WITHIN)
    }

    async fn save(&mut self) {
        self.save_at = None;
        // What is held back is not kept: after a start the directory is asked for it again.
        let (Some(path), Some(cursor), None) =
            (&self.config.devices_file, &self.cursor, &self.held)
        else {
            return;
        };
        let Some(at) = self.confirmed.at() else { return };
        let saved = state::save(path, &self.start, cursor, self.in_force.clone(), at).await;
        self.saved = Some(Instant::now());
        if let Err(why) = saved {
            let source = &self.config.source;
            error!(%source, "the devices are in force, but were not written to disk: {why}");
        }
    }

    fn fail(&mut self, error: &FetchError) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.round.failures += 1;
        let pause = pause_after(self.failures, self.config.every, error.retry_after());
        let (source, failures, why) = (&self.config.source, self.failures, error.to_string());
        let restart = self.round.is_forgotten(error, &self.start);
        let hopeless = self.round.is_hopeless(error);
        let again = match (restart, hopeless) {
            (true, _) => "all devices are asked for",
            (_, true) => "the answer is given up, and asked for",
            _ => "it goes on where it failed",
        };
        warn!(%source, failures, "devices: {why}; those in force stay; {again} again in {pause:?}");
        self.metrics.polled(source, if restart { "restarted" } else { "failed" });
        if restart {
            self.cursor = None;
        }
        if restart || hopeless {
            self.begin();
        }
        let pages = self.round.pages;
        self.show(|status| {
            status.last_error = Some(why.clone());
            status.failures = failures;
            status.pages = pages;
        });
        if !restart {
            self.answer(&Err(HandleError::Failed(why)));
        }
        pause
    }

    async fn expire(&mut self) -> Result<(), Ended> {
        let (source, age) = (&self.config.source, self.config.max_age);
        let Expiry { policy, withdraws } = self.confirmed.expire();
        error!(%source, "the directory's devices were not confirmed for {age:?}: they are {policy}");
        self.show(|status| status.too_old = true);
        if withdraws {
            let why = format!("the directory did not confirm it for {age:?}");
            self.send(Registry::Withdrawn(why.into())).await?;
        }
        Ok(())
    }

    async fn send(&self, registry: Registry) -> Result<(), Ended> {
        let source = Arc::clone(&self.config.source);
        self.updates.send(Update::Devices { source, registry }).await.map_err(|_| Ended)
    }

    /// Changes the status and brings the rest of what is shown in line with it.
    fn show(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.handle.lock();
        change(&mut status);
        let counts = self.in_force.counts();
        status.loaded = self.loaded;
        status.known = counts.devices;
        status.enabled = counts.devices - counts.disabled;
        status.disabled = counts.disabled;
        status.duplicates = counts.twins;
        let last_success = self.confirmed.at();
        self.metrics.show(&self.config.source, &status, last_success);
    }
}
