//! Addresses of clients that ended a connection after their session ticket.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Addresses from which it is likely that devices cannot read tickets.  Probes come from few.
const SEVERAL: usize = 3;

/// The first addresses that differ.
#[derive(Default)]
pub(super) struct Closers(Mutex<Vec<IpAddr>>);

impl Closers {
    /// Adds an address.  Returns true if there are several.
    pub(super) fn add(&self, address: IpAddr) -> bool {
        // A panic within a change leaves a list that is correct.
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() < SEVERAL && !addresses.contains(&address) {
            addresses.push(address);
        }
        addresses.len() >= SEVERAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_not_several_clients() {
        let closers = Closers::default();
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        for n in [1, 1, 1, 2, 1, 2] {
            assert!(!closers.add(address(n)));
        }
        assert!(closers.add(address(3)) && closers.add(address(1)) && closers.add(address(9)));
    }
}
