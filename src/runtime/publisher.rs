//! The one writer: takes every change from an inbox, builds what is to be in force, and publishes it.
//!
//! # Why one task
//! Several sources change one cell.  Each reading it, changing its part and writing it back could lose
//! another's change; one task with an inbox cannot.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info};

use crate::runtime::live::{Active, EdgeTls, Writer};
use crate::token::keys::SigningKeys;
use crate::trust::assembly::{Assembly, Update};
use crate::trust::configurations::AnchorSet;

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
        if let Some(old) = old {
            // Nothing waits for it.
            tokio::spawn(retire(old));
        }
    }
}

/// Between two looks whether readers are left; they hold what is in force for one decision.
const READERS: Duration = Duration::from_millis(10);

/// Frees what was in force.  Whoever drops it last does that, and it can be large: let that be no
/// request, nor a thread that serves them.
async fn retire(old: Arc<Active>) {
    // Nobody new comes to it: another is in its place.
    while Arc::strong_count(&old) > 1 {
        sleep(READERS).await;
    }
    let freed = spawn_blocking(move || drop(old));
    if let Err(error) = freed.await {
        error!(%error, "an old snapshot was not freed in order");
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::live::Live;
    use crate::token::keys::{Algorithm, SigningKey};
    use crate::trust::configurations::AnchorSet;
    use crate::trust::snapshot::Snapshot;

    fn nothing() -> Active {
        let key = rcgen::KeyPair::generate().expect("a key");
        let signing = SigningKey::from_pkcs8(Algorithm::Es256, &key.serialize_der());
        let signing = Arc::new(signing.expect("a key"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let tls = Arc::new(tls);
        Active {
            trust: Arc::new(Snapshot::default()),
            keys: Arc::new(SigningKeys::new(signing, &[]).expect("keys")),
            tls: Arc::new(EdgeTls {
                token: Arc::clone(&tls),
                directory: Arc::clone(&tls),
                public: tls,
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_in_force_outlives_its_readers_and_is_freed_then() {
        let (live, writer) = Live::start(|_| Ok::<_, ()>(nothing())).expect("a cell");
        let (_updates, inbox) = mpsc::channel(1);
        let (_own, own_inbox) = mpsc::channel(1);
        let (anchors, _in_force) = watch::channel(Arc::default());
        let mut publisher = Publisher {
            assembly: Assembly::default(),
            writer,
            updates: inbox,
            own: own_inbox,
            anchors,
        };
        let reader = live.current();
        let old = Arc::downgrade(&reader.trust);
        let set = AnchorSet::default();
        assert!(publisher.assembly.apply(Update::Anchors { source: "a".into(), set }));
        publisher.publish(None).await;
        assert!(!std::ptr::eq(old.as_ptr(), Arc::as_ptr(&live.current().trust)), "another");
        sleep(READERS * 10).await;
        drop(reader);
        assert!(old.upgrade().is_some(), "the reader has freed it");
        tokio::time::timeout(READERS * 1000, async {
            while old.strong_count() > 0 {
                sleep(READERS).await;
            }
        })
        .await
        .expect("freed");
    }
}
