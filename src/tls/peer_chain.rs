//! Parses the chain that a peer presents once per connection and shares its intermediates between
//! connections.
//!
//! # Design notes
//! The verifier parses the chain to judge it, and the connection needs the same chain for its
//! requests. rustls calls the verifier with certificates only, so nothing identifies the
//! connection.  The acceptor therefore runs each handshake with a slot in a task-local: rustls
//! calls the verifier synchronously while the task polls the handshake.  The slot is part of the
//! handshake's future and costs neither an allocation nor a lock.  A verifier per connection would
//! need a new `ServerConfig` for each handshake. A map keyed by the leaf's fingerprint would be a
//! lock that all handshakes share, and a refused handshake would have to remove its entry.
//!
//! A fleet has few intermediates and many devices.  An intermediate is looked up by the SHA-256 of
//! its DER before it is parsed, so that connections hold pointers to one copy.  Parsing depends on
//! the bytes alone, so a shared certificate carries no trust: every request is judged.  Only
//! completed handshakes add certificates, and only those that the connection keeps.  A peer that is
//! refused cannot displace any, nor can one that presents certificates which lead nowhere.
//!
//! A connection keeps the leaf and the certificates of its paths, not the presented chain
//! ([`admission`](crate::trust::judge::admission)).  A resumed session whose intermediates are all in
//! the table is not reduced: each of them was on a path.
//!
//! rustls keeps the DER that was presented until the connection ends.  Its API cannot release it.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::runtime::clock;
use crate::runtime::live::Live;
use crate::trust::judge::admission::admit;
use crate::trust::judge::devices::UnverifiedChain;
use crate::trust::refusal::Refusal;
use crate::x509::certificate::{Certificate, Fingerprint};
use crate::x509::time::Timestamp;

/// Certificates in one table.  A full table is emptied and filled again; connections keep what they
/// hold.
const MAX_CERTIFICATES: usize = 1_024;
/// Bytes of DER of a certificate that is shared, so that a table stays below about 12 MiB.
const MAX_DER: usize = 4 * 1024;

tokio::task_local! {
    /// The slot of the handshake that the current task polls.
    static HANDSHAKE: Slot;
}

struct Slot {
    intermediates: Arc<Intermediates>,
    chain: Cell<Option<Arc<UnverifiedChain>>>,
    /// The part of `chain` that the connection keeps.
    kept: Cell<Option<Arc<UnverifiedChain>>>,
    /// Every signature of the chain had been verified before.
    is_known: Cell<bool>,
    resumed: Cell<Option<PresentedChain>>,
}

/// Runs `handshake` and returns its output with the chain that the verifier decided to keep meanwhile.
/// There is no chain if the verifier was not called, as on a resumed session, or judged none.  Also returns
/// true if every signature of the chain had been verified before.
pub(super) async fn collect<T>(
    intermediates: &Arc<Intermediates>,
    handshake: impl Future<Output = T>,
) -> (T, Option<(Arc<UnverifiedChain>, bool)>) {
    let (chain, kept, is_known, resumed) = Default::default();
    let slot = Slot { intermediates: Arc::clone(intermediates), chain, kept, is_known, resumed };
    let handshake = async {
        let output = handshake.await;
        let judged = HANDSHAKE.with(|slot| Some((slot.kept.take()?, slot.is_known.get())));
        (output, judged)
    };
    HANDSHAKE.scope(slot, handshake).await
}

/// Parses a presented chain, leaf first, and leaves it to the ticket within [`collect`].
pub(super) fn parse<B: AsRef<[u8]>>(presented: &[B]) -> Result<Arc<UnverifiedChain>, Refusal> {
    let in_handshake = HANDSHAKE.try_with(|slot| {
        let chain = Arc::new(slot.intermediates.parse(presented)?);
        slot.chain.set(Some(Arc::clone(&chain)));
        Ok(chain)
    });
    in_handshake.unwrap_or_else(|_| UnverifiedChain::from_der(presented).map(Arc::new))
}

/// Leaves a chain to the connection within [`collect`].
pub(super) fn keep(chain: Arc<UnverifiedChain>, is_known: bool) {
    let _ = HANDSHAKE.try_with(|slot| {
        slot.kept.set(Some(chain));
        slot.is_known.set(is_known);
    });
}

/// Returns the leaf that was parsed in the current handshake.
pub(super) fn parsed_leaf() -> Option<Arc<Certificate>> {
    let in_handshake = HANDSHAKE.try_with(|slot| {
        let chain = slot.chain.take()?;
        let leaf = Arc::clone(chain.leaf());
        slot.chain.set(Some(chain));
        Some(leaf)
    });
    in_handshake.ok().flatten()
}

/// A certificate of the peer of the current handshake.
#[derive(Debug, Clone)]
pub(super) struct Presented {
    /// The first eight bytes of its SHA-256.
    pub name: u64,
    pub der: Arc<[u8]>,
}

impl Presented {
    pub(super) fn new(der: &[u8]) -> Self {
        Self::named(Fingerprint::of(der), der.into())
    }

    fn named(fingerprint: Fingerprint, der: Arc<[u8]>) -> Self {
        let name = fingerprint.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
        Self { name, der }
    }
}

/// The chain of the peer of the current handshake, leaf first.
#[derive(Debug, Clone)]
pub(super) struct PresentedChain {
    pub certificates: Vec<Presented>,
    pub not_after: Timestamp,
}

impl PresentedChain {
    fn of(chain: &UnverifiedChain) -> Self {
        let presented = |certificate: &Arc<Certificate>| {
            Presented::named(certificate.fingerprint, certificate.shared_der())
        };
        let certificates = chain.certificates().iter().map(presented).collect();
        Self { certificates, not_after: chain.leaf().not_after }
    }
}

/// Returns the chain of the current handshake's peer: the verifier has parsed it, or it was in the
/// ticket.
pub(super) fn presented() -> Option<PresentedChain> {
    with_presented(|parsed| parsed.map_or_else(PresentedChain::clone, PresentedChain::of))
}

/// Returns the end of the leaf's validity.
pub(super) fn presented_until() -> Option<Timestamp> {
    with_presented(|parsed| {
        parsed.map_or_else(|resumed| resumed.not_after, |chain| chain.leaf().not_after)
    })
}

/// Leaves the chain of a ticket to the ticket that follows it.
pub(super) fn resume(chain: PresentedChain) {
    let _ = HANDSHAKE.try_with(|slot| slot.resumed.set(Some(chain)));
}

/// A parsed chain counts first: a ticket can be opened and then not be used.
fn with_presented<T>(
    read: impl FnOnce(Result<&UnverifiedChain, &PresentedChain>) -> T,
) -> Option<T> {
    let in_handshake = HANDSHAKE.try_with(|slot| {
        if let Some(chain) = slot.chain.take() {
            let value = read(Ok(&chain));
            slot.chain.set(Some(chain));
            return Some(value);
        }
        let resumed = slot.resumed.take()?;
        let value = read(Err(&resumed));
        slot.resumed.set(Some(resumed));
        Some(value)
    });
    in_handshake.ok().flatten()
}

/// Intermediate certificates that the connections of one listener share, by the SHA-256 of their
/// DER.
#[derive(Default)]
pub(super) struct Intermediates {
    certificates: RwLock<HashMap<Fingerprint, Arc<Certificate>>>,
}

impl Intermediates {
    /// Parses a presented chain, leaf first.  Known intermediates are not parsed again.
    pub(super) fn parse<B: AsRef<[u8]>>(&self, chain: &[B]) -> Result<UnverifiedChain, Refusal> {
        UnverifiedChain::from_der_with(chain, |der| match self.get(der) {
            Some(certificate) => Ok(certificate),
            None => Certificate::from_der(der).map(Arc::new),
        })
    }

    /// Returns the part of a presented chain that the connection keeps, and shares its intermediates.
    /// `kept` is the verifier's decision, if it was called and judges chains.
    pub(super) fn share<B: AsRef<[u8]>>(
        &self,
        presented: &[B],
        kept: Option<Arc<UnverifiedChain>>,
        live: &Live,
    ) -> Result<Arc<UnverifiedChain>, Refusal> {
        let is_leaf = |chain: &Arc<UnverifiedChain>| {
            presented.first().is_some_and(|leaf| *leaf.as_ref() == *chain.leaf().der())
        };
        let kept = match kept.filter(is_leaf) {
            Some(chain) => chain,
            None => {
                let chain = Arc::new(self.parse(presented)?);
                if self.contains_all(chain.certificates().iter().skip(1)) {
                    return Ok(chain);
                }
                admit(&chain, &live.current().trust, clock::now()).kept
            }
        };
        self.add(&kept);
        Ok(kept)
    }

    fn get(&self, der: &[u8]) -> Option<Arc<Certificate>> {
        if der.len() > MAX_DER {
            return None;
        }
        let fingerprint = Fingerprint::of(der);
        let certificates = self.certificates.read().unwrap_or_else(PoisonError::into_inner);
        certificates.get(&fingerprint).cloned()
    }

    /// Adds the intermediates of a completed handshake.  Takes the write lock only if one is
    /// missing.
    fn add(&self, chain: &UnverifiedChain) {
        let shared = || chain.certificates().iter().skip(1).filter(|c| c.der().len() <= MAX_DER);
        if shared().next().is_none() || self.contains_all(shared()) {
            return;
        }
        let mut known = self.certificates.write().unwrap_or_else(PoisonError::into_inner);
        for certificate in shared() {
            if known.len() >= MAX_CERTIFICATES && !known.contains_key(&certificate.fingerprint) {
                known.clear();
            }
            known.entry(certificate.fingerprint).or_insert_with(|| Arc::clone(certificate));
        }
    }

    fn contains_all<'a>(&self, mut all: impl Iterator<Item = &'a Arc<Certificate>>) -> bool {
        let known = self.certificates.read().unwrap_or_else(PoisonError::into_inner);
        all.all(|certificate| known.contains_key(&certificate.fingerprint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::closing::tests::{live, snapshot};
    use crate::trust::refusal::Code;
    use crate::x509::test_certificates::{Key, Spec, cn};
    use rcgen::CertificateParams;

    fn leaf(name: &str) -> Vec<u8> {
        Spec::device(cn(name), cn("A")).sign(Key::number(1), Key::number(0))
    }

    fn intermediate(name: &str) -> Vec<u8> {
        Spec::authority(cn(name), cn("R")).sign(Key::number(0), Key::number(2))
    }

    fn len(intermediates: &Intermediates) -> usize {
        intermediates.certificates.read().expect("not poisoned").len()
    }

    #[test]
    fn shares_intermediates_and_never_leaves() {
        let intermediates = Intermediates::default();
        let presented = [leaf("d1"), intermediate("A"), intermediate("B")];
        let first = intermediates.parse(&presented).expect("readable");
        assert_eq!(len(&intermediates), 0, "parsing adds nothing");
        intermediates.add(&first);
        assert_eq!(len(&intermediates), 2);
        let second = intermediates.parse(&presented).expect("readable");
        let same = |i: usize| Arc::ptr_eq(&first.certificates()[i], &second.certificates()[i]);
        assert_eq!([0, 1, 2].map(same), [false, true, true]);
        assert_eq!(first.leaf().fingerprint, second.leaf().fingerprint);

        let other = intermediates.parse(&[leaf("d2"), presented[2].clone()]).expect("readable");
        assert!(Arc::ptr_eq(&other.certificates()[1], &first.certificates()[2]));
    }

    #[test]
    fn a_full_table_starts_again() {
        let intermediates = Intermediates::default();
        let chain = |name: &str| UnverifiedChain::from_der(&[leaf("d"), intermediate(name)]);
        let first = chain("first").expect("readable");
        intermediates.add(&first);
        let certificate = Arc::clone(&first.certificates()[1]);
        for n in 1..MAX_CERTIFICATES {
            let key = Fingerprint::of(&n.to_be_bytes());
            let mut known = intermediates.certificates.write().expect("not poisoned");
            known.insert(key, Arc::clone(&certificate));
        }
        intermediates.add(&first);
        assert_eq!(len(&intermediates), MAX_CERTIFICATES);
        intermediates.add(&chain("second").expect("readable"));
        assert_eq!(len(&intermediates), 1);
    }

    #[test]
    fn applies_the_limits_of_a_chain() {
        let intermediates = Intermediates::default();
        let code = |chain: &[Vec<u8>]| intermediates.parse(chain).map(drop).map_err(|r| r.code);
        assert_eq!(code(&[]), Err(Code::CertificateMissing));
        assert_eq!(code(&vec![leaf("d"); 49]), Err(Code::ChainTooLong));
        assert_eq!(code(&[vec![0x30, 0]]), Err(Code::CertificateMalformed));
        let unreadable = intermediates.parse(&[leaf("d"), vec![0x30, 0]]).expect("readable leaf");
        assert!(unreadable.unreadable().is_some());
    }

    #[tokio::test]
    async fn hands_the_verifiers_chain_to_the_connection() {
        let intermediates = Arc::default();
        let presented = [leaf("d"), intermediate("A")];
        let handshake = async {
            assert!(parsed_leaf().is_none());
            tokio::task::yield_now().await;
            let chain = parse(&presented).expect("readable");
            keep(Arc::clone(&chain), true);
            assert!(parsed_leaf().is_some_and(|leaf| Arc::ptr_eq(&leaf, chain.leaf())));
            chain
        };
        let (verified, collected) = collect(&intermediates, handshake).await;
        assert!(collected.is_some_and(|(chain, known)| known && Arc::ptr_eq(&chain, &verified)));

        let refused = async { parse(&[[0x30, 0]]).map(drop).map_err(|refusal| refusal.code) };
        let (refused, collected) = collect(&intermediates, refused).await;
        assert_eq!((refused, collected.is_none()), (Err(Code::CertificateMalformed), true));
        assert!(parse(&presented).is_ok(), "outside of a handshake too");
        assert!(parsed_leaf().is_none());
    }
    #[test]
    fn a_connection_keeps_the_verifiers_chain_or_what_a_path_needs() {
        let (trust, root) = snapshot(None);
        let (live, _writer) = live(trust);
        let params = CertificateParams::new(["d.example".to_owned()]).expect("a name");
        let key = rcgen::KeyPair::generate().expect("a key");
        let own = params.signed_by(&key, &root).expect("a leaf").der().to_vec();
        let (presented, junk) = ([own.clone(), intermediate("A")], intermediate("B"));
        let intermediates = Intermediates::default();

        // The verifier was not called, and the certificate leads nowhere.
        let kept = intermediates.share(&presented, None, &live).expect("readable");
        assert_eq!((kept.certificates().len(), len(&intermediates)), (1, 0));
        let verified = Arc::new(intermediates.parse(&presented).expect("readable"));
        let share = |sent: &[Vec<u8>]| {
            intermediates.share(sent, Some(Arc::clone(&verified)), &live).expect("readable")
        };
        assert!(Arc::ptr_eq(&share(&presented), &verified));
        assert_eq!(len(&intermediates), 1);
        // A resumed session with known certificates is not judged.
        let kept = intermediates.share(&presented, None, &live).expect("readable");
        assert_eq!(kept.certificates().len(), 2);
        let kept = intermediates.share(&[own, junk], None, &live).expect("readable");
        assert_eq!((kept.certificates().len(), len(&intermediates)), (1, 1));
        // Another leaf than the verifier's.
        let other = [leaf("d")];
        assert_eq!(share(&other).leaf().der(), &*other[0]);
    }
}
