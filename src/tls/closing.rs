//! Closes open connections whose certificate the judge now refuses, if the operator enables it.
//!
//! No decision depends on this: every request is judged when it arrives.  Closing frees the
//! connection of a device that would only be refused, and makes the refusal visible at once.
//!
//! # Design notes
//! Judging a hundred thousand connections at once after every new revocation list would slow down
//! requests.  Connections are judged in slices, and the pauses between slices leave most of a
//! processor to requests.  A connection stays open if the only objection is that the revocation
//! status is unknown: the fault is then on the gateway's side, and closing would cause a storm of
//! reconnects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::runtime::audit::{Event, Outcome, Record};
use crate::runtime::clock;
use crate::runtime::live::Live;
use crate::trust::judge::admission::admit;
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::Refusal;

/// Interval between two checks for a new snapshot.  Snapshots published within it are judged
/// together.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Connections judged without a pause, a few microseconds each.
const SLICE: usize = 64;
/// Pause between two slices, about ten times as long as a slice takes.
const PAUSE: Duration = Duration::from_millis(5);

/// The open connections of one listener.
#[derive(Clone, Default)]
pub struct OpenConnections {
    by_number: Arc<Mutex<BTreeMap<u64, Open>>>,
}

#[derive(Clone)]
struct Open {
    chain: Arc<UnverifiedChain>,
    close: CancellationToken,
}

/// Keeps a connection registered until it is dropped.
pub(super) struct Registration {
    connections: OpenConnections,
    number: u64,
}

impl OpenConnections {
    /// Registers a connection that closes gracefully when `close` is cancelled.
    pub(super) fn register(
        &self,
        number: u64,
        chain: &Arc<UnverifiedChain>,
        close: &CancellationToken,
    ) -> Registration {
        let open = Open { chain: Arc::clone(chain), close: close.clone() };
        self.lock().insert(number, open);
        Registration { connections: self.clone(), number }
    }

    /// Judges all connections again after each new snapshot.  Never returns.
    pub(crate) async fn judge_after_updates(self, live: Live) {
        let mut judged = live.current().trust.generation;
        loop {
            sleep(CHECK_INTERVAL).await;
            let generation = live.current().trust.generation;
            if generation != judged {
                judged = generation;
                self.close_refused(&live).await;
            }
        }
    }

    /// Closes the refused connections among those that are open at the start of the call.
    async fn close_refused(&self, live: &Live) {
        let Some(last) = self.lock().last_key_value().map(|(number, _)| *number) else { return };
        let (mut next, mut closed) = (0, 0u64);
        while next <= last {
            let slice: Vec<(u64, Open)> = {
                let open = self.lock();
                let slice = open.range(next..=last).take(SLICE);
                slice.map(|(number, open)| (*number, open.clone())).collect()
            };
            let Some((end, _)) = slice.last() else { break };
            next = end + 1;
            let active = live.current();
            for (number, open) in slice {
                let admission = admit(&open.chain, &active.trust, clock::now());
                if let Err(refusal) = admission.verdict
                    && !refusal.is_revocation_unknown()
                {
                    closed += 1;
                    audit(number, &open, &refusal, active.trust.generation);
                    open.close.cancel();
                }
            }
            sleep(PAUSE).await;
        }
        if closed > 0 {
            info!(closed, "open connections closed: their certificates are refused now");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        // Each change is one insertion or removal, so a panic leaves a consistent map.
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.number);
    }
}

fn audit(number: u64, open: &Open, refusal: &Refusal, generation: u64) {
    let leaf = open.chain.leaf();
    Record {
        refusal: Some(refusal.code.as_str()),
        detail: Some(&refusal.detail),
        subject: Some(&leaf.subject.to_string()),
        serial: Some(&leaf.serial_hex()),
        certificate: Some(leaf.fingerprint),
        generation: Some(generation),
        connection: Some(number),
        ..Record::new(Event::Close, Outcome::Closed)
    }
    .emit();
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::runtime::live::Active;
    use crate::tls::{self, metrics::Metrics};
    use crate::token::keys::{Algorithm, SigningKey, SigningKeys};
    use crate::trust::configurations::{
        Application, Authority, Configuration, Configurations, Device, Devices,
    };
    use crate::trust::snapshot::Snapshot;
    use crate::trust::subject::SubjectField;
    use crate::x509::certificate::Certificate;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::sign::CertifiedKey;

    pub(in crate::tls) type Issuer = CertifiedIssuer<'static, KeyPair>;

    pub(in crate::tls) fn live(trust: Snapshot) -> (Live, crate::runtime::live::Writer) {
        live_with(trust, &tls::Config::default())
    }

    pub(in crate::tls) fn live_with(
        trust: Snapshot,
        config: &tls::Config,
    ) -> (Live, crate::runtime::live::Writer) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let chain = vec![params.self_signed(&key).expect("a certificate").der().clone()];
        let private = key.serialize_der().try_into().expect("a key");
        let identity = CertifiedKey::from_der(chain, private, &tls::provider()).expect("they fit");
        let signing = SigningKey::from_pkcs8(Algorithm::Es256, key.serialized_der());
        let keys = SigningKeys::new(Arc::new(signing.expect("a key")), &[]).expect("a set");
        Live::start(|live| {
            let tls = tls::build(config, &Arc::new(identity), live, &Metrics::default())?;
            Ok::<_, tls::TlsError>(Active {
                trust: Arc::new(trust),
                keys: Arc::new(keys),
                policy: Arc::default(),
                tls: Arc::new(tls),
            })
        })
        .expect("a cell")
    }

    pub(in crate::tls) fn authority_params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    }

    /// Returns a snapshot with one authority, and the authority.
    pub(in crate::tls) fn snapshot(crl_url: Option<&str>) -> (Snapshot, Issuer) {
        snapshot_of(KeyPair::generate().expect("a key"), crl_url)
    }

    /// Like [`snapshot`], with the key of the authority.
    pub(in crate::tls) fn snapshot_of(key: KeyPair, crl_url: Option<&str>) -> (Snapshot, Issuer) {
        let root = CertifiedIssuer::self_signed(authority_params("root"), key).expect("a root");
        let authority = Authority {
            certificate: Arc::new(Certificate::from_der(root.der()).expect("readable")),
            is_root: true,
            crl_url: crl_url.map(Into::into),
            delta_crl_url: None,
        };
        let configuration = Configuration {
            id: "1".into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind: Device { subject_field: SubjectField::SanDns, devices: Devices::Any },
            authorities: vec![authority],
        };
        let anchors = Configurations::from_iter([configuration]);
        let (none, policy, memo) = Default::default();
        (Snapshot::new(1, Arc::new(anchors), none, policy, memo), root)
    }

    /// Returns a snapshot that accepts the certificates of `root` for applications only.
    fn applications_only(root: &Issuer) -> Snapshot {
        let authority = Authority {
            certificate: Arc::new(Certificate::from_der(root.der()).expect("readable")),
            is_root: true,
            crl_url: None,
            delta_crl_url: None,
        };
        let configuration = Configuration {
            id: "1".into(),
            domain: Arc::default(),
            display_name: String::new(),
            kind: Application,
            authorities: vec![authority],
        };
        let applications = Configurations::from_iter([configuration]);
        Snapshot::default().with_applications(applications)
    }

    fn chain(root: &Issuer) -> Arc<UnverifiedChain> {
        let params = CertificateParams::new(["device.example".to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, root).expect("a leaf");
        Arc::new(UnverifiedChain::from_der(&[leaf.der()]).expect("readable"))
    }

    #[tokio::test(start_paused = true)]
    async fn closes_refused_connections_unless_only_their_revocation_status_is_unknown() {
        let (good, root) = snapshot(None);
        let (crl_missing, other_root) = snapshot(Some("http://ca.example/1.crl"));
        let (open, stop) = (OpenConnections::default(), CancellationToken::new());
        for (trust, chain, closes) in [
            (good, &chain(&root), false),
            (crl_missing, &chain(&other_root), false),
            (applications_only(&root), &chain(&root), false),
            (Snapshot::default(), &chain(&root), true),
        ] {
            let (live, _writer) = live(trust);
            let tokens: Vec<_> = (0..3 * SLICE + 1).map(|_| stop.child_token()).collect();
            let numbered = (1u64..).zip(&tokens);
            let registered: Vec<_> = numbered.map(|(n, t)| open.register(n, chain, t)).collect();
            open.close_refused(&live).await;
            let closed = tokens.iter().filter(|token| token.is_cancelled()).count();
            assert_eq!(closed, if closes { tokens.len() } else { 0 });
            drop(registered);
            assert!(open.lock().is_empty(), "closed connections are removed");
        }
    }
}
