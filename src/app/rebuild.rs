//! New TLS configurations after a change of the gateway's key files.

use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::error;

use crate::keyring;
use crate::runtime::live::Live;
use crate::runtime::publisher::OwnChange;
use crate::tls;
use crate::tls::tickets::Secrets;

/// Pause after the first failed build of the TLS configurations.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to build them.
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Turns a changed key into a change for the publisher.  A new server certificate or new ticket
/// keys require new TLS configurations, which depend on parts that the keyring does not know.
pub(super) struct Rebuild {
    pub(super) config: tls::Config,
    pub(super) identity: Arc<CertifiedKey>,
    pub(super) live: Live,
    pub(super) metrics: tls::metrics::Metrics,
}

impl Rebuild {
    pub(super) async fn run(
        mut self,
        mut changed: mpsc::Receiver<keyring::Change>,
        own: mpsc::Sender<OwnChange>,
    ) {
        // Set while the last build failed.
        let mut retry: Option<Duration> = None;
        loop {
            let change = tokio::select! {
                change = changed.recv() => match change {
                    Some(keyring::Change::SigningKeys(keys)) => Some(OwnChange::Keys(keys)),
                    Some(keyring::Change::Identity(identity)) => {
                        self.identity = identity;
                        self.edge(&mut retry)
                    }
                    Some(keyring::Change::TicketSecrets(secrets)) => {
                        self.config.tickets = Secrets::new(secrets);
                        self.edge(&mut retry)
                    }
                    None => return,
                },
                () = sleep(retry.unwrap_or_default()), if retry.is_some() => self.edge(&mut retry),
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
    fn edge(&self, retry: &mut Option<Duration>) -> Option<OwnChange> {
        let live = self.live.downgrade();
        match tls::build(&self.config, &self.identity, &live, &self.metrics) {
            Ok(tls) => {
                *retry = None;
                Some(OwnChange::Tls(Arc::new(tls)))
            }
            Err(error) => {
                let pause = retry.map_or(FIRST_RETRY, |last| (last * 2).min(LONGEST_RETRY));
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
