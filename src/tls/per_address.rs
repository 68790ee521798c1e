//! Limits the handshakes that one address runs at once.
//!
//! # Design notes
//! A handshake holds a permit while its peer is silent.  Without a limit per address, one machine
//! that opens enough connections and sends nothing holds every permit, and all devices wait.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// One semaphore for each address that has connections.
pub(super) struct AddressLimits {
    permits: usize,
    semaphores: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl AddressLimits {
    /// Gives every address `permits` permits.
    pub(super) fn new(permits: usize) -> Self {
        Self { permits, semaphores: Mutex::default() }
    }

    /// Returns the entry of `address`, which all of its connections share.  An IPv6 /64 counts as
    /// one address: a host that has one address of a /64 usually has all of them.
    pub(super) fn entry(&self, address: IpAddr) -> AddressEntry<'_> {
        let address = network(address);
        let mut semaphores = self.lock();
        let new = || Arc::new(Semaphore::new(self.permits));
        let semaphore = Arc::clone(semaphores.entry(address).or_insert_with(new));
        AddressEntry { limits: self, address, semaphore }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        // Each change is one insertion or removal, so a panic leaves a consistent map.
        self.semaphores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the address that the limit applies to: an IPv4 address, or the first one of an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// One connection's reference to the semaphore of its address.  Dropping the last one removes the
/// address from the table.
pub(super) struct AddressEntry<'a> {
    limits: &'a AddressLimits,
    address: IpAddr,
    semaphore: Arc<Semaphore>,
}

impl Deref for AddressEntry<'_> {
    type Target = Semaphore;

    fn deref(&self) -> &Semaphore {
        &self.semaphore
    }
}

impl Drop for AddressEntry<'_> {
    fn drop(&mut self) {
        let mut semaphores = self.limits.lock();
        // The lock prevents new references, so two means the table's and this one.
        if Arc::strong_count(&self.semaphore) == 2 {
            semaphores.remove(&self.address);
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
    fn limits_each_address_separately() {
        let limits = AddressLimits::new(2);
        let (a, again) = (limits.entry(address("192.0.2.1")), limits.entry(address("192.0.2.1")));
        let other = limits.entry(address("192.0.2.2"));
        let _held = [a.try_acquire().expect("free"), again.try_acquire().expect("free")];
        assert!(a.try_acquire().is_err());
        assert!(other.try_acquire().is_ok());
    }

    #[test]
    fn counts_an_ipv6_network_of_64_bits_and_a_mapped_ipv4_address_as_one() {
        let limits = AddressLimits::new(1);
        for (one, other, same) in [
            ("2001:db8::1", "2001:db8::ffff:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
        ] {
            let (one, other) = (limits.entry(address(one)), limits.entry(address(other)));
            let _held = one.try_acquire().expect("free");
            assert_eq!(other.try_acquire().is_err(), same);
        }
    }

    #[test]
    fn removes_an_address_with_its_last_connection() {
        let limits = AddressLimits::new(1);
        let (a, b) = (limits.entry(address("192.0.2.1")), limits.entry(address("192.0.2.1")));
        drop(a);
        assert_eq!(limits.lock().len(), 1);
        drop(b);
        assert_eq!(limits.lock().len(), 0);
    }
}
