//! The listening sockets, bound before anything runs.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tracing::warn;

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

/// Addresses of a gateway's listeners, with the assigned port where 0 was configured.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The token listener.
    pub token: SocketAddr,
    /// The public listener.
    pub public: SocketAddr,
    /// The directory's TLS listener.
    pub directory: Option<SocketAddr>,
    /// The directory's plain HTTP listener.
    pub directory_http: Option<SocketAddr>,
    /// The admin listener.
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

    /// Warns if the process may open fewer files than its listeners may hold connections.
    pub(super) fn warn_about_descriptors(config: &Config) {
        // Files for lists, directories, stores and logs.
        const OTHERS: usize = 256;
        let needed = config.token.bounds.shares.connections
            + config.public.bounds.shares.connections
            + OTHERS;
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        if let Some(limit) = open_files(&limits).filter(|limit| *limit < needed) {
            warn!(
                "limit of {limit} open files is below the {needed} that the listeners may need: raise \
                 LimitNOFILE (ulimit -n), or lower token.connections and public.connections"
            );
        }
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

/// The soft limit on open files in the text of `/proc/self/limits`; `None` for no limit.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_limit_on_open_files() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(open_files("Max open files            unlimited  unlimited  files\n"), None);
        assert_eq!(open_files(""), None);
    }
}
