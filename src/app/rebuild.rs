//! New TLS configurations after a change of the gateway's key files or TLS settings.

use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::error;

use crate::keyring;
use crate::runtime::health::Ready;
use crate::runtime::live::ListenerTls;
use crate::runtime::publisher::GatewayChange;
use crate::runtime::restarts::Restarts;
use crate::tls::tickets::Secrets;
use crate::tls::{self, TlsError};

/// Pause after the first failed build of the TLS configurations.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to build them.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Turns a changed key into a change for the publisher.  A new server certificate or new ticket
/// keys require new TLS configurations, which depend on parts that the keyring does not know.
pub(super) struct Rebuild<B> {
    pub(super) config: tls::Config,
    pub(super) identity: Arc<CertifiedKey>,
    /// Builds the TLS configurations.
    pub(super) build: B,
}

impl<B> Rebuild<B>
where
    B: Fn(&tls::Config, &Arc<CertifiedKey>) -> Result<ListenerTls, TlsError>,
{
    pub(super) async fn run(
        mut self,
        mut changed: mpsc::Receiver<keyring::Change>,
        mut settings: mpsc::Receiver<tls::Config>,
        own: mpsc::Sender<GatewayChange>,
        ready: Ready,
    ) {
        let mut restarts = Restarts::new("tls_configurations", &ready);
        // Set while the last build failed.
        let mut retry: Option<Duration> = None;
        while !restarts.ended(self.follow(&mut changed, &mut settings, &own, &mut retry)).await {
            // The change that was being built may not be in force.
            retry = Some(Duration::ZERO);
        }
    }

    async fn follow(
        &mut self,
        changed: &mut mpsc::Receiver<keyring::Change>,
        settings: &mut mpsc::Receiver<tls::Config>,
        own: &mpsc::Sender<GatewayChange>,
        retry: &mut Option<Duration>,
    ) {
        loop {
            let change = tokio::select! {
                change = changed.recv() => match change {
                    Some(keyring::Change::SigningKeys(keys)) => Some(GatewayChange::Keys(keys)),
                    Some(keyring::Change::Identity(identity)) => {
                        self.identity = identity;
                        self.edge(retry)
                    }
                    Some(keyring::Change::TicketSecrets(secrets)) => {
                        self.config.tickets = Secrets::new(secrets);
                        self.edge(retry)
                    }
                    None => return,
                },
                Some(config) = settings.recv() => {
                    // The secrets are those that the keyring read.
                    let tickets = std::mem::take(&mut self.config.tickets);
                    self.config = tls::Config { tickets, ..config };
                    self.edge(retry)
                }
                () = sleep(retry.unwrap_or_default()), if retry.is_some() => self.edge(retry),
            };
            if let Some(change) = change
                && own.send(change).await.is_err()
            {
                return;
            }
        }
    }

    /// Builds the TLS configurations.  After a failure, `retry` is the time to wait before the next
    /// attempt: it doubles with each failure, from [`FIRST_RETRY`] to [`LONGEST_RETRY`].
    fn edge(&self, retry: &mut Option<Duration>) -> Option<GatewayChange> {
        match (self.build)(&self.config, &self.identity) {
            Ok(tls) => {
                *retry = None;
                Some(GatewayChange::Tls(Arc::new(tls)))
            }
            Err(error) => {
                let pause =
                    retry.map_or(FIRST_RETRY, |last| (last * 2).clamp(FIRST_RETRY, LONGEST_RETRY));
                *retry = Some(pause);
                error!(
                    %error,
                    "TLS configurations not built; the old ones stay in force, next attempt in \
                     {pause:?}"
                );
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::live::{Live, WeakLive};
    use rcgen::KeyPair;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::time::Instant;

    fn identity() -> Arc<CertifiedKey> {
        let key = KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let chain = vec![params.self_signed(&key).expect("a certificate").der().clone()];
        let private = key.serialize_der().try_into().expect("a key");
        Arc::new(CertifiedKey::from_der(chain, private, &tls::provider()).expect("they fit"))
    }

    fn no_state() -> WeakLive {
        let mut reader = None;
        let _ = Live::start(|live| {
            reader = Some(live.clone());
            Err::<_, ()>(())
        });
        reader.expect("a reader")
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_build_is_tried_again_after_doubled_pauses() {
        const FAILURES: usize = 8;
        let attempts = Arc::new(AtomicUsize::new(0));
        let (counted, live) = (Arc::clone(&attempts), no_state());
        let build = move |config: &tls::Config, identity: &Arc<CertifiedKey>| match counted
            .fetch_add(1, Ordering::Relaxed)
            < FAILURES
        {
            true => Err(rustls::Error::FailedToGetRandomBytes.into()),
            false => tls::build(config, identity, &live, &Default::default()),
        };
        let rebuild = Rebuild { config: tls::Config::default(), identity: identity(), build };
        let (keyring, changed) = mpsc::channel(1);
        let (own, mut changes) = mpsc::channel(1);
        let (_, settings) = mpsc::channel(1);
        let task = tokio::spawn(rebuild.run(changed, settings, own, Ready::default()));
        let start = Instant::now();
        keyring.send(keyring::Change::Identity(identity())).await.expect("received");
        assert!(matches!(changes.recv().await, Some(GatewayChange::Tls(_))));
        let pauses = [5, 10, 20, 40, 80, 160, 300, 300];
        assert_eq!(start.elapsed().as_secs(), pauses.iter().sum::<u64>());
        assert_eq!(attempts.load(Ordering::Relaxed), FAILURES + 1);
        // A build that succeeded is not repeated.
        drop(keyring);
        task.await.expect("ended");
        assert_eq!(attempts.load(Ordering::Relaxed), FAILURES + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_build_that_panics_is_repeated_and_alarmed() {
        let attempts = Arc::new(AtomicUsize::new(0));
        let (counted, live) = (Arc::clone(&attempts), no_state());
        let build = move |config: &tls::Config, identity: &Arc<CertifiedKey>| {
            assert!(counted.fetch_add(1, Ordering::Relaxed) > 1, "on purpose");
            tls::build(config, identity, &live, &Default::default())
        };
        let rebuild = Rebuild { config: tls::Config::default(), identity: identity(), build };
        let (keyring, changed) = mpsc::channel(1);
        let (own, mut changes) = mpsc::channel(1);
        let ready = Ready::default();
        let (_, settings) = mpsc::channel(1);
        let task = tokio::spawn(rebuild.run(changed, settings, own, ready.clone()));
        keyring.send(keyring::Change::Identity(identity())).await.expect("received");
        assert!(matches!(changes.recv().await, Some(GatewayChange::Tls(_))));
        assert_eq!(attempts.load(Ordering::Relaxed), 3);
        assert!(ready.warnings()["tls_configurations"].contains("panicked"));
        drop(keyring);
        task.await.expect("ended");
    }
}
