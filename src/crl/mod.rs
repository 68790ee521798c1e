//! Rank 5: revocation lists as a source.
//!
//! The directory names the addresses of lists.  If the operator allows it, trusted certificates name
//! further ones.  This part keeps the newest valid list of each issuer at each address: it loads the copy on disk
//! first, fetches the list when it is due, verifies it outside the async threads, and sends it on as an
//! [`Update`](crate::trust::assembly::Update).
//!
//! # Terms
//! A *poll* is a scheduled fetch.  A *fetch* is one exchange with an address.  A *retry* is a fetch
//! after a failed one.  A *refresh* is a fetch that an operator requests.
//!
//! # Invariants
//! - A list that cannot be fetched, read or verified, or that is older than the one in force, replaces
//!   nothing.  The exception is a refresh of one address with `--accept-rollback`.
//! - A list of one issuer replaces no list of another one at the same address.
//! - At most one fetch of an address runs at a time, and a bounded number in all.
//! - The newest list survives a restart.  It also survives the absence of its authority from the
//!   directory for some time.  An older copy is never used in its place: the copy is removed if a newer
//!   list cannot be written.
//!
//! # Design notes
//! Addresses that a certificate names are noted, and fetched in the background.  If a request waited for
//! a server that its own certificate names, that server could delay it.  So the first certificate that
//! names a new address is refused where a list is required (`crl_missing`), and a later attempt finds
//! the list.  The addresses are stored with the lists and survive a restart, so this happens once for
//! each address.

mod address_record;
mod address_state;
mod addresses;
mod copies;
mod copy_key;
mod fetch;
mod filter;
mod metrics;
mod permits;
mod persistence;
mod replacement;
mod results;
mod saved_addresses;
mod schedule;
mod source;
mod status;
mod targets;
mod transport;
mod unused_deltas;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::crl::status::Statuses;
use crate::http::outbound::ClientSettings;
use crate::runtime::unsaved::Unsaved;
use crate::trust::revocation::ListPolicy;
use crate::x509::time::Timestamp;

pub use address_record::AddressRecord;
pub use fetch::FetchFailure;
pub use metrics::Metrics;
pub use replacement::Rejected;
pub use schedule::Timing;
pub use source::Source;
pub use status::{ErrorStatus, ListStatus, PolicyStatus, Status};
use transport::Transport;

pub use transport::{AuthorizedClient, Config as TransportConfig, FetchError};

/// Settings of an HTTP client that reaches the CRL servers as the gateway does.
pub(crate) fn client_settings(config: &Config) -> ClientSettings {
    transport::client_settings(&config.transport, config.transport.roots_pem.as_deref())
}

/// Checks the proxy and the authorities of CRL servers.
///
/// # Errors
/// One of them is not usable.
pub(crate) fn check(config: &Config) -> Result<(), FetchError> {
    Transport::new(config.transport.clone()).map(drop)
}

/// Settings of this part.
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of the copies on disk; `None` for no copies.
    pub directory: Option<PathBuf>,
    /// Is told about lists that could not be saved.
    pub unsaved: Unsaved,
    /// Fetches that run at the same time.
    pub parallel: usize,
    /// Intervals between fetches.
    pub timing: Timing,
    /// Limits of a fetch.
    pub transport: TransportConfig,
    /// Spreads the fetches of replicas over time.  Any number.
    pub seed: u64,
    /// Rules for lists.  Lists of authorities with mode `off` are not fetched.
    pub policy: ListPolicy,
    /// Addresses that certificates name, noted by decisions; `None` to fetch only from addresses that
    /// the directory names.
    pub address_record: Option<Arc<AddressRecord>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: None,
            unsaved: Unsaved::default(),
            parallel: 4,
            timing: Timing::default(),
            transport: TransportConfig::default(),
            seed: 0,
            policy: ListPolicy::default(),
            address_record: None,
        }
    }
}

/// Reasons why this part cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of copies cannot be created or read.
    #[error("crl directory: {0}")]
    Directory(#[from] io::Error),
    /// The proxy or the root certificates are not usable.
    #[error("crl transport: {0}")]
    Transport(#[from] FetchError),
}

/// A handle to a running [`Source`].
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Refresh>,
    statuses: Statuses,
    progress: watch::Receiver<Progress>,
    transport: Transport,
}

/// Progress of the source, for readiness.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Generation whose configurations the source has processed.
    generation: u64,
    /// Addresses that have neither a list nor an error yet.
    unattempted: usize,
}

struct Refresh {
    address: Option<String>,
    /// Accept a list that is older than the one in force.
    accept_rollback: bool,
    /// Receives one receiver for each address that is fetched.
    started: oneshot::Sender<Vec<oneshot::Receiver<()>>>,
}

/// Reasons why a refresh was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// No authority names the address.
    #[error("no authority names `{0}`")]
    Unknown(String),
    /// The source has stopped.
    #[error("revocation lists are not being refreshed: the gateway is stopping")]
    Stopped,
}

impl Handle {
    /// The status of each address.
    pub fn status(&self) -> Vec<Status> {
        self.statuses.read()
    }

    /// Builds the client for these authorities of servers.  Returns `None` if they are in use.
    ///
    /// # Errors
    /// The certificates are not usable.
    pub fn client_with(&self, roots_pem: Option<&[u8]>) -> Result<Option<AuthorizedClient>, Error> {
        Ok(self.transport.client_with(roots_pem)?)
    }

    /// Fetches with `client` from now on.
    pub fn use_client(&self, client: AuthorizedClient) {
        self.transport.use_client(client);
    }

    /// Number of addresses whose list in force is past its nextUpdate.
    pub(crate) fn count_expired(&self, now: Timestamp) -> usize {
        self.statuses.count_expired(now)
    }

    /// Waits until the configurations of `generation` are processed and each of their addresses has a
    /// list or has failed once.
    ///
    /// # Errors
    /// [`RefreshError::Stopped`].
    pub async fn wait_until_attempted(&self, generation: u64) -> Result<(), RefreshError> {
        let attempted =
            |progress: &Progress| progress.generation >= generation && progress.unattempted == 0;
        let mut progress = self.progress.clone();
        progress.wait_for(attempted).await.map(|_| ()).map_err(|_| RefreshError::Stopped)
    }

    /// Fetches from `address`, or from all addresses, bypassing caches, and waits for the end.
    ///
    /// # Errors
    /// See [`RefreshError`].  A fetch that fails is not an error here; the status contains it.
    pub async fn refresh(&self, address: Option<&str>) -> Result<Vec<Status>, RefreshError> {
        self.send(address, false).await
    }

    /// Fetches from `address` as if there had never been a list of it in force: a list is accepted even
    /// if its number or time decreased, or another key signed it.  This is for an issuer that was
    /// restored or replaced.  The operator must make sure that the list is not an old, replayed one.
    ///
    /// # Errors
    /// As [`Handle::refresh`].
    pub async fn refresh_accepting_rollback(
        &self,
        address: &str,
    ) -> Result<Vec<Status>, RefreshError> {
        self.send(Some(address), true).await
    }

    async fn send(
        &self,
        address: Option<&str>,
        accept_rollback: bool,
    ) -> Result<Vec<Status>, RefreshError> {
        let (started, fetches) = oneshot::channel();
        let refresh = Refresh { address: address.map(str::to_owned), accept_rollback, started };
        self.commands.send(refresh).await.map_err(|_| RefreshError::Stopped)?;
        let fetches = fetches.await.map_err(|_| RefreshError::Stopped)?;
        let nothing_fetched = fetches.is_empty();
        for fetch in fetches {
            // An error means that the address was removed meanwhile.
            let _ = fetch.await;
        }
        let mut statuses = self.status();
        statuses.retain(|status| address.is_none_or(|address| status.address == address));
        match address {
            // An address that is not usable has a status with its error, so it is known.
            Some(address) if nothing_fetched && statuses.is_empty() => {
                Err(RefreshError::Unknown(address.to_owned()))
            }
            _ => Ok(statuses),
        }
    }
}
