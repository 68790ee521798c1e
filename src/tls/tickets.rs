//! Session tickets that every replica can open, sealed with secrets that all replicas share.
//!
//! # Design notes
//! A session resumes only where its ticket can be opened.  rustls' own ticketer generates its keys,
//! so behind a balancer with N replicas only one resumption in N succeeds, and a storm of
//! reconnects becomes a storm of full handshakes.
//!
//! A ticket is `name (16) | nonce (12) | sealed (issued at (8) | session)`, sealed with
//! AES-256-GCM-SIV (RFC 8452).  Replicas choose nonces at random and independently; this mode
//! tolerates a repeated one. Name and key are derived from the secret and the listener's name
//! (HKDF, RFC 5869), so that a listener cannot open the tickets of another: rustls does not bind a
//! ticket to the verifier.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::runtime::clock;
use crate::x509::time::Timestamp;

/// Lifetime of a ticket.
pub(crate) const LIFETIME: Duration = Duration::from_secs(12 * 3600);

const NAME: usize = 16;
const KEY: usize = 32;
const TIME: usize = 8;

/// Secrets for tickets.  The first one seals; all of them open.
#[derive(Clone, Default)]
pub struct Secrets(Arc<[Zeroizing<Vec<u8>>]>);

impl Secrets {
    /// Uses these secrets.  With no secret, each process generates its own keys.
    pub fn new(secrets: Vec<Zeroizing<Vec<u8>>>) -> Self {
        Self(secrets.into())
    }

    /// Returns true if each process generates its own keys.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Creates the ticketer of one listener.
    ///
    /// # Errors
    /// The crypto library cannot derive the keys.
    pub(crate) fn ticketer(
        &self,
        listener: &str,
    ) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        let keys = self.0.iter().map(|secret| TicketKey::derive(secret, listener));
        let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|Unspecified| {
            rustls::Error::General("cannot derive the ticket keys".into())
        })?;
        Ok(Arc::new(Ticketer { keys }))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[derive(Debug)]
struct Ticketer {
    keys: Vec<TicketKey>,
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.first()?.seal(plain, clock::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, _) = ticket.split_first_chunk::<NAME>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        key.open(ticket, clock::now())
    }
}

struct TicketKey {
    /// Identifies the key that sealed a ticket.
    name: [u8; NAME],
    key: LessSafeKey,
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl TicketKey {
    fn derive(secret: &[u8], listener: &str) -> Result<Self, Unspecified> {
        let extracted = Salt::new(HKDF_SHA256, b"anchorgate session tickets").extract(secret);
        let info: [&[u8]; 1] = [listener.as_bytes()];
        let mut both = Zeroizing::new([0; NAME + KEY]);
        extracted.expand(&info, Length(both.len()))?.fill(&mut *both)?;
        let (name, key) = both.split_first_chunk().ok_or(Unspecified)?;
        Ok(Self { name: *name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, key)?) })
    }

    fn seal(&self, session: &[u8], now: Timestamp) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = [&now.0.to_be_bytes()[..], session].concat();
        let (aad, unique) = (Aad::from(self.name), Nonce::assume_unique_for_key(nonce));
        self.key.seal_in_place_append_tag(unique, aad, &mut sealed).ok()?;
        Some([&self.name[..], &nonce, &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: Timestamp) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let (aad, nonce) = (Aad::from(*name), Nonce::assume_unique_for_key(*nonce));
        let plain = self.key.open_in_place(nonce, aad, &mut sealed).ok()?;
        let (issued, session) = plain.split_first_chunk::<TIME>()?;
        let issued = Timestamp(i64::from_be_bytes(*issued));
        // An issue time in the future comes from a replica whose clock is ahead.  The ticket is
        // valid.
        (now < issued.after(LIFETIME)).then(|| session.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_790_000_000);

    fn secrets(bytes: &[u8]) -> Secrets {
        Secrets::new(bytes.iter().map(|b| Zeroizing::new(vec![*b; 32])).collect())
    }

    fn key(secret: u8, listener: &str) -> TicketKey {
        TicketKey::derive(&[secret; 32], listener).expect("a key")
    }

    #[test]
    fn every_replica_opens_a_ticket_before_and_during_a_rotation() {
        let one = secrets(&[1]).ticketer("token").expect("a ticketer");
        let rotated = secrets(&[2, 1]).ticketer("token").expect("a ticketer");
        let next = secrets(&[2]).ticketer("token").expect("a ticketer");
        let ticket = one.encrypt(b"session").expect("a ticket");
        assert_eq!(rotated.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(next.decrypt(&ticket), None);
        let ticket = rotated.encrypt(b"session").expect("a ticket");
        assert_eq!(next.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(one.decrypt(&ticket), None);
        assert_eq!(format!("{:?}", secrets(&[7])), "Secrets(1)");
    }

    #[test]
    fn rejects_the_tickets_of_another_listener() {
        let ticketer = |name| secrets(&[1]).ticketer(name).expect("a ticketer");
        let ticket = ticketer("public").encrypt(b"session").expect("a ticket");
        assert_eq!(ticketer("token").decrypt(&ticket), None);
        // Replacing the key name does not help.
        let mut forged = ticket.clone();
        forged[..NAME].copy_from_slice(&key(1, "token").name);
        assert_eq!(ticketer("token").decrypt(&forged), None);
        assert!(ticketer("public").decrypt(&ticket).is_some());
    }

    #[test]
    fn rejects_a_ticket_after_its_lifetime() {
        let key = key(1, "token");
        let ticket = key.seal(b"session", NOW).expect("a ticket");
        let end = NOW.after(LIFETIME);
        assert!(key.open(&ticket, Timestamp(end.0 - 1)).is_some());
        assert_eq!(key.open(&ticket, end), None);
        assert!(key.open(&ticket, Timestamp(NOW.0 - 60)).is_some(), "a clock that is behind");
    }

    proptest! {
        #[test]
        fn rejects_a_changed_ticket(session in any::<Vec<u8>>(), at in any::<usize>(), bit in 0..8u8) {
            let key = key(1, "token");
            let mut ticket = key.seal(&session, NOW).expect("a ticket");
            prop_assert_eq!(key.open(&ticket, NOW), Some(session));
            let at = at % ticket.len();
            ticket[at] ^= 1 << bit;
            prop_assert_eq!(key.open(&ticket, NOW), None);
        }

        #[test]
        fn rejects_arbitrary_bytes(ticket in any::<Vec<u8>>(), named in any::<bool>()) {
            let key = key(1, "token");
            let ticket = if named { [&key.name[..], &ticket].concat() } else { ticket };
            prop_assert_eq!(key.open(&ticket, NOW), None);
        }
    }
}
