//! The listening sockets, bound before anything runs.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::config::Config;
use crate::http::listen::bind;

/// Every listening socket.
pub(super) struct Sockets {
    pub(super) token: TcpListener,
    pub(super) public: TcpListener,
    pub(super) directory: Option<TcpListener>,
    pub(super) directory_http: Option<TcpListener>,
    pub(super) admin: TcpListener,
}

/// Where a gateway listens; ports are the real ones also where 0 was configured.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The token plane.
    pub token: SocketAddr,
    /// The public plane.
    pub public: SocketAddr,
    /// The directory over TLS.
    pub directory: Option<SocketAddr>,
    /// The directory over plain HTTP.
    pub directory_http: Option<SocketAddr>,
    /// The admin plane.
    pub admin: SocketAddr,
}

impl Sockets {
    pub(super) fn bind(config: &Config) -> io::Result<Self> {
        let directory = config.directory.as_ref();
        Ok(Self {
            token: bind(config.token.listen)?,
            public: bind(config.public.listen)?,
            directory: directory.and_then(|d| d.listen).map(bind).transpose()?,
            directory_http: directory.and_then(|d| d.listen_http).map(bind).transpose()?,
            admin: bind(config.admin.listen)?,
        })
    }

    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        let of =
            |socket: &Option<TcpListener>| socket.as_ref().map(TcpListener::local_addr).transpose();
        Ok(Addresses {
            token: self.token.local_addr()?,
            public: self.public.local_addr()?,
            directory: of(&self.directory)?,
            directory_http: of(&self.directory_http)?,
            admin: self.admin.local_addr()?,
        })
    }
}
