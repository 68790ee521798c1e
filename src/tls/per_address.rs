//! How many handshakes one address may have at once.
//!
//! # Why
//! A handshake holds a permit while its peer is silent.  Without shares, one machine that opens enough
//! connections and says nothing holds them all, and every device waits.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// Permits by address.
pub struct Shares {
    each: usize,
    by: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl Shares {
    /// `each` permits for every address.
    pub fn new(each: usize) -> Self {
        Self { each, by: Mutex::default() }
    }

    /// The permits of `address`, shared with its other connections.  An IPv6 network of 64 bits is one
    /// address: whoever has one of it has all.
    pub fn of(&self, address: IpAddr) -> Share<'_> {
        let address = network(address);
        let mut by = self.lock();
        let new = || Arc::new(Semaphore::new(self.each));
        let permits = Arc::clone(by.entry(address).or_insert_with(new));
        Share { shares: self, address, permits }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        // Entries are put in and taken out whole: a panic leaves nothing half-done.
        self.by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// One connection's hold on the permits of its address; they are forgotten with the last one.
pub struct Share<'a> {
    shares: &'a Shares,
    address: IpAddr,
    permits: Arc<Semaphore>,
}

impl Deref for Share<'_> {
    type Target = Semaphore;

    fn deref(&self) -> &Semaphore {
        &self.permits
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut by = self.shares.lock();
        // Under the lock nobody gets another hold: the table's and ours are the last two.
        if Arc::strong_count(&self.permits) == 2 {
            by.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let shares = Shares::new(2);
        let (a, again) = (shares.of(address("192.0.2.1")), shares.of(address("192.0.2.1")));
        let other = shares.of(address("192.0.2.2"));
        let _held = [a.try_acquire().expect("free"), again.try_acquire().expect("free")];
        assert!(a.try_acquire().is_err());
        assert!(other.try_acquire().is_ok());
    }

    #[test]
    fn a_network_of_64_bits_and_a_mapped_address_are_one() {
        let shares = Shares::new(1);
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
        ] {
            let (one, other) = (shares.of(address(one)), shares.of(address(other)));
            let _held = one.try_acquire().expect("free");
            assert_eq!(other.try_acquire().is_err(), same);
        }
    }

    #[test]
    fn an_address_that_is_gone_is_forgotten() {
        let shares = Shares::new(1);
        let (a, b) = (shares.of(address("192.0.2.1")), shares.of(address("192.0.2.1")));
        drop(a);
        assert_eq!(shares.lock().len(), 1);
        drop(b);
        assert_eq!(shares.lock().len(), 0);
    }
}
