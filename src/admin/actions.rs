//! Actions of operators: `POST` requests with a JSON object, or an empty body.

use std::path::PathBuf;

use futures_util::future::join_all;
use hyper::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::admin::answer::Answer;
use crate::admin::{Admin, refused};
use crate::graph::Collection;
use crate::http::reply::{self, Reply};
use crate::keyring::{KeyStatus, RotationError};
use crate::runtime::clock;
use crate::runtime::reload::{OtherFile, Rejected, Report, Request};
use crate::sync;
use crate::trust::judge::devices::{UnverifiedChain, explain};
use crate::x509::pem::{self, CertificateFileError};
use crate::x509::time::Timestamp;

/// Limit in bytes on the body of an action without large data.
const MAX_BODY: usize = 256 * 1024;
/// Limit in bytes on a body with a chain.  PEM may have any text between the certificates.
const MAX_CHAIN: usize = 2 * 1024 * 1024;
/// Limit in bytes on a body with a directory's whole list.
const MAX_LIST: usize = 16 * 1024 * 1024;

/// An action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Verify,
    SyncTrust,
    DiffTrust,
    ApproveTrust,
    RefreshLists,
    RotateKeys,
    RevokeKey,
    Reload,
    DiffConfiguration,
    BackUpDirectory,
    RestoreDirectory,
    AwaitCopy,
}

impl Action {
    /// The action with this path.
    pub(super) fn at(path: &str) -> Option<Self> {
        match path {
            "/verify" => Some(Self::Verify),
            "/trust/sync" => Some(Self::SyncTrust),
            "/trust/diff" => Some(Self::DiffTrust),
            "/trust/approve" => Some(Self::ApproveTrust),
            "/crl/refresh" => Some(Self::RefreshLists),
            "/keys/rotate" => Some(Self::RotateKeys),
            "/keys/revoke" => Some(Self::RevokeKey),
            "/config/reload" => Some(Self::Reload),
            "/config/diff" => Some(Self::DiffConfiguration),
            "/directory/backup" => Some(Self::BackUpDirectory),
            "/directory/restore" => Some(Self::RestoreDirectory),
            "/directory/wait" => Some(Self::AwaitCopy),
            _ => None,
        }
    }

    /// Limit in bytes on the request body.
    pub(super) fn body_limit(self) -> usize {
        match self {
            Self::Verify => MAX_CHAIN,
            Self::DiffTrust | Self::DiffConfiguration => MAX_LIST,
            Self::SyncTrust
            | Self::ApproveTrust
            | Self::RefreshLists
            | Self::RotateKeys
            | Self::RevokeKey
            | Self::Reload
            | Self::BackUpDirectory
            | Self::RestoreDirectory
            | Self::AwaitCopy => MAX_BODY,
        }
    }

    /// True if the action names a file of this machine, so that callers on the network may not use it.
    pub(super) fn needs_socket(self) -> bool {
        matches!(self, Self::BackUpDirectory | Self::RestoreDirectory | Self::AwaitCopy)
    }
}

/// Body of `/verify`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Verify {
    /// Certificates, PEM, leaf first.
    chain_pem: String,
    /// Time of the decision, RFC 3339; now if absent.
    at: Option<String>,
}

/// Body of `/trust/sync`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SyncTrust {}

/// Body of `/trust/diff`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffTrust {
    /// The list response to compare with the configurations in force.
    answer: Value,
    source: Option<String>,
}

/// Body of `/trust/approve`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ApproveTrust {
    source: Option<String>,
    /// Digest of the change, as `status.json` shows it.  An operator approves what was read, not what is
    /// held back by now.
    digest: Option<String>,
}

/// Body of `/crl/refresh`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RefreshLists {
    /// One address; all if absent.
    address: Option<String>,
    /// Accept a list that is older than the one in force.
    #[serde(default)]
    accept_rollback: bool,
}

/// Body of `/keys/rotate`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateKeys {}

/// Body of `/keys/revoke`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeKey {
    /// ID of the key.
    kid: String,
}

/// Body of `/config/reload`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reload {}

/// Body of `/config/diff`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffConfiguration {
    /// Text of a configuration file; the gateway's own file if absent.
    toml: Option<String>,
    /// Name of that file, for messages.
    name: Option<String>,
}

/// Body of `/directory/backup`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackUpDirectory {
    /// File to create: an absolute path.
    file: PathBuf,
}

/// Body of `/directory/restore`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RestoreDirectory {
    /// The backup: an absolute path.
    file: PathBuf,
    /// Replace the directory by one with another identity.
    #[serde(default)]
    accept_other_directory: bool,
}

/// Body of `/directory/wait`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AwaitCopy {
    /// The `id` of the response that said that the work is running.
    id: String,
}

/// A failed action: the status and text of its response.
#[derive(Debug)]
pub(super) struct Failure(pub(super) StatusCode, pub(super) String);

impl Failure {
    pub(super) fn bad_request(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }
}

impl Admin {
    /// Performs an action and returns its response.
    pub(super) async fn perform(&self, action: Action, body: &[u8]) -> Reply {
        match self.try_perform(action, body).await {
            Ok(result) => reply::json(StatusCode::OK, &result),
            Err(Failure(status, why)) => refused(status, &why),
        }
    }

    async fn try_perform(&self, action: Action, body: &[u8]) -> Result<Value, Failure> {
        match action {
            Action::Verify => self.verify(parse(body)?),
            Action::SyncTrust => {
                let SyncTrust {} = parse(body)?;
                Ok(self.sync_trust().await)
            }
            Action::DiffTrust => self.diff_trust(&parse(body)?),
            Action::ApproveTrust => self.approve_trust(parse(body)?).await,
            Action::RefreshLists => self.refresh_lists(parse(body)?).await,
            Action::RotateKeys => {
                let RotateKeys {} = parse(body)?;
                keys(self.keys.rotate().await)
            }
            Action::RevokeKey => {
                let RevokeKey { kid } = parse(body)?;
                keys(self.keys.revoke(&kid).await)
            }
            Action::Reload => {
                let Reload {} = parse(body)?;
                configuration(self.configuration.send(Request::Reload).await)
            }
            Action::DiffConfiguration => {
                let DiffConfiguration { toml, name } = parse(body)?;
                let name = name.unwrap_or_else(|| "`toml`".to_owned());
                let other = toml.map(|toml| OtherFile { name, toml });
                configuration(self.configuration.send(Request::Compare(other)).await)
            }
            Action::BackUpDirectory => {
                let BackUpDirectory { file } = parse(body)?;
                self.copies.back_up(file).await
            }
            Action::RestoreDirectory => {
                let RestoreDirectory { file, accept_other_directory } = parse(body)?;
                self.copies.restore(file, accept_other_directory).await
            }
            Action::AwaitCopy => {
                let AwaitCopy { id } = parse(body)?;
                self.copies.wait(&id).await
            }
        }
    }

    /// Judges a chain under the snapshot in force, and returns every path that was tried.
    fn verify(&self, request: Verify) -> Result<Value, Failure> {
        let now = match request.at {
            None => clock::now(),
            Some(at) => Timestamp::parse_rfc3339(&at).ok_or_else(|| {
                let why = format!("`at`: `{at}` is not a time such as 2026-11-21T08:00:00Z");
                Failure::bad_request(why)
            })?,
        };
        let (answer, generation) = self
            .judge(&request.chain_pem, now)
            .map_err(|error| Failure::bad_request(format!("`chainPem`: {error}")))?;
        Ok(json!({
            "accept": answer.is_accept(),
            "generation": generation,
            "answer": answer.to_json(None),
            "text": answer.to_text(),
        }))
    }

    /// Judges a chain in PEM, leaf first, under the snapshot in force.  Returns the answer and the
    /// generation that decided.
    pub(super) fn judge(
        &self,
        chain: &str,
        now: Timestamp,
    ) -> Result<(Answer, u64), CertificateFileError> {
        let chain = match chain.as_bytes() {
            [] => Vec::new(),
            pem => pem::certificates(pem)?,
        };
        let trust = &self.live.current().trust;
        let answer = match UnverifiedChain::from_der(&chain) {
            Ok(chain) => {
                let (decision, attempts) = explain(&chain, trust, now);
                Answer::new(decision, attempts, Vec::new(), Vec::new())
            }
            Err(refusal) => Answer::refused(refusal, Vec::new()),
        };
        Ok((answer, trust.generation))
    }

    /// Polls every source now.  They are polled concurrently, so that one directory that does not
    /// respond delays no other.
    async fn sync_trust(&self) -> Value {
        let sources = self.sources.borrow().clone();
        let polls = sources
            .iter()
            .map(|source| async move { (source.source().to_string(), poll(source).await) });
        let outcomes: Map<_, _> = join_all(polls).await.into_iter().collect();
        Value::Object(outcomes)
    }

    /// Compares a list response with the configurations in force, without applying it.
    fn diff_trust(&self, request: &DiffTrust) -> Result<Value, Failure> {
        let source = self.source(request.source.as_deref())?;
        let preview = source.preview(request.answer.to_string().as_bytes());
        preview.map(|preview| json!(preview)).map_err(|error| {
            Failure(StatusCode::UNPROCESSABLE_ENTITY, format!("`answer`: {error}"))
        })
    }

    /// Applies what one source holds back, of its configurations and of its devices.
    async fn approve_trust(&self, request: ApproveTrust) -> Result<Value, Failure> {
        let source = self.source(request.source.as_deref())?;
        let Some(digest) = request.digest else {
            let why = "`digest` is missing: set it to the digest of the change in `held_back`";
            return Err(Failure::bad_request(why));
        };
        // The digest names either a change of configurations or one of devices.
        let of_devices = match source.devices() {
            Some(devices) => devices.approve(&digest).await,
            None => Err(sync::HandleError::NothingHeld),
        };
        let refused = match of_devices {
            Ok(difference) => return Ok(json!({ "devices": difference })),
            Err(refused) => refused,
        };
        match source.approve(&digest).await {
            Ok(changes) => Ok(json!(changes)),
            // Only devices are held back.
            Err(sync::HandleError::NothingHeld) => {
                Err(Failure(StatusCode::CONFLICT, refused.to_string()))
            }
            Err(error) => Err(Failure(StatusCode::CONFLICT, error.to_string())),
        }
    }

    /// Fetches the lists of one address, or of all.
    async fn refresh_lists(&self, request: RefreshLists) -> Result<Value, Failure> {
        let statuses = match (request.address, request.accept_rollback) {
            (Some(address), true) => self.lists.refresh_accepting_rollback(&address).await,
            (None, true) => {
                let why = "`acceptRollback` needs one address: set `address`";
                return Err(Failure::bad_request(why));
            }
            (address, false) => self.lists.refresh(address.as_deref()).await,
        };
        statuses
            .map(|statuses| json!(statuses))
            .map_err(|error| Failure(StatusCode::NOT_FOUND, error.to_string()))
    }

    /// The source with this name.  Without a name: the only source of device configurations.
    fn source(&self, name: Option<&str>) -> Result<sync::Handle, Failure> {
        let sources = self.sources.borrow();
        let Some(name) = name else {
            let is_of_devices = |s: &&sync::Handle| s.collection() == Collection::MutualTlsOauth;
            let mut of_devices = sources.iter().filter(is_of_devices);
            return match (of_devices.next(), of_devices.next()) {
                (Some(only), None) => Ok(only.clone()),
                (None, _) => Err(Failure::bad_request("no directory is configured")),
                _ => Err(Failure::bad_request("there are several sources: set `source` to one")),
            };
        };
        sources
            .iter()
            .find(|source| **source.source() == *name)
            .cloned()
            .ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("no source is called `{name}`")))
    }
}

fn configuration(result: Result<Report, Rejected>) -> Result<Value, Failure> {
    let rejected = |error: Rejected| Failure(StatusCode::CONFLICT, error.to_string());
    result.map(|report| json!(report)).map_err(rejected)
}

/// The keys after an action on them.
fn keys(result: Result<Vec<KeyStatus>, RotationError>) -> Result<Value, Failure> {
    let status = |error: &RotationError| match error {
        RotationError::Unknown(_) => StatusCode::NOT_FOUND,
        RotationError::Off | RotationError::Announced { .. } => StatusCode::CONFLICT,
        RotationError::Directory(_) => StatusCode::INTERNAL_SERVER_ERROR,
        RotationError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    result.map(|keys| json!(keys)).map_err(|error| Failure(status(&error), error.to_string()))
}

/// Polls one source for its configurations and, if they are required, its devices.
async fn poll(source: &sync::Handle) -> Value {
    let devices = async {
        match source.devices() {
            Some(devices) => Some(devices.refresh().await),
            None => None,
        }
    };
    let (changes, devices) = tokio::join!(source.refresh(), devices);
    let status = source.status();
    let mut result = match changes {
        Ok(changes) => json!({ "changes": changes }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    match devices {
        Some(Ok(difference)) => result["devices"] = json!(difference),
        Some(Err(error)) => result["devicesError"] = json!(error.to_string()),
        None => {}
    }
    // What waits for approval, with the digest that an approval names.
    if let Some(held) = status.held_back {
        result["held_back"] = json!(held);
    }
    if let Some(held) = status.content.devices.and_then(|devices| devices.held_back) {
        result["devices_held_back"] = json!(held);
    }
    result
}

/// Reads a request body.  An empty one is an object without members.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the request body: {error}")))
}
