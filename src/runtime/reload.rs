//! Requests for a new configuration while the process runs, and what became of them.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

/// A key whose value differs between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyChange {
    /// The key, dotted from the top; items of an array by their name: `client[meter].scopes`.
    pub key: String,
    /// Earlier value; `None` if it was absent.
    pub before: Option<String>,
    /// Later value; `None` if it is absent.
    pub after: Option<String>,
    /// True if the change needs a restart.
    pub needs_restart: bool,
}

/// Result of comparing or applying a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The keys that differ from the configuration in force.
    pub changes: Vec<KeyChange>,
}

/// State of the configuration, for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The configuration file.
    pub file: String,
    /// Time at which the configuration in force was read.
    pub loaded: String,
    /// Problem of the newest file, if it is not in force.
    pub last_error: Option<String>,
    /// Keys whose new value needs a restart.
    pub restart_needed: Vec<String>,
}

/// The text of another configuration file.
#[derive(Debug)]
pub struct OtherFile {
    /// Name of the file, for messages.
    pub name: String,
    /// Its text.
    pub toml: String,
}

/// A request to the task that reloads.
#[derive(Debug)]
pub enum Request {
    /// Read the file again and apply what needs no restart.
    Reload,
    /// Compare the file, or another text in its place, with the configuration in force.
    Compare(Option<OtherFile>),
}

/// Receives the result of a request.
pub type Reply = oneshot::Sender<Result<Report, Rejected>>;

/// A request was not carried out; the text has the reason, and the configuration in force is as
/// before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub Arc<str>);

/// Reaches the task that reloads.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: mpsc::Sender<(Request, Reply)>,
    status: watch::Receiver<Status>,
}

/// The receiving half of a [`Handle`].
#[derive(Debug)]
pub struct Inbox {
    /// Requests.
    pub requests: mpsc::Receiver<(Request, Reply)>,
    /// Publishes the state.
    pub status: watch::Sender<Status>,
}

impl Handle {
    /// Creates a handle and its inbox.
    pub fn new(status: Status) -> (Self, Inbox) {
        let (sender, requests) = mpsc::channel(64);
        let (publisher, watched) = watch::channel(status);
        let inbox = Inbox { requests, status: publisher };
        (Self { requests: sender, status: watched }, inbox)
    }

    /// Returns the state of the configuration.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Sends a request and waits for its result.
    ///
    /// # Errors
    /// The configuration has problems, or the process stops.
    pub async fn send(&self, request: Request) -> Result<Report, Rejected> {
        let stopping = || Rejected("the gateway is stopping".into());
        let (reply, result) = oneshot::channel();
        self.requests.send((request, reply)).await.map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())?
    }
}
