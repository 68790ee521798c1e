//! The devices of a directory, followed by their changes (Graph's delta query).
//!
//! Only where a configuration admits registered devices alone.  The first answer enumerates every
//! device, page by page, and ends with a deltaLink; from then on the directory is asked there for what
//! changed.
//!
//! # Why a round is applied whole
//! A page could be put in force when it comes, since each names devices whole.  But objects may move
//! between pages and come twice, so that only the end of a round is a state that the directory was in;
//! and whether an answer removes too much can only be said of all of it.  So pages are applied to a
//! registry of their own, which costs the pages and not a second copy, and that one is put in force at
//! the end.  Of a round that failed the pages that were read are kept, and it goes on where it failed.
//!
//! # Why a removal can be held back
//! As in the trust list: an answer that removes too many devices is likelier a fault than meant.  What
//! the directory enables and disables is never held back alone, but waits with an answer that is.

mod poll;
mod round;
mod state;
mod status;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::domain::trust::anchors::{AnchorSet, ConfigurationId, Devices};
use crate::domain::trust::devices::Difference;
use crate::graph::HandleError;
use crate::graph::devices::poll::Command;

pub use poll::Sync;
pub use status::{HeldBack, Metrics, Status};
pub use wire::{ReadError, read_registry};

/// Which configurations of a source admit registered devices only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// Those that are not named.
    pub registered: bool,
    /// Those that are.
    pub by_configuration: HashMap<ConfigurationId, bool>,
}

impl Admission {
    /// True when the source's devices need to be known.
    pub fn needs_registry(&self) -> bool {
        self.registered || self.by_configuration.values().any(|registered| *registered)
    }

    /// Says to each configuration of `source` which devices it admits.
    pub(super) fn mark(&self, source: &Arc<str>, set: &mut AnchorSet) {
        for configuration in &mut set.configurations {
            let named = self.by_configuration.get(&configuration.id);
            if *named.unwrap_or(&self.registered) {
                configuration.devices = Devices::Registered(Arc::clone(source));
            }
        }
    }
}

/// An operator's hold on a [`Sync`].
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    status: Arc<Mutex<Status>>,
}

impl Handle {
    /// How things stand.
    pub fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Polls now, and tells what changed.  A first enumeration is waited for.
    ///
    /// # Errors
    /// When the poll fails.
    pub async fn sync_now(&self) -> Result<Difference, HandleError> {
        self.ask(Command::Sync).await
    }

    /// Applies the answer that is held back, and tells what changed.
    ///
    /// # Errors
    /// When none is.
    pub async fn approve(&self) -> Result<Difference, HandleError> {
        self.ask(Command::Approve).await
    }

    async fn ask(&self, command: impl FnOnce(poll::Reply) -> Command) -> poll::Answer {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| HandleError::Ended)?;
        answer.await.unwrap_or(Err(HandleError::Ended))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Status> {
        // Fields are assigned one by one: a panic elsewhere leaves at worst an older status.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::changes::tests::set;

    #[test]
    fn a_configuration_that_is_named_goes_its_own_way() {
        let source: Arc<str> = "hub".into();
        let named = |id: &str, registered| (ConfigurationId::from(id), registered);
        for (registered, expected) in [(false, [false, true, false]), (true, [true, true, false])] {
            let by_configuration = [named("2", true), named("3", false)].into();
            let admission = Admission { registered, by_configuration };
            assert!(admission.needs_registry());
            let mut set = set(&[("1", &[]), ("2", &[]), ("3", &[])]);
            admission.mark(&source, &mut set);
            let marked = |c: &crate::domain::trust::anchors::Configuration| {
                c.devices == Devices::Registered(Arc::clone(&source))
            };
            let got: Vec<_> = set.configurations.iter().map(marked).collect();
            assert_eq!(got, expected);
        }
        assert!(!Admission::default().needs_registry());
    }
}
