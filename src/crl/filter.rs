//! Public and private network addresses.
//!
//! With `public_only`, lists are fetched from public addresses only, so that the certificate of an
//! authority cannot make the gateway connect to hosts of its own network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// True for addresses that are not globally routed unicast addresses: loopback, private, link-local,
/// shared, documentation, benchmarking, multicast and reserved ranges (RFC 6890), and IPv6 forms that
/// embed such an IPv4 address.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => is_private_v6(v6),
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = || {
        let [.., high, low] = segments;
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        // IPv4-mapped, IPv4-compatible (with :: and ::1), NAT64.
        [0, 0, 0, 0, 0, 0xffff | 0, _, _] => segments[5] == 0 || is_private_v4(embedded()),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => is_private_v4(embedded()),
        // 6to4 carries the IPv4 address after its prefix.
        [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            is_private_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Documentation (twice), local NAT64, Teredo and other protocol assignments.
        [0x2001, 0xdb8, ..]
        | [0x3fff, 0..0x1000, ..]
        | [0x64, 0xff9b, 1, ..]
        | [0x2001, 0..0x200, ..] => true,
        [first, ..] => first & 0xe000 != 0x2000,
    }
}

/// A DNS resolver that returns public addresses only.
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|at| !is_private(at.ip())).collect();
            if public.is_empty() {
                return Err(format!("`{}` has no public address", name.as_str()).into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguishes_private_from_public_addresses() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
            "3fff:fff::1",
        ] {
            assert!(is_private(private.parse().expect("an address")), "{private}");
        }
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700:4700::1111",
            "::ffff:1.1.1.1",
            "2002:101:101::",
            "2a00:1450::1",
        ] {
            assert!(!is_private(public.parse().expect("an address")), "{public}");
        }
    }
}
