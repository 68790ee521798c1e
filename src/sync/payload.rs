//! The interface between a follower and the data that it follows.

use std::fmt::Display;
use std::time::Duration;

use url::Url;

use crate::graph::client::FetchError;
use crate::sync::files::Saved;
use crate::sync::metrics::FollowerMetrics;
use crate::trust::assembly::Update;
use crate::x509::time::Timestamp;

/// Data of a directory: the version in force, and the candidate that the last fetches returned.
///
/// The follower schedules, holds back, reports and publishes; the payload knows how the data is
/// fetched, compared and saved.
pub(crate) trait Payload: Send + Sync + 'static {
    /// Result of one fetch.
    type Response: Send;
    /// Differences between the version in force and the candidate.
    type Changes: Clone + Default + PartialEq + Display + Send + Sync + 'static;
    /// The part of the status that depends on the data.
    type Content: Clone + Default + Send + Sync + 'static;

    /// Plural noun for messages.
    const NOUN: &'static str;
    /// Candidates accumulate changes.  If false, each fetch replaces the candidate.
    const ACCUMULATES: bool;

    /// Type of the objects, for audit records.
    fn object_type(&self) -> &'static str;

    /// Metrics of its follower.
    fn metrics(&self) -> &FollowerMetrics;

    /// URL that is polled.
    fn url(&self) -> &Url;

    /// Puts the version that an earlier run saved in force, and returns the number of its objects.
    /// Returns `None` if no run saved one.
    fn load(&mut self) -> impl Future<Output = Result<Option<Saved<usize>>, String>> + Send;

    /// Discards the candidate.  The next fetch reads everything.
    fn restart(&mut self);

    /// Saves the version in force, which the directory confirmed at `at`.
    fn save(&mut self, at: Timestamp) -> impl Future<Output = Result<(), String>> + Send;

    /// Shortest time between two saved versions that differ.
    fn save_pause(&self) -> Duration {
        Duration::ZERO
    }

    /// Fetches.  The directory may delay the response for `wait`; `refresh` is true if an operator waits
    /// for it.  The future can be dropped at any time.
    fn fetch(
        &self,
        wait: Option<Duration>,
        refresh: bool,
    ) -> impl Future<Output = Result<Self::Response, FetchError>> + Send;

    /// Makes the next fetch read everything, not only changes, if the last such fetch began `full_every`
    /// before `now` or earlier.
    fn renew(&mut self, full_every: Duration, now: Timestamp);

    /// Reads a response.  Nothing comes into force.
    fn read(
        &mut self,
        response: Self::Response,
    ) -> impl Future<Output = Result<Progress<Self::Changes>, FetchError>> + Send;

    /// Prepares the retry after a failed fetch or an unusable response.
    fn recover(&mut self, _error: &FetchError) -> Recovery {
        Recovery::Repeat
    }

    /// True between the first and the last response of one candidate.
    fn is_midway(&self) -> bool {
        false
    }

    /// True if the directory supports long polls.
    fn supports_wait(&self) -> bool;

    /// Identifies the candidate, for the operator who approves it: 32 hexadecimal digits of a SHA-256.
    fn digest(&self) -> String;

    /// Notes that an operator approved the candidate, so that it counts as stable.
    fn approved(&mut self) {}

    /// True if `changes` remove more than the part `max_removal`, or make devices ambiguous where the
    /// operator wants to approve that.
    fn is_suspicious(&self, changes: &Self::Changes, max_removal: f64) -> bool;

    /// Puts the candidate in force.  `first` is true if nothing was in force before.
    fn accept(&mut self, changes: &Self::Changes, first: bool) -> Accepted;

    /// Descriptions of the changes for the audit log; their number is bounded.  Empty without changes.
    fn describe(changes: &Self::Changes) -> Vec<String>;

    /// Returns the update that publishes the version in force.
    fn update(&self) -> Update;

    /// Returns the update that withdraws it, because the directory has not confirmed it for `age`.
    fn withdrawal(&self, age: Duration) -> Update;

    /// Describes the version in force, and sets its gauges.
    fn report(&self) -> Self::Content;
}

/// True if a fetch of everything that began at `last` is `full_every` old.  A time in the future is of a
/// clock that ran ahead.
pub(super) fn is_full_due(last: Timestamp, full_every: Duration, now: Timestamp) -> bool {
    last > now || now.since(last) >= full_every
}

/// The effect of one response.
pub(crate) enum Progress<C> {
    /// The candidate is not complete yet.
    Partial,
    /// The version in force is current.
    Unchanged,
    /// The candidate is complete and has these differences from the version in force.
    Complete(C),
}

/// The effect of [`Payload::accept`].
pub(crate) struct Accepted {
    /// The data changed; this is reported.
    pub changed: bool,
    /// The new version must be published.
    pub publish: bool,
}

/// The retry after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    /// The same fetch is repeated.
    Repeat,
    /// The candidate is discarded and fetched again.
    Discard,
    /// The directory no longer knows the state of the last fetch: everything is fetched again.
    Restart,
}

impl Recovery {
    /// Description for the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Repeat => "repeat the request",
            Self::Discard => "discard the response and request it again",
            Self::Restart => "request everything again",
        }
    }
}
