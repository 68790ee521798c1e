//! `[token]` and `[public]`: the listeners of clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::Listener;
use crate::config::section::Section;
use crate::http::connections::Shares;
use crate::http::proxy_protocol::Proxies;
use crate::tls::ClientAuth;
use crate::tls::acceptor::Bounds;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);

/// Port of the public listener.
const PUBLIC_PORT: u16 = 8444;

/// Reads `[token]`.
pub(super) fn token(section: &mut Section<'_>) -> (Listener, ClientAuth, bool) {
    let modes = [("required", ClientAuth::Required), ("report", ClientAuth::Report)];
    let client_auth = section.choice("client_auth", &modes).unwrap_or_default();
    let close_refused = section.flag("close_refused").unwrap_or(false);
    if close_refused && client_auth == ClientAuth::Report {
        let allowed = "client_auth = \"report\" keeps connections of refused devices open, to answer \
                       with the refusal";
        section.problem("close_refused", Some("`true`".to_owned()), allowed);
    }
    (listener(section, 8443), client_auth, close_refused)
}

/// Reads `[public]`.  In a hub, it bounds the connections of the directory's listener only.
pub(super) fn public(section: &mut Section<'_>, is_hub: bool) -> Listener {
    if is_hub && section.has("listen") {
        section.problem("listen", None, UNUSED_IN_HUB);
    }
    listener(section, PUBLIC_PORT)
}

/// Reports two listeners of `addresses`, which their keys name, on one address.
pub(super) fn check_addresses(top: &Section<'_>, addresses: &[(&str, Option<SocketAddr>)]) {
    let given: Vec<_> =
        addresses.iter().filter_map(|(key, address)| Some((*key, (*address)?))).collect();
    for (number, (key, address)) in given.iter().enumerate() {
        let earlier = given[..number].iter().find(|(_, earlier)| overlap(*earlier, *address));
        if let Some((other, _)) = earlier {
            let fault =
                format!("`{address}` is also the address of {other}; each listener needs its own");
            top.problem(key, None, fault);
        }
    }
}

/// True if two sockets cannot listen on these addresses.  Port 0 stands for any free one.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    // On Linux, `[::]` accepts connections over IPv4 as well.
    let contains = |all: IpAddr, one: IpAddr| {
        all.is_unspecified() && (all.is_ipv6() || one.is_ipv4()) || all == one
    };
    let (ip_a, ip_b) = (a.ip(), b.ip());
    a.port() == b.port() && a.port() != 0 && (contains(ip_a, ip_b) || contains(ip_b, ip_a))
}

/// The problem of a setting that a hub does not use.
pub(super) const UNUSED_IN_HUB: &str =
    "not used: without [oauth] and [[graph]], this is a hub, which only serves its directory";

fn listener(section: &mut Section<'_>, port: u16) -> Listener {
    let listen = section
        .address("listen")
        .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    let mut bounds = Bounds::default();
    let handshake = section.duration("handshake", SECOND..=MINUTE);
    bounds.handshake = handshake.unwrap_or(bounds.handshake);
    let connections = section.size("connections", 1..=1_000_000);
    let mut shares = connections.map_or(bounds.shares, Shares::new);
    let per_address = section.size("connections_per_address", 1..=1_000_000);
    shares.per_address = per_address.unwrap_or(shares.per_address);
    let per_device = section.size("connections_per_device", 1..=1_000_000);
    shares.per_certificate = per_device.unwrap_or(shares.per_certificate);
    shares.proxies = proxies(section);
    bounds.shares = shares;
    let queue = section.duration("handshake_queue", Duration::from_millis(50)..=MINUTE);
    bounds.handshake_queue = queue.unwrap_or(bounds.handshake_queue);
    let handshakes = section.size("handshakes", 1..=100_000);
    bounds.handshakes = handshakes.unwrap_or(bounds.handshakes);
    let per_address = section.size("handshakes_per_address", 1..=100_000);
    bounds.handshakes_per_address = per_address.unwrap_or(bounds.handshakes.div_ceil(4));
    let http = &mut bounds.http;
    http.header_read = section.duration("header_read", SECOND..=MINUTE).unwrap_or(http.header_read);
    http.idle = section.duration("idle", SECOND..=HOUR).unwrap_or(http.idle);
    http.request = section.duration("request", SECOND..=HOUR).unwrap_or(http.request);
    let header_bytes = section.size("header_bytes", 8 * 1024..=1024 * 1024);
    http.header_bytes = header_bytes.unwrap_or(http.header_bytes);
    Listener { listen, bounds }
}

fn proxies(section: &mut Section<'_>) -> Proxies {
    let mut networks = Vec::new();
    for text in section.texts("proxy_protocol_from").unwrap_or_default() {
        match Proxies::network(&text) {
            Some(network) => networks.push(network),
            None => {
                let allowed = "it must be a network such as 10.0.0.0/8 or 2001:db8::/32, without \
                               bits after the prefix, or an address";
                section.problem("proxy_protocol_from", Some(format!("`{text}`")), allowed);
            }
        }
    }
    Proxies::new(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_need_different_addresses() {
        let is_one = |a: &str, b: &str| {
            let (a, b) = (a.parse().expect("an address"), b.parse().expect("an address"));
            assert_eq!(overlap(a, b), overlap(b, a), "{a} {b}");
            overlap(a, b)
        };
        for (a, b, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "0.0.0.0:1", true),
        ] {
            assert_eq!(is_one(a, b), expected, "{a} {b}");
        }
    }
}
