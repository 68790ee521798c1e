//! Limits of connections for a listener and for each holder.

use std::net::{IpAddr, Ipv4Addr};

use crate::http::proxy_protocol::Proxies;

/// Numbers of connections that one listener allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// All connections.
    pub connections: usize,
    /// Connections of one IPv4 address or IPv6 /64.  A /56 may have twice as many, and a /48 four
    /// times as many.
    pub per_address: usize,
    /// Connections with one client certificate.
    pub per_certificate: usize,
    /// Connections that have sent nothing.
    pub silent: usize,
    /// Load balancers.  The limit of an address applies to the client's, which they tell.
    pub proxies: Proxies,
}

impl Shares {
    /// Limits only the sum, and the silent ones to a quarter of it, at least 64.
    pub fn new(connections: usize) -> Self {
        let silent = (connections / 4).max(64);
        let (per_address, per_certificate) = (connections, connections);
        Self { connections, per_address, per_certificate, silent, proxies: Proxies::default() }
    }

    /// Most connections of `holder` at any time.
    pub(super) fn limit(&self, holder: &Holder) -> usize {
        match holder {
            Holder::V4(_) | Holder::V6(64, _) => self.per_address,
            Holder::V6(56, _) => self.per_address.saturating_mul(2),
            Holder::V6(..) => self.per_address.saturating_mul(4),
            Holder::Certificate(_) => self.per_certificate,
        }
    }

    /// Connections of `holder` above which a full listener closes its connections first.
    pub(super) fn fair(&self, holder: &Holder) -> usize {
        match holder {
            Holder::V4(_) | Holder::V6(64, _) => self.connections / 2,
            Holder::V6(56, _) => self.connections / 8 * 5,
            Holder::V6(..) => self.connections / 4 * 3,
            Holder::Certificate(_) => self.connections / 16,
        }
    }
}

/// An owner of connections that limits apply to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    V4(Ipv4Addr),
    /// The first bits of an IPv6 address, and their number.
    V6(u8, u64),
    /// The first half of a certificate's SHA-256.
    Certificate([u8; 16]),
}

/// The holders of a connection from `address`.
pub(super) fn holders(address: IpAddr) -> Vec<Holder> {
    match address.to_canonical() {
        IpAddr::V4(address) => vec![Holder::V4(address)],
        IpAddr::V6(address) => {
            let network = (address.to_bits() >> 64) as u64;
            [64, 56, 48].map(|bits| Holder::V6(bits, network >> (64 - bits))).to_vec()
        }
    }
}
