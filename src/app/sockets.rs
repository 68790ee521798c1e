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

    /// Says so when the process may not open as many files as the listeners may hold connections.
    pub(super) fn warn_about_descriptors(config: &Config) {
        // What lists, directories, stores and logs need besides.
        const OTHERS: usize = 256;
        let needed = config.token.bounds.shares.connections + config.public.bounds.shares.connections + OTHERS;
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        if let Some(most) = open_files(&limits).filter(|most| *most < needed) {
            warn!(
                "this process may open {most} files and its listeners may need {needed}: raise \
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

/// The soft limit of open files, from the text of `/proc/self/limits`; `None` where there is none.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 524288               files\n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(open_files("Max open files            unlimited  unlimited  files\n"), None);
        assert_eq!(open_files(""), None);
    }
}
