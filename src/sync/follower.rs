//! The loop that follows one kind of data of one directory.
//!
//! It polls, retries after failures, holds back suspicious changes, saves and publishes.  The data is
//! fetched, compared and saved by a [`Payload`].

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info, warn};

use crate::graph::client::FetchError;
use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::clock::Clock;
use crate::runtime::text::Cleaned;
use crate::sync::config::{Config, StartWithout};
use crate::sync::freshness::{Expiry, Freshness};
use crate::sync::handle::{Command, Handle, HandleError, Reply};
use crate::sync::pauses::{LONG_POLL_PAUSE, poll_pause, retry_pause};
use crate::sync::payload::{Accepted, Payload, Progress, Recovery};
use crate::sync::status::{HeldBack, Status};
use crate::trust::assembly::Update;
use crate::x509::time::Timestamp;

/// Interval at which unchanged data is saved again, to keep the time of its confirmation.
const SAVE_UNCHANGED: Duration = Duration::from_secs(600);
/// Pause before saving is retried.
const SAVE_RETRY: Duration = Duration::from_secs(60);

/// The publisher has stopped, so the follower stops.
pub(super) struct Stopped;

/// The parts that the followers of one directory share.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) clock: Clock,
}

/// Status of the follower of `P`.
type StatusOf<P> = Status<<P as Payload>::Changes, <P as Payload>::Content>;
/// Handle of the follower of `P`.
type HandleOf<P> = Handle<<P as Payload>::Changes, <P as Payload>::Content>;

/// Follows one kind of data of one directory.
pub(super) struct Follower<P: Payload> {
    /// Name of the follower.
    source: Arc<str>,
    context: Context,
    payload: P,
    commands: mpsc::Receiver<Command<P::Changes>>,
    status: watch::Sender<StatusOf<P>>,

    /// Data was accepted, in this run or in an earlier one.
    loaded: bool,
    /// The candidate waits for approval since this time.
    held: Option<(P::Changes, Timestamp)>,
    freshness: Freshness,
    /// Arrival of the response that is applied.
    arrived: Option<std::time::Instant>,
    failures: u32,
    saved: Option<Instant>,
    /// Instant at which the data in force is due to be saved.
    save_at: Option<Instant>,
    /// The last save failed, and `save_at` is the time of the next attempt.
    save_failed: bool,
    /// Operators who wait for the current candidate, and for the next one.
    waiting: Vec<Reply<P::Changes>>,
    waiting_next: Vec<Reply<P::Changes>>,
}

impl<P: Payload> Follower<P> {
    /// Sets up a follower.  It does nothing until [`Follower::run`].
    pub(super) fn new(source: Arc<str>, context: Context, payload: P) -> (HandleOf<P>, Self) {
        let (sender, commands) = mpsc::channel(8);
        let status = Status { url: payload.url().to_string(), ..Status::default() };
        let (status, receiver) = watch::channel(status);
        let follower = Self {
            source,
            freshness: Freshness::new(&context.config),
            context,
            payload,
            commands,
            status,
            loaded: false,
            held: None,
            arrived: None,
            failures: 0,
            saved: None,
            save_at: None,
            save_failed: false,
            waiting: Vec::new(),
            waiting_next: Vec::new(),
        };
        follower.show(|_| {});
        (Handle { commands: sender, status: receiver }, follower)
    }

    /// Publishes the saved data, then follows the directory until the publisher stops.  The future can
    /// be dropped at any time: no state needs an orderly end.
    ///
    /// A panic ends one attempt, not the process: the follower starts again after a pause, and the data in
    /// force stays.
    pub(super) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let attempt = AssertUnwindSafe(self.follow()).catch_unwind().await;
            let Err(_) = attempt else { return };
            failures = failures.saturating_add(1);
            let pause = retry_pause(failures, self.context.config.every, None);
            let (source, noun) = (&self.source, P::NOUN);
            error!(%source, retry_in = ?pause, "follower of {noun} panicked, what is in force stays");
            self.payload.metrics().count_poll(source, "panicked");
            self.show(|status| status.last_error = Some("the follower panicked".to_owned()));
            sleep(pause).await;
        }
    }

    async fn follow(&mut self) -> Result<Infallible, Stopped> {
        if self.loaded {
            self.resume().await?;
        } else {
            self.load().await?;
        }
        let mut next = Instant::now();
        loop {
            let is_too_old = self.status.borrow().too_old;
            let expires_at = self.freshness.expires_at().filter(|_| !is_too_old);
            if self.save_failed && self.save_at.is_some_and(|at| at <= Instant::now()) {
                self.save().await;
            }
            // Another attempt to save does not interrupt a fetch: one that takes longer than the pause
            // between attempts would never end while the disk is full.
            let save_at = self.save_at.filter(|at| !self.save_failed || *at < next);
            self.payload.renew(self.context.config.full_every, (self.context.clock)());
            let refresh = !self.waiting.is_empty();
            // An operator waits for the current state, not for a change.
            let wait =
                self.context.config.wait.map(|wait| if refresh { Duration::ZERO } else { wait });
            let payload = &self.payload;
            tokio::select! {
                // In this order: outdated data is withdrawn before another fetch.
                biased;
                () = sleep_until(expires_at.unwrap_or(next)), if expires_at.is_some() => {
                    self.expire().await?;
                }
                () = sleep_until(save_at.unwrap_or(next)), if save_at.is_some() => self.save().await,
                Some(command) = self.commands.recv() => {
                    match command {
                        // A candidate whose fetch has begun may lack what the operator expects.
                        Command::Refresh(reply) if self.payload.is_midway() => {
                            self.waiting_next.push(reply);
                        }
                        Command::Refresh(reply) => self.waiting.push(reply),
                        Command::Approve(digest, reply) => {
                            let result = self.approve(&digest).await?;
                            let _ = reply.send(result);
                        }
                    }
                    next = Instant::now();
                }
                // Dropped by any of the above and started again: a response has no effect before.
                response = async { sleep_until(next).await; payload.fetch(wait, refresh).await } => {
                    let now = (self.context.clock)();
                    self.arrived = Some(std::time::Instant::now());
                    let (result, pause) = self.apply(response, now).await?;
                    self.arrived = None;
                    next = Instant::now() + pause;
                    self.show(|status| {
                        status.last_poll = Some(now.to_string());
                        status.next_poll = Some(now.after(pause).to_string());
                    });
                    if let Some(result) = result {
                        self.reply(&result);
                    }
                }
            }
        }
    }

    /// Publishes the data of an earlier run.
    async fn load(&mut self) -> Result<(), Stopped> {
        let (loaded, source, noun) = (self.payload.load().await, &self.source, P::NOUN);
        let saved = match loaded {
            Ok(Some(saved)) => saved,
            Ok(None) => {
                info!(%source, "no saved {noun}: waiting for the directory");
                return Ok(());
            }
            Err(why) => {
                error!(%source, "saved {noun} not usable: {why}");
                return Ok(());
            }
        };
        if let Some(why) = saved.fell_back {
            error!(%source, "newest saved {noun} not usable, the previous ones are read: {why}");
        }
        let now = (self.context.clock)();
        info!(%source, age = ?now.since(saved.at), "saved {noun} loaded: {}", saved.data);
        self.loaded = true;
        let usable = self.freshness.restore(saved.at, now);
        self.show(|status| status.from_disk = true);
        if let Some(why) = saved.may_readmit {
            // The previous version may have what the newest removed: anchors, devices, lists.
            let source = &self.source;
            if self.context.config.start_without == StartWithout::Refuse {
                error!(
                    %source,
                    "previous {noun} not used until the directory is reached (`start_without` is \
                     `refuse`), journal of removals not usable: {why}"
                );
                self.freshness.withdraw();
                return Ok(());
            }
            error!(
                %source,
                "previous {noun} used although they may contain what was removed (`start_without` is \
                 `continue`), journal of removals not usable: {why}"
            );
        }
        if usable { self.publish(self.payload.update()).await } else { self.expire().await }
    }

    /// Continues after a panic with the data in force, which may be newer than the saved data.
    async fn resume(&mut self) -> Result<(), Stopped> {
        // What the panic interrupted may be incomplete.
        (self.held, self.arrived) = (None, None);
        self.payload.restart();
        // Data in force may not have been published yet.
        let is_published = !self.freshness.is_withdrawn();
        if is_published { self.publish(self.payload.update()).await } else { Ok(()) }
    }

    /// Applies the result of a fetch.  Returns the result for the operators who wait, unless it is yet
    /// to come, and the pause before the next fetch.
    async fn apply(
        &mut self,
        response: Result<P::Response, FetchError>,
        now: Timestamp,
    ) -> Result<(Option<Result<P::Changes, HandleError>>, Duration), Stopped> {
        let progress = match response {
            Ok(response) => self.payload.read(response).await,
            Err(error) => Err(error),
        };
        let changes = match progress {
            Ok(Progress::Partial) => {
                self.show(|_| {});
                return Ok((None, Duration::ZERO));
            }
            Ok(Progress::Unchanged) => {
                self.payload.metrics().count_poll(&self.source, "unchanged");
                self.confirm(now, false, false).await?;
                P::Changes::default()
            }
            Ok(Progress::Complete(changes)) if self.holds_back(&changes) => {
                self.hold(&changes, now);
                changes
            }
            Ok(Progress::Complete(changes)) => {
                self.accept(&changes, now).await?;
                changes
            }
            Err(error) => {
                let (recovery, pause) = self.fail(&error);
                // A restart is part of the same refresh.
                let is_final = recovery != Recovery::Restart;
                return Ok((is_final.then(|| Err(HandleError::Failed(error.to_string()))), pause));
            }
        };
        let long_polls = self.context.config.wait.is_some() && self.payload.supports_wait();
        let pause = match () {
            () if !self.waiting_next.is_empty() => Duration::ZERO,
            () if long_polls && self.held.is_none() => LONG_POLL_PAUSE,
            () => poll_pause(self.context.config.every),
        };
        Ok((Some(Ok(changes)), pause))
    }

    /// Sends the result to the operators who wait for this candidate.
    fn reply(&mut self, result: &Result<P::Changes, HandleError>) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(result.clone());
        }
        self.waiting = std::mem::take(&mut self.waiting_next);
    }

    fn fail(&mut self, error: &FetchError) -> (Recovery, Duration) {
        self.failures = self.failures.saturating_add(1);
        if error.is_refusal() {
            // The credential may have been rotated.
            self.context.config.refused.notify_one();
        }
        let recovery = self.payload.recover(error);
        let pause = retry_pause(self.failures, self.context.config.every, error.retry_after());
        let (source, failures) = (&self.source, self.failures);
        warn!(
            %source,
            data = P::NOUN,
            failures,
            retry = recovery.as_str(),
            retry_in = ?pause,
            "poll failed, what is in force stays: {}",
            Cleaned(&error)
        );
        let result = if recovery == Recovery::Restart { "restarted" } else { "failed" };
        self.payload.metrics().count_poll(source, result);
        self.show(|status| {
            status.last_error = Some(error.to_string());
            status.failures = failures;
        });
        (recovery, pause)
    }

    fn holds_back(&self, changes: &P::Changes) -> bool {
        self.context.config.guard
            && self.payload.is_suspicious(changes, self.context.config.max_removal)
    }

    fn hold(&mut self, changes: &P::Changes, now: Timestamp) {
        let source = &self.source;
        error!(
            %source,
            "{} held back until an operator approves them: {changes}; what is in force stays",
            P::NOUN
        );
        self.payload.metrics().count_poll(source, "held_back");
        let since = match &self.held {
            Some((held, since)) if P::ACCUMULATES || held == changes => *since,
            _ => now,
        };
        self.failures = 0;
        self.held = Some((changes.clone(), since));
        let (digest, changes) = (self.payload.digest(), changes.clone());
        let held_back = HeldBack { since: since.to_string(), digest, changes };
        self.show(|status| {
            status.held_back = Some(held_back);
            status.last_error = None;
            status.failures = 0;
        });
    }

    async fn approve(&mut self, digest: &str) -> Result<Result<P::Changes, HandleError>, Stopped> {
        let Some((changes, _)) = self.held.clone() else {
            return Ok(Err(HandleError::NothingHeld));
        };
        let held = self.payload.digest();
        if held != digest {
            let approved = digest.to_owned();
            return Ok(Err(HandleError::OtherHeld { approved, held }));
        }
        self.payload.approved();
        self.audit(Outcome::Approved, "approve", &changes.to_string());
        self.accept(&changes, (self.context.clock)()).await?;
        Ok(Ok(changes))
    }

    /// Puts the candidate in force.
    async fn accept(&mut self, changes: &P::Changes, now: Timestamp) -> Result<(), Stopped> {
        let first = !std::mem::replace(&mut self.loaded, true);
        let Accepted { changed, publish } = self.payload.accept(changes, first);
        self.held = None;
        let result = if changed { "changed" } else { "unchanged" };
        self.payload.metrics().count_poll(&self.source, result);
        let lines = P::describe(changes);
        for line in &lines {
            self.audit(Outcome::Changed, "change", line);
        }
        if !lines.is_empty() {
            self.show(|status| status.last_change = Some((now.to_string(), changes.clone())));
        }
        self.confirm(now, publish, first).await
    }

    /// Notes that the data in force is that of the directory.
    async fn confirm(&mut self, now: Timestamp, publish: bool, first: bool) -> Result<(), Stopped> {
        self.failures = 0;
        self.freshness.confirm(now);
        if self.freshness.reinstate() || publish {
            self.publish(self.payload.update()).await?;
        }
        self.show(|status| {
            status.last_success = Some(now.to_string());
            status.last_error = None;
            status.failures = 0;
            status.from_disk = false;
            status.too_old = false;
            status.held_back = None;
        });
        let pause = if publish { self.payload.save_pause() } else { SAVE_UNCHANGED };
        let due = match self.saved {
            Some(saved) if !first => saved + pause,
            _ => Instant::now(),
        };
        let due = self.save_at.map_or(due, |at| at.min(due));
        self.save_at = Some(due);
        // A result that operators get is on disk, unless that would take long.
        if due <= Instant::now() {
            self.save().await;
        }
        Ok(())
    }

    /// Saves the data in force.
    async fn save(&mut self) {
        self.save_at = None;
        // The saved state must not claim that the held candidate was processed.
        let (None, Some(at)) = (&self.held, self.freshness.confirmed_at()) else { return };
        let result = self.payload.save(at).await;
        let now = Instant::now();
        self.saved = Some(now);
        self.save_failed = result.is_err();
        let unsaved = &self.context.config.unsaved;
        if let Err(why) = result {
            self.save_at = Some(now + SAVE_RETRY);
            unsaved.failed(&self.state_name(), &why);
            let (source, noun) = (&self.source, P::NOUN);
            error!(%source, "{noun} in force, but not written to disk: {why}");
        } else {
            unsaved.saved(&self.state_name());
        }
    }

    /// Name of the saved state.
    fn state_name(&self) -> String {
        format!("{} of `{}`", P::NOUN, self.source)
    }

    /// Applies the policy for data that the directory has not confirmed for too long.
    async fn expire(&mut self) -> Result<(), Stopped> {
        let (source, age) = (&self.source, self.context.config.max_age);
        let Expiry { effect, withdraw } = self.freshness.expire();
        error!(%source, "directory was not reached for {age:?}: its {} are {effect}", P::NOUN);
        self.show(|status| status.too_old = true);
        if withdraw { self.publish(self.payload.withdrawal(age)).await } else { Ok(()) }
    }

    async fn publish(&mut self, update: Update) -> Result<(), Stopped> {
        let arrived = self.arrived.unwrap_or_else(std::time::Instant::now);
        let place = self.context.updates.reserve().await.map_err(|_| Stopped)?;
        // Together, without a point at which this future can be dropped in between.
        self.payload.metrics().times.arrived(arrived);
        place.send(update);
        Ok(())
    }

    fn audit(&self, outcome: Outcome, action: &str, detail: &str) {
        Record {
            action: Some(action),
            detail: Some(detail),
            object_type: Some(self.payload.object_type()),
            source: Some(&self.source),
            ..Record::new(Event::Trust, outcome)
        }
        .emit();
    }

    /// Changes the status, and updates the rest of it and the metrics.
    fn show(&self, change: impl FnOnce(&mut StatusOf<P>)) {
        self.status.send_modify(|status| {
            change(status);
            status.loaded = self.loaded;
            status.content = self.payload.report();
        });
        let (status, source, metrics) =
            (self.status.borrow(), &self.source, self.payload.metrics());
        metrics.last_success.set(source, self.freshness.confirmed_at().map_or(0, |at| at.0));
        metrics.held_back.set(source, status.held_back.is_some().into());
        metrics.too_old.set(source, status.too_old.into());
    }
}

impl<P: Payload> Drop for Follower<P> {
    /// Data that is no longer followed is not in force.
    fn drop(&mut self) {
        self.context.config.unsaved.saved(&self.state_name());
    }
}
