//! Handle of the follower of a directory's configurations.

use std::sync::Arc;

use serde::Serialize;

use crate::graph::Collection;
use crate::graph::wire::{Entries, Page, WireError};
use crate::sync::configurations::changes::Changes;
use crate::sync::configurations::content::{Content, SkippedStatus};
use crate::sync::configurations::merge::merge;
use crate::sync::configurations::payload::FollowedKind;
use crate::sync::devices;
use crate::sync::handle::{self, HandleError};
use crate::sync::status::Status;
use crate::trust::configurations::{AllConfigurations, Application, Device};

/// Handle of the follower of one directory's configurations and, if they are required, its devices.
#[derive(Clone)]
pub struct Handle {
    pub(crate) source: Arc<str>,
    pub(crate) collection: Collection,
    /// Prefix of ids.
    pub(crate) prefix: Option<Arc<str>>,
    /// Part of the anchors that one response may remove; `None` if nothing is held back.
    pub(crate) max_removal: Option<f64>,
    /// Responses that make configurations ambiguous are held back.
    pub(crate) guard_ambiguity: bool,
    pub(crate) configurations: handle::Handle<Changes, Content>,
    pub(crate) devices: Option<devices::Handle>,
}

/// The effect that a response would have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Name of the follower whose configurations were compared.
    pub source: String,
    /// The changes.
    pub changes: Changes,
    /// The changes would wait for approval: they remove too much, or make configurations ambiguous.
    pub held_back: bool,
    /// Parts of the response that would not be in force.
    pub skipped: Vec<SkippedStatus>,
}

impl Handle {
    /// Name of the follower: that of the directory, for applications followed by `/applications`.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// The collection that is followed.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// Current status.
    pub fn status(&self) -> Status<Changes, Content> {
        let mut status = self.configurations.status();
        status.content.devices = self.devices.as_ref().map(devices::Handle::status);
        status
    }

    /// The worst problem of the configurations, and that of the devices.  They name no data.
    pub fn problems(&self) -> [Option<&'static str>; 2] {
        [self.configurations.problem(), self.devices.as_ref().and_then(devices::Handle::problem)]
    }

    /// Handle of the follower of its devices, if a configuration requires them.
    pub fn devices(&self) -> Option<&devices::Handle> {
        self.devices.as_ref()
    }

    /// The configurations of this source, as last accepted.
    pub fn in_force(&self) -> AllConfigurations {
        self.configurations.status().content.in_force
    }

    /// Fetches the configurations now and returns the changes.
    ///
    /// # Errors
    /// The fetch failed.
    pub async fn refresh(&self) -> Result<Changes, HandleError> {
        self.configurations.refresh().await
    }

    /// Applies the change that is held back if it has this digest, and returns it.
    ///
    /// # Errors
    /// No change is held back, or another one.
    pub async fn approve(&self, digest: &str) -> Result<Changes, HandleError> {
        self.configurations.approve(digest).await
    }

    /// Compares a complete list response with the configurations in force, as a poll would.  Nothing is
    /// applied or fetched: what the response shortens stays as it is.
    ///
    /// # Errors
    /// The response is not a list, or is only one page of it.
    pub fn preview(&self, json: &[u8]) -> Result<Preview, WireError> {
        match self.collection {
            Collection::MutualTlsOauth => self.preview_kind::<Device>(json),
            Collection::CertificateBasedApplication => self.preview_kind::<Application>(json),
        }
    }

    fn preview_kind<K: FollowedKind>(&self, json: &[u8]) -> Result<Preview, WireError> {
        let page = Page::<K>::read(json)?;
        if page.next.is_some() {
            let why = "the list continues at its @odata.nextLink, all pages are needed";
            return Err(WireError::Shape(why.into()));
        }
        let mut entries = Entries::default();
        page.entries.into_iter().for_each(|entry| entries.add(entry));
        let all = self.in_force();
        let in_force = K::of(&all);
        let next = merge(in_force, entries.list, self.prefix.as_deref());
        let changes = Changes::between(in_force, &next);
        let makes_ambiguous = self.guard_ambiguity
            && changes.newly_ambiguous > 0
            && !in_force.configurations.is_empty();
        let removes_too_much = self.max_removal.is_some_and(|most| changes.is_suspicious(most));
        Ok(Preview {
            source: self.source.to_string(),
            held_back: removes_too_much || makes_ambiguous,
            skipped: next.skipped.iter().map(SkippedStatus::from).collect(),
            changes,
        })
    }
}
