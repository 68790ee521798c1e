//! Closes open connections whose certificate is no longer good, where the operator wants that.
//!
//! No decision depends on it: every request is judged when it comes.  What it spares is a connection
//! held open by a device that would only be refused, and the time until somebody notices.
//!
//! # Why slowly, and why not for every refusal
//! A hundred thousand connections judged at once, at every new list, would be felt by requests.  They
//! are judged in slices, with rests that leave most of a processor to others.  And where the fault is
//! ours (a list that is missing or stale), closing would only make a storm of reconnects of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::runtime::live::Live;
use crate::runtime::log::AUDIT;
use crate::trust::judge::devices::{UnverifiedChain, judge};
use crate::trust::refusal::Refusal;

/// Between two looks at whether trust has changed: what changes meanwhile is judged once.
const LOOK: Duration = Duration::from_secs(1);
/// Connections judged without a rest, a few microseconds each.
const SLICE: usize = 64;
/// The rest: ten times what a slice takes or so.
const REST: Duration = Duration::from_millis(5);

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

/// Held while a connection is open.
pub struct Entry {
    connections: OpenConnections,
    number: u64,
}

impl OpenConnections {
    /// Enters a connection, which ends gracefully when `close` is signalled.
    pub fn enter(
        &self,
        number: u64,
        chain: &Arc<UnverifiedChain>,
        close: &CancellationToken,
    ) -> Entry {
        let open = Open { chain: Arc::clone(chain), close: close.clone() };
        self.lock().insert(number, open);
        Entry { connections: self.clone(), number }
    }

    /// Judges all connections again after each publication, for ever.
    pub async fn keep_good(self, live: Live) {
        let mut judged = live.current().trust.generation;
        loop {
            sleep(LOOK).await;
            let generation = live.current().trust.generation;
            if generation != judged {
                judged = generation;
                self.close_refused(&live).await;
            }
        }
    }

    /// Closes the connections that were there when it began and are not good now.
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
                let verdict = judge(&open.chain, &active.trust, SystemTime::now().into());
                if let Err(refusal) = verdict.map(|_| ())
                    && !refusal.is_for_want_of_a_list()
                {
                    closed += 1;
                    tell(number, &open, &refusal, active.trust.generation);
                    open.close.cancel();
                }
            }
            sleep(REST).await;
        }
        if closed > 0 {
            info!("{closed} open connections were closed: their certificates are no longer good");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Open>> {
        // A panic elsewhere leaves the map whole.
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.number);
    }
}

fn tell(number: u64, open: &Open, refusal: &Refusal, generation: u64) {
    let leaf = open.chain.leaf();
    info!(
        target: AUDIT,
        event = "close",
        refusal = refusal.code.as_str(),
        detail = refusal.detail,
        subject = %leaf.subject,
        serial = leaf.serial_hex(),
        certificate = %leaf.fingerprint,
        generation,
        connection = number,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::live::Active;
    use crate::tls::{self, metrics::Metrics};
    use crate::token::keys::{Algorithm, SigningKey, SigningKeys};
    use crate::trust::configurations::{AnchorSet, Authority, Configuration, Devices, Kind};
    use crate::trust::snapshot::Snapshot;
    use crate::trust::subject::SubjectField;
    use crate::x509::certificate::Certificate;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::sign::CertifiedKey;

    fn live(trust: Snapshot) -> (Live, crate::runtime::live::Writer) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let chain = vec![params.self_signed(&key).expect("a certificate").der().clone()];
        let private = key.serialize_der().try_into().expect("a key");
        let identity = CertifiedKey::from_der(chain, private, &tls::provider()).expect("they fit");
        let signing = SigningKey::from_pkcs8(Algorithm::Es256, key.serialized_der());
        let keys = SigningKeys::new(Arc::new(signing.expect("a key")), &[]).expect("a set");
        Live::start(|live| {
            let config = tls::Config::default();
            let tls = tls::edge(&config, &Arc::new(identity), live, &Metrics::default())?;
            Ok::<_, tls::TlsError>(Active {
                trust: Arc::new(trust),
                keys: Arc::new(keys),
                tls: Arc::new(tls),
            })
        })
        .expect("a cell")
    }

    /// A trust domain of one authority, and a chain of it.
    fn world(crl_url: Option<&str>) -> (Snapshot, Arc<UnverifiedChain>) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let root = root.expect("a root");
        let params = CertificateParams::new(["device.example".to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &root).expect("a leaf");
        let authority = Authority {
            certificate: Arc::new(Certificate::from_der(root.der()).expect("readable")),
            is_root: true,
            crl_url: crl_url.map(Into::into),
            delta_crl_url: None,
        };
        let configuration = Configuration {
            id: "1".into(),
            display_name: String::new(),
            kind: Kind::Devices(SubjectField::SanDns),
            devices: Devices::Any,
            authorities: vec![authority],
        };
        let anchors = AnchorSet { configurations: vec![configuration], skipped: Vec::new() };
        let (none, policy, memo) = Default::default();
        let trust = Snapshot::new(1, Arc::new(anchors), none, policy, memo);
        (trust, Arc::new(UnverifiedChain::from_der(&[leaf.der()]).expect("readable")))
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_bad_is_closed_and_who_wants_for_a_list_is_not() {
        let (good, chain) = world(None);
        let (list_missing, waiting) = world(Some("http://ca.example/1.crl"));
        let (open, stop) = (OpenConnections::default(), CancellationToken::new());
        for (trust, chain, closes) in [
            (good, &chain, false),
            (list_missing, &waiting, false),
            (Snapshot::default(), &chain, true),
        ] {
            let (live, _writer) = live(trust);
            let tokens: Vec<_> = (0..3 * SLICE + 1).map(|_| stop.child_token()).collect();
            let numbered = (1u64..).zip(&tokens);
            let entries: Vec<_> = numbered.map(|(n, t)| open.enter(n, chain, t)).collect();
            open.close_refused(&live).await;
            let closed = tokens.iter().filter(|token| token.is_cancelled()).count();
            assert_eq!(closed, if closes { tokens.len() } else { 0 });
            drop(entries);
            assert!(open.lock().is_empty(), "closed connections are forgotten");
        }
    }
}
