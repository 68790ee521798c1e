//! Status of a follower, for people and monitoring.

use serde::Serialize;

/// Status of a follower whose data changes by `C` and is described by `D`.  Times are RFC 3339.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status<C, D> {
    /// URL that is polled.
    pub url: String,
    /// The data was loaded, from the directory or from disk.
    pub loaded: bool,
    /// Time at which the directory last confirmed or changed the data in force.
    pub last_success: Option<String>,
    /// Time of the last fetch.
    pub last_poll: Option<String>,
    /// Time of the next fetch.
    pub next_poll: Option<String>,
    /// The last failure, until a fetch succeeds.
    pub last_error: Option<String>,
    /// Failures since the last successful fetch.
    pub failures: u32,
    /// The data was loaded from disk, and no fetch has confirmed it yet.
    pub from_disk: bool,
    /// The data is older than the policy allows.
    pub too_old: bool,
    /// The change that waits for approval.
    pub held_back: Option<HeldBack<C>>,
    /// The last change and its time.
    pub last_change: Option<(String, C)>,
    /// Description of the data in force.
    #[serde(flatten)]
    pub content: D,
}

/// A change that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldBack<C> {
    /// Time at which the directory first returned it.
    pub since: String,
    /// Identifies the response; an approval names it.
    pub digest: String,
    /// The change.
    pub changes: C,
}
