//! What an answer would do if a directory gave it now; nothing is done.

use serde::Serialize;

use crate::graph::client::Entries;
use crate::graph::wire::{Page, WireError};
use crate::sync::configurations::changes::Changes;
use crate::sync::configurations::follow::assemble;
use crate::sync::configurations::handle::{Handle, Rules};
use crate::sync::configurations::status::SkippedStatus;

/// What an answer would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The directory whose configurations it was compared with.
    pub source: String,
    /// What it would change.
    pub changes: Changes,
    /// It removes too much: it would wait for approval.
    pub held_back: bool,
    /// What of it would not be in force.
    pub skipped: Vec<SkippedStatus>,
}

impl Handle {
    /// Compares a whole list answer with what is in force, by the rules that a poll goes by.  Nobody is
    /// asked for what the answer shortens: it stays as it is.
    ///
    /// # Errors
    /// The answer is no list, or goes on elsewhere.
    pub fn preview(&self, json: &[u8]) -> Result<Preview, WireError> {
        let page = Page::read_of(self.rules.collection, json)?;
        if page.next.is_some() {
            let why = "the list goes on at its @odata.nextLink: all of it is needed";
            return Err(WireError::Shape(why.into()));
        }
        let mut entries = Entries::default();
        page.entries.into_iter().for_each(|entry| entries.add(entry));
        let in_force = self.in_force();
        let next = assemble(&in_force, entries.list, self.rules.prefix.as_deref());
        let changes = Changes::between(&in_force, &next);
        Ok(Preview {
            source: self.source.to_string(),
            held_back: self.rules.holds_back(&changes),
            skipped: next.skipped.iter().map(SkippedStatus::from).collect(),
            changes,
        })
    }
}

impl Rules {
    /// True for changes that wait for a person's word.
    pub(super) fn holds_back(&self, changes: &Changes) -> bool {
        self.max_removal.is_some_and(|most| changes.is_suspicious(most))
    }
}
