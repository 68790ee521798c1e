//! The one writer: receives every update, builds the next state in force and publishes it.
//!
//! # Design notes
//! Several sources change one cell.  If each of them read the cell, changed its part and wrote it back,
//! one could overwrite the change of another.  One task that receives all updates cannot.
//!
//! Building a snapshot cannot fail, because its parts are validated when they arrive.  TLS
//! configurations can fail to build: their builder retries and sends only finished ones.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info};

use crate::runtime::live::{Active, ListenerTls, Writer};
use crate::runtime::metrics::trust::TrustTimes;
use crate::token::keys::SigningKeys;
use crate::token::policy::TokenPolicy;
use crate::trust::assembly::{Assembly, Update};
use crate::trust::configurations::AllConfigurations;
use crate::trust::revocation::ListPolicy;
use crate::trust::snapshot::TrustPolicy;

/// A change that does not concern trust.
pub enum GatewayChange {
    /// New signing keys.
    Keys(Arc<SigningKeys>),
    /// New TLS configurations.
    Tls(Arc<ListenerTls>),
    /// New rules of the operator.
    Rules(Box<Rules>),
    /// No change.  It is answered when every update sent before is in force.
    Flush(oneshot::Sender<()>),
}

/// Rules of the operator that change while the process runs.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The issuer, and the clients with their terms.
    pub policy: Arc<TokenPolicy>,
    /// Rules for paths.
    pub trust: Arc<TrustPolicy>,
    /// Rules for revocation lists.
    pub lists: ListPolicy,
    /// The followed directories in the operator's order.  The state of others is dropped.
    pub domains: Vec<Arc<str>>,
    /// The directories whose application configurations are followed.
    pub application_domains: Vec<Arc<str>>,
}

/// The configurations in force, sent to the tasks that depend on them.
#[derive(Debug, Clone, Default)]
pub struct ConfigurationsInForce {
    /// Generation of the snapshot that put them in force; 0 before the first one.
    pub generation: u64,
    /// At least one directory has returned its configurations of devices, possibly none.
    pub devices_loaded: bool,
    /// The configurations of both kinds.
    pub configurations: AllConfigurations,
    /// Rules for revocation lists; `None` for those of the start.
    pub lists: Option<Arc<ListPolicy>>,
}

/// The task that publishes.
pub struct Publisher {
    /// The newest update of every source.
    pub assembly: Assembly,
    /// The writing half of the live cell.
    pub writer: Writer,
    /// Updates of trust.
    pub updates: mpsc::Receiver<Update>,
    /// Changes of the gateway's own keys.
    pub own: mpsc::Receiver<GatewayChange>,
    /// Receives the configurations after each publication that changes them.
    pub in_force: watch::Sender<ConfigurationsInForce>,
    /// Rules for revocation lists, if they changed since the start.
    pub lists: Option<Arc<ListPolicy>>,
    /// Durations of publications and changes.
    pub times: TrustTimes,
}

impl Publisher {
    /// Applies and publishes updates until every sender of trust updates is dropped.
    pub async fn run(mut self) {
        loop {
            let (mut changed, mut own, mut updates) = (false, None, 0);
            tokio::select! {
                update = self.updates.recv() => match update {
                    Some(update) => {
                        changed = self.assembly.apply(update);
                        updates += 1;
                    }
                    None => return,
                },
                Some(change) = self.own.recv() => own = Some(change),
            }
            // Updates that are already queued join this publication; after a start, most of them do.
            while let Ok(update) = self.updates.try_recv() {
                changed |= self.assembly.apply(update);
                updates += 1;
            }
            let (own, flush) = match own {
                Some(GatewayChange::Flush(flush)) => (None, Some(flush)),
                own => (own, None),
            };
            if changed || own.is_some() {
                let started = Instant::now();
                self.publish(changed, own).await;
                self.times.published(started.elapsed());
            }
            self.times.in_force(updates, changed);
            if let Some(flush) = flush {
                let _ = flush.send(());
            }
        }
    }

    async fn publish(&mut self, trust_changed: bool, own: Option<GatewayChange>) {
        let mut active = Active::clone(&self.writer.current());
        let mut rules = None;
        match own {
            Some(GatewayChange::Keys(keys)) => active.keys = keys,
            Some(GatewayChange::Tls(tls)) => active.tls = tls,
            Some(GatewayChange::Rules(new)) => {
                active.policy = Arc::clone(&new.policy);
                self.assembly.follow(new.lists.clone(), &new.domains, &new.application_domains);
                rules = Some(new);
            }
            Some(GatewayChange::Flush(_)) | None => {}
        }
        if trust_changed || rules.is_some() {
            let mut next = self.assembly.build(&active.trust);
            if let Some(rules) = &rules {
                next.policy = Arc::clone(&rules.trust);
            }
            active.trust = Arc::new(next);
        }
        if let Some(rules) = rules {
            self.lists = Some(Arc::new(rules.lists));
            self.in_force.send_modify(|in_force| in_force.lists.clone_from(&self.lists));
        }
        let trust = Arc::clone(&active.trust);
        let old = self.writer.publish(active);
        info!(
            trust.generation = trust.generation,
            trust.configurations = trust.device_configurations.configurations.len(),
            trust.skipped = trust.device_configurations.skipped.len(),
            "generation {} is in force",
            trust.generation
        );
        let unchanged = old.as_ref().is_some_and(|old| {
            Arc::ptr_eq(&old.trust.device_configurations, &trust.device_configurations)
                && Arc::ptr_eq(&old.trust.applications, &trust.applications)
        });
        if !unchanged {
            self.in_force.send_replace(ConfigurationsInForce {
                generation: trust.generation,
                devices_loaded: self.assembly.has_device_configurations(),
                configurations: trust.every_configuration(),
                lists: self.lists.clone(),
            });
        }
        if let Some(old) = old {
            tokio::spawn(retire(old));
        }
    }
}

/// Interval between two checks whether the old state still has readers.  A reader holds it for one
/// decision.
const READERS: Duration = Duration::from_millis(10);

/// Frees the state that was replaced.  The last holder frees it, which takes long for a large one, so
/// that must be neither a request nor a thread that serves requests.
async fn retire(old: Arc<Active>) {
    // No new reader can appear: the cell holds another state.
    while Arc::strong_count(&old) > 1 {
        sleep(READERS).await;
    }
    let freed = spawn_blocking(move || drop(old));
    if let Err(error) = freed.await {
        error!(%error, "freeing an old snapshot failed");
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
    use crate::trust::configurations::Configurations;
    use crate::trust::snapshot::Snapshot;

    fn empty() -> Active {
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
            policy: Arc::default(),
            tls: Arc::new(ListenerTls {
                hosts: Arc::default(),
                token: Arc::clone(&tls),
                directory: Arc::clone(&tls),
                public: tls,
            }),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frees_the_old_state_after_its_last_reader() {
        let (live, writer) = Live::start(|_| Ok::<_, ()>(empty())).expect("a cell");
        let (_updates, inbox) = mpsc::channel(1);
        let (_own, own_inbox) = mpsc::channel(1);
        let (in_force, _watched) = watch::channel(ConfigurationsInForce::default());
        let mut publisher = Publisher {
            assembly: Assembly::default(),
            writer,
            updates: inbox,
            own: own_inbox,
            in_force,
            lists: None,
            times: TrustTimes::default(),
        };
        let reader = live.current();
        let old = Arc::downgrade(&reader.trust);
        let update = Update::Configurations { source: "a".into(), set: Configurations::default() };
        assert!(publisher.assembly.apply(update));
        publisher.publish(true, None).await;
        assert!(!std::ptr::eq(old.as_ptr(), Arc::as_ptr(&live.current().trust)), "replaced");
        sleep(READERS * 10).await;
        drop(reader);
        assert!(old.upgrade().is_some(), "freed while a reader holds it");
        tokio::time::timeout(READERS * 1000, async {
            while old.strong_count() > 0 {
                sleep(READERS).await;
            }
        })
        .await
        .expect("freed");
    }
}
