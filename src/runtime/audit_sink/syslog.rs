//! Syslog (RFC 5424) over UDP (RFC 5426), TCP (RFC 6587 section 3.4.1) or a Unix datagram socket.
//!
//! # Design notes
//! UDP has no acknowledgement: what is lost on the way is not noticed.  Over TCP, what the server's kernel
//! accepted before the server failed is lost as well.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::runtime::audit_sink::attempts::{timestamp, until_done};

/// Facility 13 (log audit), severity 6 (informational).
const PRIORITY: u8 = 13 * 8 + 6;
/// Limit on connecting and on one write.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest HOSTNAME (RFC 5424 section 6).
const MAX_HOST: usize = 255;

/// Address of a syslog server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// `udp://HOST:PORT`.
    Udp(String),
    /// `tcp://HOST:PORT`.
    Tcp(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

enum Connection {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Unix(UnixDatagram),
}

/// A connection to a syslog server, which is opened when it is needed.
pub(super) struct Syslog {
    server: Server,
    connection: Option<Connection>,
    host: String,
}

impl Syslog {
    pub(super) fn new(server: Server) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self { server, connection: None, host: host_name(&host) }
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let connection = match self.connection.take().filter(Connection::is_open) {
            Some(connection) => connection,
            None => Connection::open(&self.server)?,
        };
        connection.send(message)?;
        // After an error, a new connection is opened: half a message may have been sent.
        self.connection = Some(connection);
        Ok(())
    }
}

/// Sends whole lines.  A failed one is tried again until it succeeds.
impl Write for Syslog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let message = message(line, &self.host, SystemTime::now());
        until_done(|| self.send(&message));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Connection {
    fn open(server: &Server) -> io::Result<Self> {
        match server {
            Server::Udp(address) => {
                let address = resolve(address)?;
                let local: SocketAddr = match address {
                    SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
                    SocketAddr::V6(_) => ([0u16; 8], 0).into(),
                };
                let socket = UdpSocket::bind(local)?;
                socket.connect(address)?;
                Ok(Self::Udp(socket))
            }
            Server::Tcp(address) => {
                let stream = TcpStream::connect_timeout(&resolve(address)?, PATIENCE)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Server::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(PATIENCE))?;
                Ok(Self::Unix(socket))
            }
        }
    }

    /// False if a TCP server closed the connection: a write would succeed and be lost.
    fn is_open(&self) -> bool {
        let Self::Tcp(stream) = self else { return true };
        let is_silent = |stream: &TcpStream| {
            stream.set_nonblocking(true)?;
            let peeked = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            match peeked {
                Ok(0) => Ok(false),
                Ok(_) => Ok(true),
                Err(error) => Ok::<_, io::Error>(error.kind() == io::ErrorKind::WouldBlock),
            }
        };
        is_silent(stream).unwrap_or(false)
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(message).map(drop),
            Self::Unix(socket) => socket.send(message).map(drop),
            Self::Tcp(stream) => {
                let mut framed = format!("{} ", message.len()).into_bytes();
                framed.extend_from_slice(message);
                (&*stream).write_all(&framed)
            }
        }
    }
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let mut all = address.to_socket_addrs()?;
    all.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// A message (RFC 5424 section 6) with the record as its text.
fn message(line: &[u8], host: &str, now: SystemTime) -> Vec<u8> {
    let (time, process) = (timestamp(now), std::process::id());
    let head = format!("<{PRIORITY}>1 {time} {host} anchorgate {process} audit - ");
    let mut message = head.into_bytes();
    message.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
    message
}

/// HOSTNAME: printable ASCII, or the nil value.
fn host_name(name: &str) -> String {
    let name = name.trim();
    let is_printable = name.bytes().all(|byte| byte.is_ascii_graphic());
    if name.is_empty() || name.len() > MAX_HOST || !is_printable {
        return "-".to_owned();
    }
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::TcpListener;

    fn is_message(text: &str, body: &str) -> bool {
        text.starts_with("<110>1 20")
            && text.contains(" anchorgate ")
            && text.ends_with(&format!(" audit - {body}"))
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn datagrams_have_one_message_each() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let (udp, unix) = (
            UdpSocket::bind("127.0.0.1:0").expect("bound"),
            UnixDatagram::bind(&path).expect("bound"),
        );
        let address = udp.local_addr().expect("an address").to_string();
        let mut buffer = [0; 4096];
        for server in [Server::Udp(address), Server::Unix(path)] {
            let mut syslog = Syslog::new(server.clone());
            for body in ["{\"a\":1}", "{\"b\":2}"] {
                syslog.write_all(format!("{body}\n").as_bytes()).expect("sent");
                let length = match server {
                    Server::Udp(_) => udp.recv(&mut buffer),
                    _ => unix.recv(&mut buffer),
                };
                let got = text(&buffer[..length.expect("received")]);
                assert!(is_message(&got, body), "{got}");
            }
        }
    }

    #[test]
    fn a_stream_is_framed_and_opened_again_after_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("an address").to_string();
        let mut syslog = Syslog::new(Server::Tcp(address));
        for body in ["{\"a\":1}", "{\"b\":2}"] {
            syslog.write_all(format!("{body}\n").as_bytes()).expect("sent");
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut frame = Vec::new();
            while frame.last() != Some(&b'}') {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a byte");
                frame.push(byte[0]);
            }
            let frame = text(&frame);
            let (length, message) = frame.split_once(' ').expect("a length");
            assert_eq!(length.parse(), Ok(message.len()), "{frame}");
            assert!(is_message(message, body), "{message}");
            stream.shutdown(std::net::Shutdown::Both).expect("closed");
            drop(stream);
            // The end arrives in the background.
            while syslog.connection.as_ref().is_some_and(Connection::is_open) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_host_name_is_printable() {
        assert_eq!(host_name("gw-1.example\n"), "gw-1.example");
        for bad in ["", "a b", "gw\u{e4}", "x\u{1b}", &"x".repeat(256)] {
            assert_eq!(host_name(bad), "-", "{bad}");
        }
    }
}
