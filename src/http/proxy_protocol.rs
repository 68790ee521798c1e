//! The PROXY protocol, version 2: a load balancer tells the address of the client before the
//! client's first byte.
//!
//! # Design notes
//! Only the peers that the operator lists are believed, and they must send the header on every
//! connection: a balancer that forgets it would make all clients one address.  Another peer cannot
//! send one, because its first bytes have to be a TLS record.
//!
//! Source: HAProxy, `doc/proxy-protocol.txt`, section 2.2.  Version 1 is not supported.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use crc::{CRC_32_ISCSI, Crc};
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes before the addresses: the signature, version and command, family, and the length of the
/// rest.
const FIXED: usize = 16;
/// Limit on the length of the rest.  A balancer may add a client's certificate and other fields.
const MAX_REST: usize = 4096;
/// Type of the field with the CRC-32C of the header.
const TYPE_CRC32C: u8 = 0x03;

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Networks of load balancers that send the header.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies(Arc<[IpNet]>);

impl Proxies {
    /// Believes the peers in these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks.into())
    }

    /// Parses a network such as `10.0.0.0/8`, or one address.
    pub fn network(text: &str) -> Option<IpNet> {
        let address = || IpAddr::from_str(text).ok().map(IpNet::from);
        IpNet::from_str(text).ok().filter(|network| *network == network.trunc()).or_else(address)
    }

    /// Returns true if the peer at `address` sends the header.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

/// The ends of the connection between client and balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// Address of the client.
    pub client: SocketAddr,
    /// Address that the client connected to.
    pub server: SocketAddr,
}

/// Reasons why a header is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The connection ended or failed.
    #[error("the PROXY header was not received: {0}")]
    Io(#[from] io::Error),
    /// The first bytes are not a header of version 2.
    #[error("the first bytes are not a PROXY header of version 2")]
    NotPresent,
    /// The command is neither LOCAL nor PROXY.
    #[error("PROXY command {0:#x} is not known")]
    Command(u8),
    /// The family is not TCP over IPv4 or IPv6.
    #[error("PROXY address family {0:#04x} is not supported; TCP over IPv4 or IPv6 is")]
    Family(u8),
    /// The header is too long.
    #[error("the PROXY header announces {0} bytes; at most {MAX_REST} are read")]
    TooLong(usize),
    /// The addresses or fields do not fit into the announced length.
    #[error("the PROXY header is malformed: {0}")]
    Malformed(&'static str),
    /// The checksum does not match.
    #[error("the CRC-32C of the PROXY header does not match")]
    Checksum,
}

/// Reads a header, and no byte after it.  Returns `None` for a connection that the balancer made
/// itself, such as a health check.
///
/// # Errors
/// See [`HeaderError`].
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Addresses>, HeaderError> {
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    let rest = rest_length(&header)?;
    header.resize(FIXED + rest, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    parse(&header)
}

/// Returns the length of the part that follows the fixed one.
fn rest_length(fixed: &[u8]) -> Result<usize, HeaderError> {
    if !fixed.starts_with(&SIGNATURE) || fixed[12] >> 4 != 2 {
        return Err(HeaderError::NotPresent);
    }
    let rest = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if rest > MAX_REST { Err(HeaderError::TooLong(rest)) } else { Ok(rest) }
}

/// Parses a complete header.
fn parse(header: &[u8]) -> Result<Option<Addresses>, HeaderError> {
    let (fixed, rest) =
        header.split_at_checked(FIXED).ok_or(HeaderError::Malformed("it is incomplete"))?;
    if rest_length(fixed)? != rest.len() {
        return Err(HeaderError::Malformed("its length does not match"));
    }
    match fixed[12] & 0x0f {
        // The balancer itself: receivers skip everything that follows.
        0 => return Ok(None),
        1 => {}
        command => return Err(HeaderError::Command(command)),
    }
    let short = HeaderError::Malformed("the addresses are incomplete");
    let (addresses, fields) = match fixed[13] {
        0x11 => {
            let (block, fields) = rest.split_first_chunk::<12>().ok_or(short)?;
            let [a, b, c, d, e, f, g, h, ports @ ..] = *block;
            (pair(Ipv4Addr::new(a, b, c, d), Ipv4Addr::new(e, f, g, h), ports), fields)
        }
        0x21 => {
            let (block, fields) = rest.split_first_chunk::<36>().ok_or(short)?;
            let (client, others) = block.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
            let (server, ports) = others.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
            let ports = ports.try_into().unwrap_or([0; 4]);
            (pair(Ipv6Addr::from(*client), Ipv6Addr::from(*server), ports), fields)
        }
        family => return Err(HeaderError::Family(family)),
    };
    check_fields(header, fields)?;
    Ok(Some(addresses))
}

fn pair(client: impl Into<IpAddr>, server: impl Into<IpAddr>, ports: [u8; 4]) -> Addresses {
    let port = |high, low| u16::from_be_bytes([high, low]);
    Addresses {
        client: (client.into(), port(ports[0], ports[1])).into(),
        server: (server.into(), port(ports[2], ports[3])).into(),
    }
}

/// Checks that the fields after the addresses end where the header does, and the checksum if there
/// is one.  The fields' values are not used.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), HeaderError> {
    let mut has_checksum = false;
    while !fields.is_empty() {
        let Some((&[kind, high, low], rest)) = fields.split_first_chunk::<3>() else {
            return Err(HeaderError::Malformed("a field is incomplete"));
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, rest) = rest
            .split_at_checked(length)
            .ok_or(HeaderError::Malformed("a field is longer than the header"))?;
        if kind == TYPE_CRC32C {
            let expected = <[u8; 4]>::try_from(value)
                .map_err(|_| HeaderError::Malformed("the checksum does not have 4 bytes"))?;
            if std::mem::replace(&mut has_checksum, true) {
                return Err(HeaderError::Malformed("it has two checksums"));
            }
            let place = header.len() - rest.len() - expected.len();
            if checksum(header, place) != u32::from_be_bytes(expected) {
                return Err(HeaderError::Checksum);
            }
        }
        fields = rest;
    }
    Ok(())
}

/// Calculates the checksum of a header, in which the checksum at `place` counts as zero.
fn checksum(header: &[u8], place: usize) -> u32 {
    let mut digest = CRC32C.digest();
    digest.update(&header[..place]);
    digest.update(&[0; 4]);
    digest.update(&header[place + 4..]);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Makes a header with a checksum, which follows `fields`.
    fn header(client: SocketAddr, server: SocketAddr, fields: &[u8]) -> Vec<u8> {
        let (family, mut rest) = match (client.ip(), server.ip()) {
            (IpAddr::V4(client), IpAddr::V4(server)) => {
                (0x11, [client.octets(), server.octets()].concat())
            }
            (IpAddr::V6(client), IpAddr::V6(server)) => {
                (0x21, [client.octets(), server.octets()].concat())
            }
            _ => panic!("two families"),
        };
        rest.extend(client.port().to_be_bytes());
        rest.extend(server.port().to_be_bytes());
        rest.extend(fields);
        rest.extend([TYPE_CRC32C, 0, 4, 0, 0, 0, 0]);
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        let mut header = [&SIGNATURE[..], &[0x21, family], &length, &rest].concat();
        let place = header.len() - 4;
        let sum = checksum(&header, place);
        header[place..].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn error(header: &[u8]) -> String {
        parse(header).expect_err("not acceptable").to_string()
    }

    #[test]
    fn calculates_the_checksum_of_rfc_3720() {
        // Appendix B.4: 32 bytes of zeros.
        assert_eq!(CRC32C.checksum(&[0; 32]), 0x8a91_36aa);
    }

    #[tokio::test]
    async fn reads_the_addresses_and_nothing_after_them() {
        for (client, server) in
            [("192.0.2.1:40000", "198.51.100.2:8443"), ("[2001:db8::1]:40000", "[2001:db8::2]:443")]
        {
            let (client, server) = (address(client), address(server));
            // A field of an unknown type and one without a value.
            let header = header(client, server, &[0xee, 0, 2, 1, 2, 0x04, 0, 0]);
            let mut stream = &[&header[..], b"\x16\x03\x01"].concat()[..];
            let addresses = read(&mut stream).await.expect("a header");
            assert_eq!(addresses, Some(Addresses { client, server }));
            assert_eq!(stream, b"\x16\x03\x01");
        }
    }

    #[test]
    fn skips_the_rest_of_the_header_of_a_health_check() {
        let local = [&SIGNATURE[..], &[0x20, 0, 0, 3, 1, 2, 3]].concat();
        assert_eq!(parse(&local).expect("a header"), None);
    }

    #[test]
    fn refuses_a_header_that_is_not_complete_and_consistent() {
        let good = header(address("192.0.2.1:1"), address("192.0.2.2:2"), &[]);
        let with = |changes: &[(usize, u8)]| {
            let mut header = good.clone();
            for (place, byte) in changes {
                header[*place] = *byte;
            }
            header
        };
        for (header, expected) in [
            (b"\x16\x03\x01\x00\x05hello, this is TLS".to_vec(), "not a PROXY header"),
            (with(&[(12, 0x11)]), "not a PROXY header"),
            (with(&[(12, 0x22)]), "command 0x2"),
            (with(&[(13, 0x12)]), "family 0x12"),
            (with(&[(13, 0x00)]), "family 0x00"),
            (with(&[(13, 0x21)]), "addresses are incomplete"),
            (with(&[(14, 0x20)]), "at most 4096"),
            (with(&[(15, 0x12)]), "its length"),
            (with(&[(30, 9)]), "a field is longer"),
            (with(&[(30, 3)]), "the checksum does not have 4 bytes"),
            (with(&[(28, 4), (30, 3)]), "a field is incomplete"),
            (with(&[(16, 193)]), "CRC-32C"),
            (with(&[(34, good[34] ^ 1)]), "CRC-32C"),
        ] {
            let error = error(&header);
            assert!(error.contains(expected), "{error} does not contain {expected}");
        }
        let twice = header(address("192.0.2.1:1"), address("192.0.2.2:2"), &good[28..35]);
        assert!(error(&twice).contains("two checksums") || error(&twice).contains("CRC-32C"));
    }

    #[test]
    fn believes_only_listed_peers() {
        let network = |text| Proxies::network(text).expect("a network");
        let proxies = Proxies::new(vec![network("10.0.0.0/8"), network("2001:db8::7")]);
        let contains = |text: &str| proxies.contains(text.parse().expect("an address"));
        assert!(contains("10.1.2.3") && contains("::ffff:10.1.2.3") && contains("2001:db8::7"));
        assert!(!contains("11.0.0.1") && !contains("2001:db8::8"));
        assert!(!Proxies::default().contains([127, 0, 0, 1].into()));
        for wrong in ["10.0.0.1/8", "10.0.0.0/33", "balancer.example", ""] {
            assert_eq!(Proxies::network(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(place in 0..35usize, bit in 0..8u32) {
            let good = header(address("192.0.2.1:1"), address("192.0.2.2:2"), &[]);
            let mut changed = good.clone();
            changed[place] ^= 1 << bit;
            let before = parse(&good).expect("a header");
            match parse(&changed) {
                Err(_) => {}
                // The command LOCAL has no address, and another type makes the checksum an unknown
                // field.
                Ok(addresses) => {
                    prop_assert!(addresses.is_none() && place == 12 || addresses == before && place == 28);
                }
            }
        }

        #[test]
        fn no_bytes_cause_a_panic(rest in proptest::collection::vec(any::<u8>(), 0..80), family in any::<bool>()) {
            let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
            let family = if family { 0x11 } else { 0x21 };
            let _ = parse(&[&SIGNATURE[..], &[0x21, family], &length, &rest].concat());
            let _ = parse(&rest);
        }
    }
}
