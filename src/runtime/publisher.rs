//! The one writer: takes every change from an inbox, builds what is to be in force, and publishes it.
//!
//! # Why one task
//! Several sources change one cell.  Each reading it, changing its part and writing it back could lose
//! another's change; one task with an inbox cannot.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{error, info};

use crate::domain::token::keys::SigningKeys;
use crate::domain::trust::anchors::AnchorSet;
use crate::domain::trust::assembly::{Assembly, Update};
use crate::runtime::live::{Active, EdgeTls, Writer};

/// How long a build that failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A change of something else than trust.
pub enum OwnChange {
    /// New signing keys.
    Keys(Arc<SigningKeys>),
    /// New TLS configurations.
    Tls(Arc<EdgeTls>),
}

/// What the publisher works with.
pub struct Publisher {
    /// The latest word of every source.
    pub assembly: Assembly,
    /// The one writer's half of the cell.
    pub writer: Writer,
    /// News of trust.
    pub updates: mpsc::Receiver<Update>,
    /// News of our own keys.
    pub own: mpsc::Receiver<OwnChange>,
    /// Tells the configurations in force, of both kinds, to whoever fetches their lists.
    pub anchors: watch::Sender<Arc<AnchorSet>>,
}

impl Publisher {
    /// Applies what is in the inbox until every sender is gone.
    pub async fn run(mut self) {
        loop {
            let mut own = None;
            tokio::select! {
                update = self.updates.recv() => match update {
                    Some(update) => { self.assembly.apply(update); }
                    None => return,
                },
                Some(change) = self.own.recv() => own = Some(change),
                () = sleep(RETRY), if self.assembly.due() => {}
            }
            // What came meanwhile is published with it: after a start, that is most of it.
            while let Ok(update) = self.updates.try_recv() {
                self.assembly.apply(update);
            }
            if own.is_some() || self.assembly.due() {
                self.publish(own).await;
            }
        }
    }

    async fn publish(&mut self, own: Option<OwnChange>) {
        let mut active = Active::clone(&self.writer.current());
        match own {
            Some(OwnChange::Keys(keys)) => active.keys = keys,
            Some(OwnChange::Tls(tls)) => active.tls = tls,
            None => {}
        }
        if self.assembly.due() {
            active.trust = Arc::new(self.assembly.build(&active.trust));
        }
        let trust = Arc::clone(&active.trust);
        let old = self.writer.publish(active);
        self.assembly.published();
        info!(
            trust.generation = trust.generation,
            trust.configurations = trust.anchors.configurations.len(),
            trust.skipped = trust.anchors.skipped.len(),
            "generation {} is in force",
            trust.generation
        );
        let stays = old.as_ref().is_some_and(|old| {
            Arc::ptr_eq(&old.trust.anchors, &trust.anchors)
                && Arc::ptr_eq(&old.trust.applications, &trust.applications)
        });
        if !stays {
            self.anchors.send_replace(trust.every_configuration());
        }
        // The last holder of an old snapshot frees it, and it can be large: let that be no request.
        if let Some(old) = old {
            let freed = tokio::task::spawn_blocking(move || drop(old)).await;
            if let Err(error) = freed {
                error!(%error, "an old snapshot was not freed in order");
            }
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}
