//! The gateway's own keys: server certificate, signing keys, ticket keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, mpsc};
use tracing::warn;

use crate::app::base::Base;
use crate::app::rebuild::Rebuild;
use crate::config::Config;
use crate::keyring::{self, Change, KeyringError, NameReport, Rotator};
use crate::runtime::live::{ListenerTls, Live, WeakLive};
use crate::runtime::publisher::GatewayChange;
use crate::tls;
use crate::tls::tickets::Secrets;
use crate::token::keys::SigningKeys;

/// Interval between two checks of the key files.
const INTERVAL: Duration = Duration::from_secs(10);

/// The keys as they were read at the start.
pub(super) struct GatewayKeys {
    pub(super) tls: tls::Config,
    pub(super) identity: Arc<CertifiedKey>,
    pub(super) signing: Arc<SigningKeys>,
    /// Report of the hosts that the certificate does not name.
    pub(super) names: NameReport,
    /// Handle of the rotation of signing keys.
    pub(super) rotation: keyring::Handle,
    /// Signals that the files must be checked now.
    pub(super) check: Arc<Notify>,
    changes: mpsc::Receiver<Change>,
}

impl GatewayKeys {
    /// Reads the keys, and starts to follow their files.
    ///
    /// # Errors
    /// A key or a file is not usable.
    pub(super) fn start(config: &Config, base: &mut Base) -> Result<Self, KeyringError> {
        let (files, provider) = (&config.keyring, tls::provider());
        let (sender, changes) = mpsc::channel(4);
        let check = Arc::<Notify>::default();
        keyring::remove_temporary_files(files);
        keyring::replace_key_of_other_algorithm(files, (base.clock)())?;
        base.tasks.spawn_until_stop(keyring::watch(
            files.clone(),
            Arc::clone(&provider),
            INTERVAL,
            Arc::clone(&check),
            base.ready.clone(),
            sender.clone(),
        ));
        let identity = keyring::identity(files, &provider)?;
        if let Some(problem) = keyring::invalidity(&identity, SystemTime::now().into()) {
            warn!(file = %files.certificate.display(), "server certificate: {problem}");
        }
        let (hosts, ready) = (config.advertised_hosts(), base.ready.clone());
        let names = NameReport::register(hosts, ready, &mut base.registry);
        let (signing, rotation) = match &files.rotation {
            Some(rotation) => {
                let (clock, ready) = (Arc::clone(&base.clock), base.ready.clone());
                let (signing, rotator, handle) =
                    Rotator::start(files, rotation, clock, ready, sender)?;
                base.tasks.spawn_until_stop(rotator.run());
                (signing, handle)
            }
            None => (keyring::signing_keys(files)?, keyring::Handle::default()),
        };
        let tickets = Secrets::new(keyring::ticket_secrets(files)?);
        let tls = tls::Config { tickets, ..config.tls.clone() };
        Ok(Self { tls, identity, signing: Arc::new(signing), names, rotation, check, changes })
    }

    /// Starts to send the changes of the keys and of the TLS settings to the publisher.  Returns the handle
    /// of the rotation of signing keys, and the signal that checks the files.
    pub(super) fn follow(
        self,
        base: &Base,
        live: &Live,
        publisher: mpsc::Sender<GatewayChange>,
        settings: mpsc::Receiver<tls::Config>,
    ) -> (keyring::Handle, Arc<Notify>) {
        let (reader, metrics) = (live.downgrade(), base.connections.clone());
        let names = self.names;
        let build =
            move |config: &_, identity: &_| build_tls(config, identity, &reader, &metrics, &names);
        let rebuild = Rebuild { config: self.tls, identity: self.identity, build };
        let ready = base.ready.clone();
        base.tasks.spawn_until_stop(rebuild.run(self.changes, settings, publisher, ready));
        (self.rotation, self.check)
    }
}

/// Builds the TLS configurations, and exposes the validity of the certificate and missing names.
///
/// # Errors
/// rustls rejects the settings.
pub(super) fn build_tls(
    config: &tls::Config,
    identity: &Arc<CertifiedKey>,
    live: &WeakLive,
    metrics: &tls::metrics::Metrics,
    names: &NameReport,
) -> Result<ListenerTls, tls::TlsError> {
    let built = tls::build(config, identity, live, metrics)?;
    if let Some((not_before, not_after)) = keyring::validity(identity) {
        metrics.certificate(not_before, not_after);
    }
    names.check(identity);
    Ok(built)
}
