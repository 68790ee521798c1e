//! Hosts in the authority of a request, and the hosts that the TLS listeners serve.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::x509::certificate::Certificate;
use crate::x509::certificate::extensions::GeneralName;

/// The host of an authority: `uri-host [ ":" port ]` (RFC 9110 section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// A registered name, as written but without a final dot.
    Name(&'a str),
    /// An IP address.  IPv4 addresses mapped into IPv6 become IPv4.
    Address(IpAddr),
}

impl<'a> Host<'a> {
    /// Parses an authority; `None` if it is not valid.  User information makes it invalid: HTTP does not
    /// allow it (RFC 9110 section 4.2.4).
    pub fn of_authority(authority: &'a str) -> Option<Self> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                let address = address.parse::<Ipv6Addr>().ok()?;
                (Self::Address(IpAddr::V6(address).to_canonical()), port)
            }
            None => {
                let end = authority.find(':').unwrap_or(authority.len());
                let (name, port) = authority.split_at(end);
                (Self::named(name)?, port)
            }
        };
        let is_port = |digits: &str| {
            digits.is_empty()
                || (digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok())
        };
        let valid = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        valid.then_some(host)
    }

    fn named(name: &'a str) -> Option<Self> {
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        // reg-name (RFC 3986 section 3.2.2).
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&b);
        let name = name.strip_suffix('.').unwrap_or(name);
        (!name.is_empty() && name.bytes().all(allowed)).then_some(Self::Name(name))
    }
}

/// A host that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Served {
    Name(Box<str>),
    /// The names with one more label than this one, which begins with a dot.
    Below(Box<str>),
    Address(IpAddr),
}

/// The hosts that the TLS listeners serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServedHosts(Vec<Served>);

impl ServedHosts {
    /// Adds a host name, an IP address, or a wildcard such as `*.example.com`.  Returns false if `text` is
    /// none of them.
    pub fn add(&mut self, text: &str) -> bool {
        // Stricter than `Host`: a name that DNS cannot have is a mistake of the operator.
        let name = |text| match Host::named(text) {
            Some(Host::Name(name)) if !name.contains(|c| "~%!$&'()*+,;=".contains(c)) => Some(name),
            _ => None,
        };
        let served = if let Ok(address) = text.parse::<IpAddr>() {
            Served::Address(address.to_canonical())
        } else if let Some(parent) = text.strip_prefix("*.") {
            let Some(parent) = name(parent) else { return false };
            Served::Below(format!(".{parent}").into())
        } else {
            let Some(name) = name(text) else { return false };
            Served::Name(name.into())
        };
        if !self.0.contains(&served) {
            self.0.push(served);
        }
        true
    }

    /// Adds the DNS names and IP addresses of a server certificate.
    pub(crate) fn add_certificate(&mut self, certificate: &Certificate) {
        for name in certificate.subject_alt_name.iter().flatten() {
            match name {
                GeneralName::Dns(name) => {
                    if let Ok(name) = std::str::from_utf8(name) {
                        self.add(name);
                    }
                }
                GeneralName::Ip(bytes) => {
                    let v4 = <[u8; 4]>::try_from(&**bytes).map(IpAddr::from);
                    let address = v4.or_else(|_| <[u8; 16]>::try_from(&**bytes).map(IpAddr::from));
                    if let Ok(address) = address {
                        self.add(&address.to_string());
                    }
                }
                _ => {}
            }
        }
    }

    /// True if `host` is served on a connection to the address `local`.  The address itself is always
    /// served, and so is `localhost` on loopback: monitoring and health checks use them.
    pub fn serves(&self, host: Host<'_>, local: IpAddr) -> bool {
        let local = local.to_canonical();
        match host {
            Host::Address(address) => {
                address == local || self.0.contains(&Served::Address(address))
            }
            Host::Name(name) => {
                (local.is_loopback() && name.eq_ignore_ascii_case("localhost"))
                    || self.0.iter().any(|served| match served {
                        Served::Name(served) => served.eq_ignore_ascii_case(name),
                        Served::Below(parent) => name.split_once('.').is_some_and(|(label, _)| {
                            !label.is_empty() && name[label.len()..].eq_ignore_ascii_case(parent)
                        }),
                        Served::Address(_) => false,
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_authorities() {
        let address = |text: &str| Some(Host::Address(text.parse().expect("an address")));
        for (authority, host) in [
            ("gw.example", Some(Host::Name("gw.example"))),
            ("gw.example.:8443", Some(Host::Name("gw.example"))),
            ("GW_1:", Some(Host::Name("GW_1"))),
            ("192.0.2.1:65535", address("192.0.2.1")),
            ("[2001:db8::1]", address("2001:db8::1")),
            ("[::ffff:192.0.2.1]:443", address("192.0.2.1")),
            ("", None),
            (":8443", None),
            (".", None),
            ("evil@127.0.0.1", None),
            ("[::1]evil", None),
            ("[::1", None),
            ("::1", None),
            ("[gw.example]", None),
            ("gw.example:65536", None),
            ("gw.example:+1", None),
            ("gw.example:1:2", None),
            ("gw.example/", None),
            ("gw example", None),
            ("gw.example#", None),
            ("gw.exämple", None),
        ] {
            assert_eq!(Host::of_authority(authority), host, "{authority:?}");
        }
    }

    #[test]
    fn serves_its_names_and_the_local_address() {
        let mut hosts = ServedHosts::default();
        for text in ["gw.example", "*.Devices.example", "192.0.2.9", "2001:db8::9"] {
            assert!(hosts.add(text), "{text}");
        }
        for text in ["", "*", "*.", "a b", "gw.example:1", "https://gw.example"] {
            assert!(!hosts.add(text), "{text}");
        }
        let serves = |authority: &str, local: &str| {
            let host = Host::of_authority(authority).expect("valid");
            hosts.serves(host, local.parse().expect("an address"))
        };
        for (authority, local, expected) in [
            ("gw.example", "10.0.0.1", true),
            ("GW.EXAMPLE.:8443", "10.0.0.1", true),
            ("gw.example.evil", "10.0.0.1", false),
            ("x.gw.example", "10.0.0.1", false),
            ("a.devices.example", "10.0.0.1", true),
            ("a.b.devices.example", "10.0.0.1", false),
            ("devices.example", "10.0.0.1", false),
            ("192.0.2.9", "10.0.0.1", true),
            ("[2001:db8::9]:1", "10.0.0.1", true),
            ("192.0.2.8", "10.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("localhost", "10.0.0.1", false),
            ("localhost:1", "127.0.0.1", true),
            ("LOCALHOST", "::1", true),
            ("127.0.0.1", "10.0.0.1", false),
        ] {
            assert_eq!(serves(authority, local), expected, "{authority} at {local}");
        }
    }
}
