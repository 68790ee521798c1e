//! The listening sockets, opened before anything runs.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener as StdListener};

use listenfd::ListenFd;
use tokio::net::TcpListener;
use tracing::warn;

use crate::config::Config;
use crate::http::listen::{bind, bind_shared};
use crate::http::local_socket::LocalSocket;

/// Every listening socket.
pub(super) struct Sockets {
    /// `None` in a hub, as `public`.
    pub(super) token: Option<TcpListener>,
    pub(super) public: Option<TcpListener>,
    pub(super) directory: Option<TcpListener>,
    pub(super) directory_http: Option<TcpListener>,
    pub(super) admin: TcpListener,
    pub(super) local: Option<LocalSocket>,
    pub(super) health: Option<TcpListener>,
}

/// Addresses of a gateway's listeners, with the assigned port where 0 was configured.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The token listener.  A hub has none.
    pub token: Option<SocketAddr>,
    /// The public listener.  A hub has none.
    pub public: Option<SocketAddr>,
    /// The directory's TLS listener.
    pub directory: Option<SocketAddr>,
    /// The directory's plain HTTP listener.
    pub directory_http: Option<SocketAddr>,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The health listener.
    pub health: Option<SocketAddr>,
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, address) in [
            ("token", self.token),
            ("public", self.public),
            ("directory", self.directory),
            ("directory (plain)", self.directory_http),
            ("health", self.health),
        ] {
            if let Some(address) = address {
                write!(f, "{name} {address}, ")?;
            }
        }
        write!(f, "admin {}", self.admin)
    }
}

impl Sockets {
    /// Takes the sockets that a service manager passed (sd_listen_fds(3)), and binds the others.
    ///
    /// # Errors
    /// An address is in use, or a passed socket does not belong to a listener.
    pub(super) fn open(config: &Config) -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut passed = Passed::take(&mut ListenFd::from_env(), &names)?;
        let mut open = |name, address, is_shared| {
            let socket = match passed.find(name, address) {
                Some(socket) => TcpListener::from_std(socket),
                None if is_shared => bind_shared(address),
                None => bind(address),
            };
            socket.map_err(|error| with_key(name, &error))
        };
        let (directory, is_shared) = (config.directory.as_ref(), config.reuse_port);
        let https = directory.and_then(|part| part.listen);
        let http = directory.and_then(|part| part.listen_http);
        let of_tokens = |listen| (!config.is_hub()).then_some(listen);
        let (token, public) = (of_tokens(config.token.listen), of_tokens(config.public.listen));
        let sockets = Self {
            token: token.map(|at| open("token", at, is_shared)).transpose()?,
            public: public.map(|at| open("public", at, is_shared)).transpose()?,
            directory: https.map(|at| open("directory", at, is_shared)).transpose()?,
            directory_http: http.map(|at| open("directory_http", at, is_shared)).transpose()?,
            // Each process has its own: commands must reach the process that they are for.
            admin: open("admin", config.admin.listen, false)?,
            health: match config.health.map(|at| open("health", at, false)).transpose() {
                Ok(health) => health,
                Err(error) if error.kind() == ErrorKind::AddrInUse && !config.health_is_set => {
                    warn!("{}. The gateway runs without a health listener", health_error(&error));
                    None
                }
                Err(error) => return Err(health_error(&error)),
            },
            local: config.admin.socket.as_deref().map(LocalSocket::bind).transpose()?,
        };
        passed.check_empty()?;
        Ok(sockets)
    }

    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        let of =
            |socket: &Option<TcpListener>| socket.as_ref().map(TcpListener::local_addr).transpose();
        Ok(Addresses {
            token: of(&self.token)?,
            public: of(&self.public)?,
            directory: of(&self.directory)?,
            directory_http: of(&self.directory_http)?,
            admin: self.admin.local_addr()?,
            health: of(&self.health)?,
        })
    }
}

/// The error of a listener, with the key of its address.
fn with_key(listener: &str, error: &io::Error) -> io::Error {
    let key = match listener {
        "directory_http" => "directory.listen_http".to_owned(),
        listener => format!("{listener}.listen"),
    };
    io::Error::new(error.kind(), format!("{key}: {error}"))
}

/// The health listener has a default, which another gateway on this machine may use.
fn health_error(error: &io::Error) -> io::Error {
    let hint = "set it to another address, or to \"off\"";
    io::Error::new(error.kind(), format!("{error}; {hint}"))
}

/// The sockets that a service manager passed, with their names.
struct Passed(Vec<(String, StdListener)>);

impl Passed {
    /// `names` is the value of `LISTEN_FDNAMES`: names separated by colons, in the order of the
    /// sockets.
    fn take(sockets: &mut ListenFd, names: &str) -> io::Result<Self> {
        let mut names = names.split(':');
        let mut passed = Vec::new();
        for number in 0..sockets.len() {
            let name = names.next().unwrap_or_default().to_owned();
            if let Some(socket) = sockets.take_tcp_listener(number)? {
                socket.set_nonblocking(true)?;
                passed.push((name, socket));
            }
        }
        Ok(Self(passed))
    }

    /// Returns the socket of a listener: the one with its name, else the one on its port whose name
    /// is not that of a listener.
    fn find(&mut self, listener: &str, address: SocketAddr) -> Option<StdListener> {
        const NAMES: [&str; 6] =
            ["token", "public", "directory", "directory_http", "admin", "health"];
        let is_on_port = |(name, socket): &(String, StdListener)| {
            !NAMES.contains(&name.as_str())
                && socket.local_addr().is_ok_and(|local| local.port() == address.port())
        };
        let named = self.0.iter().position(|(name, _)| name == listener);
        let place = named.or_else(|| self.0.iter().position(is_on_port))?;
        Some(self.0.remove(place).1)
    }

    fn check_empty(&self) -> io::Result<()> {
        let Some((name, socket)) = self.0.first() else { return Ok(()) };
        let at = socket.local_addr().map_or_else(|error| error.to_string(), |at| at.to_string());
        Err(io::Error::other(format!(
            "socket activation: the socket `{}` on {at} does not belong to a listener: set \
             FileDescriptorName= to token, public, directory, directory_http, admin or health, once \
             each, or use the port of a listener",
            name.escape_debug()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(names: &[&str]) -> Passed {
        let socket = |name: &&str| {
            let socket = StdListener::bind("127.0.0.1:0").expect("a port");
            ((*name).to_owned(), socket)
        };
        Passed(names.iter().map(socket).collect())
    }

    #[test]
    fn passed_sockets_are_found_by_name_and_then_by_port() {
        let mut passed = passed(&["anchorgate.socket", "token", "public"]);
        let at = |n: usize| passed.0[n].1.local_addr().expect("bound");
        let (unnamed, token, public) = (at(0), at(1), at(2));
        let other = SocketAddr::from(([127, 0, 0, 1], 1));
        let port = |socket: Option<StdListener>| socket.map(|s| s.local_addr().expect("bound"));
        assert_eq!(port(passed.find("token", other)), Some(token));
        assert_eq!(port(passed.find("admin", public)), None, "the socket has another name");
        assert!(passed.check_empty().is_err());
        assert_eq!(port(passed.find("admin", unnamed)), Some(unnamed));
        assert_eq!(port(passed.find("public", other)), Some(public));
        assert!(passed.check_empty().is_ok());
    }

    #[test]
    fn names_a_passed_socket_without_a_listener() {
        let passed = passed(&["tokens"]);
        let error = passed.check_empty().expect_err("not taken").to_string();
        assert!(error.contains("`tokens`") && error.contains("FileDescriptorName"), "{error}");
    }
}
