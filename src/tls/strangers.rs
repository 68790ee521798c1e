//! Bounds the audit records that strangers cause.
//!
//! # Design notes
//! Anybody can make refused handshakes, thousands in a second.  Each address has a number of records in
//! each window; the end of the window reports how many more there were.  Refusals of certificates that
//! chain to an anchor are always recorded: only holders of such a certificate can cause them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::runtime::audit::{Event, Outcome, Record};
use crate::trust::refusal::Code;

/// Length of a window, which begins with a refusal.
const WINDOW: Duration = Duration::from_secs(10);
/// Records of one address in a window.
const RECORDS: u64 = 10;
/// Addresses in a window.  Refusals of further ones are only counted.
const ADDRESSES: usize = 4_096;

/// Refusals of strangers, by address.
#[derive(Clone, Default)]
pub(super) struct Strangers {
    table: Arc<Mutex<Table>>,
    pub(super) suppressed: Counter,
}

#[derive(Default)]
struct Table {
    is_open: bool,
    /// Refusals in this window.
    by_address: HashMap<IpAddr, u64>,
    /// Refusals of addresses that have no place.
    others: u64,
}

impl Strangers {
    /// Counts a refusal.  Returns true if it is to be recorded.
    pub(super) fn may_record(&self, code: Code, address: Option<IpAddr>) -> bool {
        let (Some(address), Ok(runtime)) = (address, Handle::try_current()) else { return true };
        if !is_of_stranger(code) {
            return true;
        }
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut table.is_open, true) {
            let this = self.clone();
            runtime.spawn(async move {
                sleep(WINDOW).await;
                this.end().iter().for_each(report);
            });
        }
        let is_recorded = table.count(network(address)) <= RECORDS;
        if !is_recorded {
            self.suppressed.inc();
        }
        is_recorded
    }

    /// Ends the window, and returns the numbers of refusals that were not recorded.
    fn end(&self) -> Vec<(Option<IpAddr>, u64)> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Table { by_address, others, .. } = std::mem::take(&mut *table);
        let by_address = by_address.into_iter();
        by_address
            .map(|(address, count)| (Some(address), count.saturating_sub(RECORDS)))
            .chain([(None, others)])
            .filter(|(_, suppressed)| *suppressed > 0)
            .collect()
    }
}

impl Table {
    /// Counts a refusal, and returns its number in the window.
    fn count(&mut self, address: IpAddr) -> u64 {
        if self.by_address.len() >= ADDRESSES && !self.by_address.contains_key(&address) {
            self.others += 1;
            return u64::MAX;
        }
        let count = self.by_address.entry(address).or_default();
        *count += 1;
        *count
    }
}

fn report((address, suppressed): &(Option<IpAddr>, u64)) {
    let detail = match address {
        Some(_) => format!("{suppressed} more refusals of this address in {WINDOW:?}"),
        None => format!("{suppressed} refusals of further addresses in {WINDOW:?}"),
    };
    Record {
        detail: Some(&detail),
        suppressed: Some(*suppressed),
        address: address.map(|address| SocketAddr::new(address, 0)),
        ..Record::new(Event::Handshake, Outcome::Refused)
    }
    .emit();
}

/// True for refusals that a peer without a certificate of an anchor can cause.
fn is_of_stranger(code: Code) -> bool {
    matches!(
        code,
        Code::CertificateMissing
            | Code::CertificateMalformed
            | Code::ChainTooLong
            | Code::ChainUntrusted
            | Code::PathBudget
            | Code::SignatureAlgorithm
            | Code::SignatureInvalid
    )
}

/// The network of one peer: an IPv4 address, or an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn records_of_one_address_are_bounded_and_the_rest_is_reported() {
        let strangers = Strangers::default();
        let refuse = |code, address: &str| {
            strangers.may_record(code, Some(address.parse().expect("an address")))
        };
        let recorded = (0..25).filter(|n| {
            // Addresses of one IPv6 network are one peer.
            refuse(Code::ChainUntrusted, &format!("2001:db8::{n:x}"))
        });
        assert_eq!(recorded.count(), 10);
        assert!(refuse(Code::ChainUntrusted, "192.0.2.1"), "another address");
        assert!((0..100).all(|_| refuse(Code::CertificateRevoked, "2001:db8::1")));
        assert_eq!(strangers.suppressed.get(), 15);
        let network = "2001:db8::".parse().expect("an address");
        assert_eq!(strangers.end(), [(Some(network), 15)]);
        assert!(refuse(Code::ChainUntrusted, "2001:db8::1"), "a new window");
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_ends_without_another_refusal() {
        let strangers = Strangers::default();
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        while strangers.may_record(Code::ChainUntrusted, address) {}
        sleep(WINDOW + Duration::from_millis(1)).await;
        assert!(strangers.may_record(Code::ChainUntrusted, address));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_without_a_place_are_counted_together() {
        let strangers = Strangers::default();
        let all = u32::try_from(ADDRESSES).expect("small") + 7;
        for n in 0..all {
            let address = IpAddr::V4(n.into());
            strangers.may_record(Code::CertificateMissing, Some(address));
        }
        assert_eq!(strangers.end(), [(None, 7)]);
    }
}
