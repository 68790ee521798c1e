//! Rank 3: revocation lists as a source.
//!
//! The directory says which addresses matter, and by a switch the certificates that it trusts do too;
//! this part keeps the latest good list of each in force:
//! loads it from disk first, fetches it when it is due, verifies it off the runtime's threads, and
//! sends it on as an [`Update`](crate::trust::assembly::Update).
//!
//! # Invariants
//! - A list that cannot be fetched, read or verified, or that is older than the one in force,
//!   displaces nothing; unless an operator says so, of one address.
//! - There is one flight per address at a time, and a bounded number in all.
//! - The newest list seen survives a restart, and its authority's absence from the directory for some
//!   time; an older one is never taken for it, and goes when a newer one cannot be kept.
//!
//! # Why certificates' own addresses are noted and not fetched when they are needed
//! A request that waited for a server that it names itself could be made to wait.  So the first
//! certificate that names a new address is refused where a list is required (`crl_missing`), and the
//! next try, a moment later, finds the list.  The addresses are kept over a restart with the lists, so
//! that this happens once in the life of an address.

mod address_state;
mod addresses;
mod fetch;
mod filter;
mod persistence;
mod schedule;
mod seen_addresses;
mod source;
mod status;
mod transport;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::crl::status::Board;
use crate::trust::revocation::ListPolicy;
use crate::trust::revocation::addresses_seen::Sightings;
use crate::x509::time::Timestamp;

pub use address_state::Rejected;
pub use fetch::LookError;
pub use filter::is_private;
pub use schedule::Timing;
pub use source::Source;
pub use status::{ErrorStatus, ListStatus, Metrics, PolicyStatus, Status};
pub use transport::{Config as TransportConfig, FetchError};

/// Settings of this part.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the last good lists are kept; `None`: nowhere.
    pub directory: Option<PathBuf>,
    /// Addresses looked at at one time.
    pub parallel: usize,
    /// Intervals.
    pub timing: Timing,
    /// Limits of a fetch.
    pub transport: TransportConfig,
    /// Spreads the looks of replicas; any number.
    pub seed: u64,
    /// What is demanded of lists: those of authorities that are off are not fetched.
    pub policy: ListPolicy,
    /// Where decisions note the addresses that certificates name; `None`: only those that the
    /// directory names are fetched from.
    pub sightings: Option<Arc<Sightings>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: None,
            parallel: 4,
            timing: Timing::default(),
            transport: TransportConfig::default(),
            seed: 0,
            policy: ListPolicy::default(),
            sightings: None,
        }
    }
}

/// Why this part cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of lists cannot be made.
    #[error("crl directory: {0}")]
    Directory(#[from] io::Error),
    /// Unusable proxy or root certificates.
    #[error("crl transport: {0}")]
    Transport(#[from] FetchError),
}

/// Tells the time.  Tests bring their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The system's time.
pub fn system_clock() -> Clock {
    Arc::new(|| Timestamp::from(std::time::SystemTime::now()))
}

/// Speaks to a running [`Source`].
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Refresh>,
    board: Board,
}

struct Refresh {
    address: Option<String>,
    /// Whatever list is in force.
    anew: bool,
    /// Gets one receiver for each address that is looked at.
    started: oneshot::Sender<Vec<oneshot::Receiver<()>>>,
}

/// Why an address was not looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// No authority names it.
    #[error("no authority names `{0}`")]
    Unknown(String),
    /// The source has stopped.
    #[error("revocation lists are not being refreshed")]
    Stopped,
}

impl Handle {
    /// What is known of each address.
    pub fn status(&self) -> Vec<Status> {
        self.board.read()
    }

    /// Looks at `address` (or at all) now, past caches, and comes back when that is done.
    ///
    /// # Errors
    /// See [`RefreshError`].  A look that fails is no error here: the status tells.
    pub async fn refresh(&self, address: Option<&str>) -> Result<Vec<Status>, RefreshError> {
        self.look(address, false).await
    }

    /// Looks at `address` as if no list of it had ever been in force: one whose number or time went
    /// back, or that another key signed, is taken.  For an issuer that was restored or replaced; an
    /// operator has to know that it is no old list that comes back.
    ///
    /// # Errors
    /// As [`Handle::refresh`].
    pub async fn begin_anew(&self, address: &str) -> Result<Vec<Status>, RefreshError> {
        self.look(Some(address), true).await
    }

    async fn look(&self, address: Option<&str>, anew: bool) -> Result<Vec<Status>, RefreshError> {
        let (started, looks) = oneshot::channel();
        let refresh = Refresh { address: address.map(str::to_owned), anew, started };
        self.commands.send(refresh).await.map_err(|_| RefreshError::Stopped)?;
        let looks = looks.await.map_err(|_| RefreshError::Stopped)?;
        let nothing_done = looks.is_empty();
        for look in looks {
            // Dropped: the address matters no longer.
            let _ = look.await;
        }
        let mut statuses = self.status();
        statuses.retain(|status| address.is_none_or(|address| status.address == address));
        match address {
            // One that is none to fetch from has a status, which tells that.
            Some(address) if nothing_done && statuses.is_empty() => {
                Err(RefreshError::Unknown(address.to_owned()))
            }
            _ => Ok(statuses),
        }
    }
}
