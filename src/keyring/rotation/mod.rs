//! Rotation of the signing keys in a directory that replicas share.
//!
//! Every replica reads the directory once a second and follows the same schedule
//! ([`Rotation::plan`]).  Each of them creates the next key when it is due; the first one wins.  A
//! replica that cannot write to the directory follows the others.

use std::collections::BTreeSet;
use std::fs;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::keyring::key_directory::{DatedKey, KeyDirectory, KeyId, Keys};
use crate::keyring::other_algorithm::{PreviousKey, algorithm_of, previous_keys};
use crate::keyring::{Change, Config, KeyringError, read_secret};
use crate::runtime::clock::Clock;
use crate::runtime::health::Ready;
use crate::runtime::restarts::Restarts;
use crate::token::keys::{Algorithm, KeyError, SigningKeys};
use crate::token::rotation::{Plan, Rotation};
use crate::x509::time::Timestamp;

/// Interval between two readings of the directory.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time until every replica publishes a new key, or no longer publishes a revoked one.
pub const SPREAD: Duration = Duration::from_secs(5);
/// Part that a warning is about.
const PART: &str = "signing_key_rotation";

/// Settings of the rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationConfig {
    /// The schedule.
    pub schedule: Rotation,
    /// Directory of the keys.
    pub directory: PathBuf,
    /// Algorithms of clients, besides the one of all clients.
    pub further: BTreeSet<Algorithm>,
}

/// A signing key, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatus {
    /// Key ID, as tokens and the key set contain it.
    pub kid: String,
    /// Signature algorithm.
    pub algorithm: &'static str,
    /// `next`, `signs` or `previous`.
    pub state: &'static str,
    /// Time at which it begins or began to sign.
    pub signs_from: String,
    /// Time after which it is no longer published; absent if no later key exists.
    pub published_until: Option<String>,
}

/// Error of an action on the rotating keys.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The keys do not rotate.
    #[error(
        "the signing keys do not rotate: set `oauth.rotation`, or replace the files of \
         `oauth.signing_key` and `oauth.published_keys`"
    )]
    Off,
    /// The key is not published.
    #[error("no signing key has the ID `{0}`; `anchorgate keys list` shows all")]
    Unknown(String),
    /// A rotation is in progress.
    #[error("the key `{kid}` is already published and signs from {signs_from}")]
    Announced {
        /// ID of the next key.
        kid: String,
        /// Time at which it begins to sign.
        signs_from: Timestamp,
    },
    /// The directory cannot be read or written.
    #[error(transparent)]
    Directory(#[from] KeyringError),
    /// The gateway stops.
    #[error("the gateway is stopping")]
    Stopping,
}

enum Command {
    /// Create the next key of every algorithm now.
    Rotate,
    /// Revoke the key with this ID.
    Revoke(String),
    /// Follow other settings.
    Use(RotationConfig),
}

type Reply = oneshot::Sender<Result<(), RotationError>>;

/// Controls a running [`Rotator`].
#[derive(Clone, Default)]
pub struct Handle(Option<Inner>);

#[derive(Clone)]
struct Inner {
    commands: mpsc::Sender<(Command, Reply)>,
    status: watch::Receiver<Vec<KeyStatus>>,
}

impl Handle {
    /// Returns the keys; `None` if they do not rotate.
    pub fn keys(&self) -> Option<Vec<KeyStatus>> {
        self.0.as_ref().map(|inner| inner.status.borrow().clone())
    }

    /// Creates the next key of every algorithm, which signs after `publish_ahead`.
    ///
    /// # Errors
    /// The keys do not rotate, the next key exists already, or the directory is not writable.
    pub async fn rotate(&self) -> Result<Vec<KeyStatus>, RotationError> {
        self.send(Command::Rotate).await
    }

    /// Stops using and publishing a key at once, on every replica within [`SPREAD`].
    ///
    /// # Errors
    /// The keys do not rotate, no key has the ID, or the directory is not writable.
    pub async fn revoke(&self, kid: &str) -> Result<Vec<KeyStatus>, RotationError> {
        self.send(Command::Revoke(kid.to_owned())).await
    }

    /// Follows other settings.  Keys of further algorithms exist when this returns.
    ///
    /// # Errors
    /// As [`Handle::rotate`].
    pub async fn follow(&self, config: RotationConfig) -> Result<Vec<KeyStatus>, RotationError> {
        self.send(Command::Use(config)).await
    }

    async fn send(&self, command: Command) -> Result<Vec<KeyStatus>, RotationError> {
        let inner = self.0.as_ref().ok_or(RotationError::Off)?;
        let (reply, result) = oneshot::channel();
        let sent = inner.commands.send((command, reply)).await;
        sent.map_err(|_| RotationError::Stopping)?;
        result.await.map_err(|_| RotationError::Stopping)??;
        Ok(inner.status.borrow().clone())
    }
}

/// Checks that the directory of the keys exists or can be created, and that its files are usable.
///
/// # Errors
/// The first file that is not usable.
pub fn check_directory(config: &Config) -> Result<(), KeyringError> {
    let Some(rotation) = &config.rotation else { return Ok(()) };
    let directory = directory(config, rotation);
    if !directory.path.exists() {
        return Ok(());
    }
    let keys = directory.read(&Keys::default())?;
    match keys.problems.into_iter().next() {
        Some(why) => Err(KeyringError::Contents { path: directory.path, why }),
        None => Ok(()),
    }
}

fn directory(config: &Config, rotation: &RotationConfig) -> KeyDirectory {
    KeyDirectory { path: rotation.directory.clone(), file_modes: config.file_modes }
}

/// Follows the schedule.
pub struct Rotator {
    state: Arc<Mutex<State>>,
    clock: Clock,
    ready: Ready,
    changes: mpsc::Sender<Change>,
    commands: mpsc::Receiver<(Command, Reply)>,
    status: watch::Sender<Vec<KeyStatus>>,
}

/// The part that blocks.
struct State {
    config: RotationConfig,
    directory: KeyDirectory,
    algorithm: Algorithm,
    keys: Keys,
    /// Keys that signed before the rotation was configured, and are published until their tokens expire.
    previous: Vec<PreviousKey>,
    /// The published key set, to detect a change.
    jwks: Option<Arc<str>>,
    /// IDs of the keys that sign, to detect a change.
    signing: Vec<String>,
}

impl Rotator {
    /// Reads the directory, and creates or imports the first key.  Returns the keys to begin with.
    ///
    /// # Errors
    /// The directory has no usable key and cannot be written.
    pub fn start(
        config: &Config,
        rotation: &RotationConfig,
        clock: Clock,
        ready: Ready,
        changes: mpsc::Sender<Change>,
    ) -> Result<(SigningKeys, Self, Handle), KeyringError> {
        let failed = |error| KeyringError::Write { path: rotation.directory.clone(), error };
        fs::create_dir_all(&rotation.directory).map_err(failed)?;
        let mut state = State {
            config: rotation.clone(),
            directory: directory(config, rotation),
            algorithm: config.algorithm,
            keys: Keys::default(),
            previous: previous_keys(config, clock()),
            jwks: None,
            signing: Vec::new(),
        };
        state.import_first(config, clock())?;
        let keys = state.step(clock())?;
        if let Some(why) = state.keys.problems.first() {
            warn!(%why, "signing key not used");
        }
        let keys = match keys {
            Some(keys) => keys,
            None => state.signing_keys(clock())?,
        };
        let (status, watched) = watch::channel(state.status(clock()));
        let state = Arc::new(Mutex::new(state));
        let (sender, commands) = mpsc::channel(4);
        let rotator = Self { state, clock, ready, changes, commands, status };
        Ok((keys, rotator, Handle(Some(Inner { commands: sender, status: watched }))))
    }

    /// Follows the schedule until the handle and the receiver of changes are dropped.  After a panic it
    /// starts again: each step reads the directory.
    pub async fn run(mut self) {
        let mut restarts = Restarts::new("signing_key_task", &self.ready);
        while !restarts.ended(self.follow()).await {}
    }

    async fn follow(&mut self) {
        loop {
            let command = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => Some(command),
                    None => return,
                },
                () = tokio::time::sleep(INTERVAL) => None,
            };
            let (command, reply) = command.unzip();
            let now = (self.clock)();
            // The directory may be on a network.
            let state = Arc::clone(&self.state);
            let work = spawn_blocking(move || {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let done = command.map(|command| state.perform(command, now));
                let stepped = state.step(now);
                (done, stepped, state.keys.problems.first().cloned(), state.status(now))
            });
            let (done, stepped, problem, new) = match work.await {
                Ok(worked) => worked,
                Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
                // The runtime is shutting down.
                Err(_) => return,
            };
            self.report(stepped.as_ref().err().map(ToString::to_string).or(problem));
            self.status.send_if_modified(|status| std::mem::replace(status, new.clone()) != new);
            let stepped = match stepped {
                Ok(Some(keys)) => {
                    info!(kid = keys.current().kid(), "signing keys changed");
                    let change = Change::SigningKeys(Arc::new(keys));
                    if self.changes.send(change).await.is_err() {
                        return;
                    }
                    Ok(())
                }
                Ok(None) => Ok(()),
                Err(error) => Err(error.into()),
            };
            if let (Some(reply), Some(done)) = (reply, done) {
                let _ = reply.send(done.and(stepped));
            }
        }
    }

    /// Sets or clears the warning, and logs a new one.
    fn report(&self, problem: Option<String>) {
        let warning = problem.map(|why| format!("{why}; the earlier signing keys stay in use"));
        if warning.as_ref() != self.ready.warnings().get(PART) {
            if let Some(warning) = &warning {
                error!("signing keys not rotated: {warning}");
            }
            self.ready.warn(PART, warning);
        }
    }
}

impl State {
    /// Uses the key that signed before the rotation was configured as the first one of its algorithm, which
    /// may be another one than the configured one.
    fn import_first(&mut self, config: &Config, now: Timestamp) -> Result<(), KeyringError> {
        let (path, present) = (&config.signing_key, self.directory.read(&Keys::default())?);
        if !present.is_unused(self.algorithm) || !path.exists() {
            return Ok(());
        }
        let contents = |why: String| KeyringError::Contents { path: path.clone(), why };
        let pem = read_secret(path, config.file_modes)?;
        let algorithm = algorithm_of(path, &pem, self.algorithm)
            .ok_or_else(|| contents("the file contains no usable signing key".to_owned()))?;
        if !present.is_unused(algorithm) {
            return Ok(());
        }
        let pem = std::str::from_utf8(&pem).map_err(|error| contents(error.to_string()))?;
        self.directory.import(algorithm, pem, now)
    }

    fn algorithms(&self) -> BTreeSet<Algorithm> {
        let all = self.config.further.iter().copied();
        all.chain(std::iter::once(self.algorithm)).collect()
    }

    fn perform(&mut self, command: Command, now: Timestamp) -> Result<(), RotationError> {
        match command {
            Command::Rotate => self.rotate(now),
            Command::Revoke(kid) => self.revoke(&kid, now),
            Command::Use(config) => {
                self.config = config;
                Ok(())
            }
        }
    }

    fn rotate(&mut self, now: Timestamp) -> Result<(), RotationError> {
        self.keys = self.directory.read(&self.keys)?;
        let is_next = |key: &&DatedKey| key.signs_from > now;
        if let Some(next) = self.keys.keys.values().find(is_next) {
            let (kid, signs_from) = (next.key.kid().to_owned(), next.signs_from);
            return Err(RotationError::Announced { kid, signs_from });
        }
        let signs_from = now.after(self.config.schedule.publish_ahead());
        for algorithm in self.algorithms() {
            self.directory.create(&self.keys, algorithm, signs_from)?;
        }
        Ok(())
    }

    fn revoke(&mut self, kid: &str, now: Timestamp) -> Result<(), RotationError> {
        let found = self.keys.keys.iter().find(|(_, key)| key.key.kid() == kid);
        let (id, _) = found.ok_or_else(|| RotationError::Unknown(kid.to_owned()))?;
        let id = *id;
        self.directory.revoke(id, kid, now)?;
        Ok(())
    }

    /// Reads the directory and does what the schedule requires.  Returns the keys if they changed.
    fn step(&mut self, now: Timestamp) -> Result<Option<SigningKeys>, KeyringError> {
        self.keys = self.directory.read(&self.keys)?;
        if self.keys.is_everything_lost() && !self.keys.keys.is_empty() {
            // The directory is another mount, or is not mounted: nothing is written to it.
            let why = format!("{}: all key files are gone", self.directory.path.display());
            self.keys.problems.push(why);
        } else {
            self.create_due(now)?;
            self.remove_retired(now);
            self.restore_lost();
        }
        let keys = self.signing_keys(now)?;
        let mut signing = vec![keys.current().kid().to_owned()];
        let further = self.config.further.iter();
        signing.extend(further.filter_map(|a| Some(keys.of(Some(*a)).ok()?.kid().to_owned())));
        let is_same = self.jwks.as_ref() == Some(keys.jwks()) && self.signing == signing;
        self.jwks = Some(Arc::clone(keys.jwks()));
        self.signing = signing;
        Ok((!is_same).then_some(keys))
    }

    fn create_due(&mut self, now: Timestamp) -> Result<(), KeyringError> {
        for algorithm in self.algorithms() {
            let Some(signs_from) = self.plan(algorithm, now).create else { continue };
            match self.directory.create(&self.keys, algorithm, signs_from) {
                Ok(()) => self.keys = self.directory.read(&self.keys)?,
                Err(error) => self.keys.problems.push(error.to_string()),
            }
        }
        Ok(())
    }

    /// Removes keys whose tokens have expired, of every algorithm, in use or not.
    fn remove_retired(&mut self, now: Timestamp) {
        for algorithm in Algorithm::ALL {
            for number in self.plan(algorithm, now).retired {
                let id = KeyId { algorithm, number };
                // Another replica may have deleted the file, or will.
                if let Err(error) = self.directory.remove(id) {
                    self.keys.problems.push(error.to_string());
                }
                self.keys.keys.remove(&id);
                self.keys.lost.remove(&id);
            }
        }
    }

    /// Writes lost files back.
    fn restore_lost(&mut self) {
        for id in std::mem::take(&mut self.keys.lost) {
            let Some(key) = self.keys.keys.get(&id) else { continue };
            match self.directory.restore(id, key) {
                Ok(()) => error!(file = %id, "signing key file was lost; it is written back"),
                Err(error) => self.keys.problems.push(error.to_string()),
            }
        }
    }

    fn plan(&self, algorithm: Algorithm, now: Timestamp) -> Plan {
        self.config.schedule.plan(&self.keys.times(algorithm), now)
    }

    /// The keys that sign, and all others.
    fn signing_keys(&self, now: Timestamp) -> Result<SigningKeys, KeyringError> {
        let signs = |algorithm| {
            let number = self.plan(algorithm, now).signs?;
            let key = self.keys.keys.get(&KeyId { algorithm, number })?;
            Some(Arc::clone(&key.key))
        };
        let current = signs(self.algorithm).ok_or_else(|| KeyringError::Contents {
            path: self.directory.path.clone(),
            why: match self.keys.problems.first() {
                Some(why) => why.clone(),
                None => format!("no key for {} can be read", self.algorithm.as_str()),
            },
        })?;
        let further = self.config.further.iter().filter(|a| **a != self.algorithm);
        let further: Vec<_> = further.filter_map(|algorithm| signs(*algorithm)).collect();
        let signing = |kid: &str| current.kid() == kid || further.iter().any(|k| k.kid() == kid);
        let all = self.keys.keys.values().map(|key| Arc::clone(&key.key));
        let mut others: Vec<_> = all.filter(|key| !signing(key.kid())).collect();
        for PreviousKey { key, .. } in self.previous.iter().filter(|old| now < old.until) {
            if !signing(key.kid()) && others.iter().all(|other| other.kid() != key.kid()) {
                others.push(Arc::clone(key));
            }
        }
        SigningKeys::with_further(Arc::clone(&current), further.clone(), &others)
            .map_err(|error: KeyError| error.into())
    }

    fn status(&self, now: Timestamp) -> Vec<KeyStatus> {
        let mut all = Vec::new();
        for (id, dated) in &self.keys.keys {
            let times = self.keys.times(id.algorithm);
            let plan = self.config.schedule.plan(&times, now);
            let next = times.iter().find(|time| time.number > id.number);
            let signs = plan.signs.unwrap_or(0);
            all.push(KeyStatus {
                kid: dated.key.kid().to_owned(),
                algorithm: id.algorithm.as_str(),
                state: match id.number.cmp(&signs) {
                    std::cmp::Ordering::Less => "previous",
                    std::cmp::Ordering::Equal => "signs",
                    std::cmp::Ordering::Greater => "next",
                },
                // After the revocation of another key, a key signs before its time.
                signs_from: match id.number == signs {
                    true => dated.signs_from.min(now).to_string(),
                    false => dated.signs_from.to_string(),
                },
                published_until: next
                    .map(|next| self.config.schedule.published_until(*next).to_string()),
            });
        }
        all
    }
}

#[cfg(test)]
mod tests;
