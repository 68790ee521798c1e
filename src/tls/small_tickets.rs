//! Session tickets that name certificates instead of containing them.
//!
//! # Design notes
//! rustls seals the client's whole chain into each ticket, one to two kilobytes for elliptic curves
//! and eight or more for ML-DSA, and a device sends it back with each reconnection.  Its encoding of
//! a session is private, and does not matter here: a certificate's DER is a part of it, byte for
//! byte.  Each part of the session that is a certificate of the peer is replaced by the first eight
//! bytes of its SHA-256, and put back when the ticket is opened.  The SHA-256 of the whole session is
//! in the ticket, so that a wrong certificate is never put back.  A certificate that is not at hand,
//! or anything else that does not fit, makes the ticket unusable: a full handshake follows.
//!
//! Certificates come from completed handshakes.  They are kept by their bytes and carry no trust:
//! every request is judged.
//!
//! The leaf is left out only if tickets are opened by the process that has sealed them.  Replicas
//! that share ticket keys get the leaf in the ticket; they have all intermediates in common.
//!
//! A ticket is not valid longer than the leaf.
//!
//! | field of the sealed session | bytes |
//! |---|---|
//! | form: 0 for a session that follows unchanged, 1 for the rest of this table | 1 |
//! | notAfter of the leaf, seconds since 1970 | 8 |
//! | SHA-256 of the session | 32 |
//! | parts: bytes as they are (0), a certificate (1), each with 2 bytes of length, or a name (2) | 3 + n or 9 |

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use rustls::server::ProducesTickets;

use crate::runtime::clock;
use crate::tls::Resumption;
use crate::tls::peer_chain::{self, Presented, PresentedChain};
use crate::tls::ticket_readers::TicketReaders;
use crate::tls::ticket_slot;
use crate::x509::time::Timestamp;

/// Largest certificate that is left out of tickets, in bytes of DER.
const MAX_DER: usize = 16 * 1024;
/// Bytes of DER that one kept certificate may have on average.
const AVERAGE_DER: u64 = 1024;
const SHA256_LEN: usize = 32;

const WHOLE: u8 = 0;
const SMALL: u8 = 1;

const LITERAL: u8 = 0;
const CERTIFICATE: u8 = 1;
const NAME: u8 = 2;

/// Certificates of completed handshakes, which tickets name.  Clones share one table, so that tickets
/// outlive a new server certificate.
#[derive(Clone)]
pub struct KnownCertificates {
    leaves: usize,
    /// By the first bytes of their SHA-256.
    table: Arc<Cache<u64, Arc<[u8]>, DerLength>>,
}

#[derive(Clone)]
struct DerLength;

impl Weighter<u64, Arc<[u8]>> for DerLength {
    fn weight(&self, _: &u64, der: &Arc<[u8]>) -> u64 {
        der.len() as u64
    }
}

impl KnownCertificates {
    /// Keeps about this number of leaves, of 1 KiB on average.  With 0, tickets contain the leaf.
    pub fn new(leaves: usize) -> Self {
        // Intermediates need room even if no leaf is kept.
        let bytes = leaves.max(1_024) as u64 * AVERAGE_DER;
        Self { leaves, table: Arc::new(Cache::with_weighter(1_024, bytes, DerLength)) }
    }
}

impl fmt::Debug for KnownCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KnownCertificates({})", self.leaves)
    }
}

/// Makes the sessions that another ticketer seals small.
#[derive(Debug)]
pub(super) struct SmallTickets {
    sealer: Arc<dyn ProducesTickets>,
    known: KnownCertificates,
    resumption: Resumption,
    readers: TicketReaders,
}

impl SmallTickets {
    pub(super) fn new(
        sealer: Arc<dyn ProducesTickets>,
        known: KnownCertificates,
        resumption: Resumption,
        readers: TicketReaders,
    ) -> Self {
        Self { sealer, known, resumption, readers }
    }

    /// Returns true if the current handshake gets a ticket.
    fn may_send(&self, chain: Option<&PresentedChain>) -> bool {
        if !ticket_slot::is_tls13() {
            return self.resumption != Resumption::Tls13;
        }
        let leaf = chain.and_then(|chain| chain.certificates.first()).map(|leaf| leaf.name);
        ticket_slot::may_have_ticket(&self.readers, leaf)
    }

    /// Returns the form of a session that is sealed.
    fn shorten(&self, session: &[u8], chain: &PresentedChain) -> Vec<u8> {
        let mut sealed = vec![SMALL];
        sealed.extend(chain.not_after.0.to_be_bytes());
        sealed.extend(digest(&SHA256, session).as_ref());
        let mut rest = session;
        for (place, Presented { name, der }) in chain.certificates.iter().enumerate() {
            let Some(at) = rest.windows(der.len()).position(|part| *part == **der) else {
                continue;
            };
            if der.len() > MAX_DER {
                continue;
            }
            add_part(&mut sealed, LITERAL, &rest[..at]);
            if place == 0 && self.known.leaves == 0 {
                add_part(&mut sealed, CERTIFICATE, der);
            } else {
                if self.known.table.get(name).is_none() {
                    self.known.table.insert(*name, Arc::clone(der));
                }
                sealed.push(NAME);
                sealed.extend(name.to_be_bytes());
            }
            rest = &rest[at + der.len()..];
        }
        add_part(&mut sealed, LITERAL, rest);
        sealed
    }

    /// Returns the session, and the chain in it.
    fn restore(&self, sealed: &[u8], now: Timestamp) -> Option<(Vec<u8>, Option<PresentedChain>)> {
        let (form, rest) = sealed.split_first()?;
        match *form {
            WHOLE => return Some((rest.to_vec(), None)),
            SMALL => {}
            _ => return None,
        }
        let (not_after, rest) = rest.split_first_chunk::<8>()?;
        let not_after = Timestamp(i64::from_be_bytes(*not_after));
        if now > not_after {
            return None;
        }
        let (expected, mut rest) = rest.split_first_chunk::<SHA256_LEN>()?;
        let (mut session, mut certificates) = (Vec::with_capacity(2_048), Vec::new());
        while let Some((kind, after)) = rest.split_first() {
            if *kind == NAME {
                let (name, after) = after.split_first_chunk::<8>()?;
                let name = u64::from_be_bytes(*name);
                let der = self.known.table.get(&name)?;
                session.extend_from_slice(&der);
                certificates.push(Presented { name, der });
                rest = after;
                continue;
            }
            let (length, after) = after.split_first_chunk::<2>()?;
            let (bytes, after) =
                after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            session.extend_from_slice(bytes);
            if *kind == CERTIFICATE {
                certificates.push(Presented::new(bytes));
            }
            rest = after;
        }
        let is_same = digest(&SHA256, &session).as_ref() == expected;
        is_same.then_some((session, Some(PresentedChain { certificates, not_after })))
    }
}

/// Adds bytes in parts of at most 64 KiB.
fn add_part(sealed: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    for part in bytes.chunks(usize::from(u16::MAX)) {
        sealed.push(kind);
        sealed.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
        sealed.extend(part);
    }
}

impl ProducesTickets for SmallTickets {
    fn enabled(&self) -> bool {
        self.sealer.enabled()
    }

    /// Returns the lifetime of the ticket that was sealed last in the current handshake.
    fn lifetime(&self) -> u32 {
        let lifetime = self.sealer.lifetime();
        let left = peer_chain::presented_until().map(|not_after| {
            let left: Duration = not_after.since(clock::now());
            u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
        });
        left.map_or(lifetime, |left| left.min(lifetime))
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let chain = peer_chain::presented();
        if !self.may_send(chain.as_ref()) {
            return None;
        }
        match chain {
            Some(chain) => self.sealer.encrypt(&self.shorten(session, &chain)),
            None => self.sealer.encrypt(&[&[WHOLE], session].concat()),
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.sealer.decrypt(ticket)?;
        let (session, chain) = self.restore(&sealed, clock::now())?;
        if let Some(chain) = chain {
            peer_chain::resume(chain);
        }
        ticket_slot::opened();
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::acceptor::tests::client;
    use crate::tls::closing::tests::{Issuer, authority_params, live, snapshot_of};
    use crate::tls::tickets::Secrets;
    use proptest::prelude::*;
    use rcgen::{
        CertifiedIssuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ML_DSA_44, PKCS_ML_DSA_65,
        SignatureAlgorithm,
    };
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
    use std::sync::Mutex;
    use zeroize::Zeroizing;

    const NOW: Timestamp = Timestamp(1_800_000_000);

    fn tickets(leaves: usize) -> SmallTickets {
        let secrets = Secrets::new(vec![Zeroizing::new(vec![7; 32])]);
        let sealer = secrets.ticketer("token").expect("a ticketer");
        let known = KnownCertificates::new(leaves);
        SmallTickets::new(sealer, known, Resumption::Both, TicketReaders::default())
    }

    fn chain(certificates: &[Vec<u8>]) -> PresentedChain {
        let certificates = certificates.iter().map(|der| Presented::new(der)).collect();
        PresentedChain { certificates, not_after: NOW }
    }

    /// A session as a library might encode it.
    fn session(certificates: &[Vec<u8>]) -> Vec<u8> {
        let mut session = b"a secret".to_vec();
        for der in certificates {
            session.extend([0, 1, 2]);
            session.extend(der);
        }
        [session, b"more".to_vec()].concat()
    }

    #[test]
    fn replaces_certificates_by_names_and_puts_them_back() {
        let certificates = [vec![1; 700], vec![2; 600], vec![3; 500]];
        for (leaves, most) in [(10, 130), (0, 840)] {
            let tickets = tickets(leaves);
            let sealed = tickets.shorten(&session(&certificates), &chain(&certificates));
            assert!(sealed.len() < most, "{} bytes", sealed.len());
            let (restored, of) = tickets.restore(&sealed, NOW).expect("usable");
            assert_eq!(restored, session(&certificates));
            // The next ticket is as small.
            let again = tickets.shorten(&restored, &of.expect("a chain"));
            assert_eq!(again, sealed);
        }
    }

    #[test]
    fn without_its_certificates_or_after_the_leaf_a_ticket_is_not_usable() {
        let certificates = [vec![1; 700], vec![2; 600]];
        let one = tickets(10);
        let sealed = one.shorten(&session(&certificates), &chain(&certificates));
        assert!(one.restore(&sealed, NOW).is_some());
        assert!(one.restore(&sealed, Timestamp(NOW.0 + 1)).is_none(), "the leaf has expired");
        let other = tickets(10);
        assert!(other.restore(&sealed, NOW).is_none(), "nothing is known");
        // A certificate with the same name is noticed.
        for certificate in chain(&certificates).certificates {
            let wrong: Arc<[u8]> = vec![9; certificate.der.len()].into();
            other.known.table.insert(certificate.name, wrong);
        }
        assert!(other.restore(&sealed, NOW).is_none(), "another certificate");
    }

    proptest! {
        #[test]
        fn restores_any_session_or_nothing(
            certificates in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..80), 0..5),
            start in any::<Vec<u8>>(),
            is_inside in any::<bool>(),
            place in any::<usize>(),
            bit in 0..8u32,
        ) {
            let session = if is_inside { session(&certificates) } else { start };
            let tickets = tickets(10);
            let sealed = tickets.shorten(&session, &chain(&certificates));
            let (restored, _) = tickets.restore(&sealed, NOW).expect("usable");
            prop_assert_eq!(&restored, &session);
            let mut changed = sealed.clone();
            let place = place % (sealed.len() - 1) + 1;
            changed[place] ^= 1 << bit;
            // The end of validity is the only part that does not change the session.
            if let Some((restored, _)) = tickets.restore(&changed, NOW) {
                prop_assert!(restored == session);
            }
        }

        #[test]
        fn no_bytes_cause_a_panic(sealed in any::<Vec<u8>>()) {
            let _ = tickets(10).restore(&[&[SMALL], &sealed[..]].concat(), NOW);
            let _ = tickets(10).restore(&sealed, NOW);
        }
    }

    /// Records the lengths of the tickets.
    #[derive(Debug)]
    struct Recorder(SmallTickets, Mutex<Vec<usize>>);

    impl ProducesTickets for Recorder {
        fn enabled(&self) -> bool {
            true
        }
        fn lifetime(&self) -> u32 {
            self.0.lifetime()
        }
        fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
            let ticket = self.0.encrypt(session)?;
            self.1.lock().expect("whole").push(ticket.len());
            Some(ticket)
        }
        fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
            self.0.decrypt(ticket)
        }
    }

    /// Makes a handshake in memory.  Returns true if the session was resumed.
    async fn handshake(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> bool {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(client), name).expect("a client");
        let mut server = ServerConnection::new(Arc::clone(server)).expect("a server");
        let exchange = async {
            for _ in 0..4 {
                let mut bytes = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut bytes).expect("written");
                }
                while let mut rest @ [_, ..] = &bytes[..] {
                    server.read_tls(&mut rest).expect("read");
                    bytes = rest.to_vec();
                    server.process_new_packets().expect("accepted");
                }
                while server.wants_write() {
                    server.write_tls(&mut bytes).expect("written");
                }
                while let mut rest @ [_, ..] = &bytes[..] {
                    client.read_tls(&mut rest).expect("read");
                    bytes = rest.to_vec();
                    client.process_new_packets().expect("accepted");
                }
            }
            server.handshake_kind() == Some(HandshakeKind::Resumed)
        };
        peer_chain::collect(&Arc::default(), exchange).await.0
    }

    /// Returns the lengths of the tickets of a full and a resumed handshake.
    async fn lengths(algorithm: &'static SignatureAlgorithm, leaves: usize) -> [usize; 2] {
        let root = KeyPair::generate_for(algorithm).expect("a key");
        let (trust, root) = snapshot_of(root, None);
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let issuer = CertifiedIssuer::signed_by(authority_params("intermediate"), key, &root);
        let issuer: Issuer = issuer.expect("an intermediate");
        let (live, _writer) = live(trust);
        let mut server = ServerConfig::clone(&live.current().tls.token);
        let recorder = Arc::new(Recorder(tickets(leaves), Mutex::default()));
        server.ticketer = Arc::clone(&recorder) as _;
        let (client, server) = (Arc::new(client(&issuer, algorithm)), Arc::new(server));
        assert!(!handshake(&client, &server).await);
        assert!(handshake(&client, &server).await);
        let lengths = recorder.1.lock().expect("whole").clone();
        lengths.try_into().expect("one ticket for each handshake")
    }

    #[tokio::test]
    async fn tickets_of_any_chain_have_at_most_300_bytes() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ML_DSA_44, &PKCS_ML_DSA_65] {
            let [full, resumed] = lengths(algorithm, 100).await;
            assert!(full <= 300 && resumed == full, "{algorithm:?}: {full} and {resumed}");
        }
        let [full, resumed] = lengths(&PKCS_ECDSA_P256_SHA256, 0).await;
        assert!((300..900).contains(&full) && resumed == full, "with the leaf: {full}");
    }

    #[tokio::test]
    async fn the_lifetime_of_a_ticket_ends_with_the_leaf() {
        let tickets = tickets(10);
        assert_eq!(tickets.lifetime(), 12 * 3_600);
        let soon = clock::now().after(Duration::from_secs(600));
        let of_handshake = async {
            peer_chain::resume(PresentedChain { certificates: Vec::new(), not_after: soon });
            tickets.lifetime()
        };
        let (lifetime, _) = peer_chain::collect(&Arc::default(), of_handshake).await;
        assert!((590..=600).contains(&lifetime), "{lifetime}");
    }
}
