//! HTTP on a Unix socket, for commands on the same machine.
//!
//! # Design notes
//! The permissions of the socket's file decide who may connect: its owner and root.  They are set before
//! the file exists, so that there is no moment at which others can connect.

use std::fs::{self, File, Permissions};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Request;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tracing::warn;

use crate::http::admission::Hosts;
use crate::http::connections::{Admission, Shares};
use crate::http::reply::Reply;
use crate::http::serve::{Limits, Protocol, RequestBody};
use crate::runtime::memory::Pressure;
use crate::runtime::tasks::Stop;

/// Longest path of a socket in bytes (`sun_path` of unix(7), without its final zero).
pub(crate) const MAX_PATH: usize = 107;

const MODE: u32 = 0o600;
const BACKLOG: i32 = 64;
const MAX_CONNECTIONS: usize = 64;

/// A listening socket.  Dropping it removes its file.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalSocket {
    /// Listens at `path`, with mode 0600.  Replaces the socket of a process that has ended.
    ///
    /// # Errors
    /// An error of the operating system, a process that listens there, or a file that is not a socket.  All
    /// name the path.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let bind = || {
            remove_unused(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // The file gets the mode of the socket.
            let file = File::from(OwnedFd::from(socket));
            file.set_permissions(Permissions::from_mode(MODE))?;
            let socket = Socket::from(OwnedFd::from(file));
            socket.bind(&SockAddr::unix(path)?)?;
            // On systems that ignore the mode of the socket.  Nothing is accepted before `listen`.
            fs::set_permissions(path, Permissions::from_mode(MODE))?;
            socket.listen(BACKLOG)?;
            let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
            Ok(Self { listener: UnixListener::from_std(listener)?, path: path.to_owned() })
        };
        bind().map_err(|error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
        })
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_unused(path: &Path) -> io::Result<()> {
    let in_use = |text| Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(file) if !file.file_type().is_socket() => in_use("the file is not a socket"),
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => in_use("another process listens there"),
        },
    }
}

/// Serves HTTP/1.1 on `socket` until `stop`.  The handler also gets the user id of the peer.
pub(crate) async fn serve_local<H, F>(socket: LocalSocket, limits: Limits, stop: Stop, handler: H)
where
    H: Fn(u32, Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let admission = Admission::new(Shares::new(MAX_CONNECTIONS), Pressure::default(), |_| {});
    loop {
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let peer = match accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream))) {
            Ok(peer) => peer,
            Err(error) => {
                warn!(%error, "connection to the Unix socket not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        tokio::select! {
            () = admission.room() => {}
            () = stop.cancelled() => break,
        }
        let Ok(connection) = admission.admit(IpAddr::V4(Ipv4Addr::LOCALHOST)) else { continue };
        let (limits, handler, stop) = (limits.clone(), handler.clone(), stop.clone());
        tokio::spawn(async move {
            let (user, stream) = peer;
            let handler = move |request| handler(user, request);
            let unfinished = limits.request;
            let (protocol, hosts) = (Protocol::Http1, Hosts::Any);
            connection.serve(stream, protocol, hosts, &limits, &stop, unfinished, handler).await;
        });
    }
    drop(socket);
    admission.ended().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_owner_may_connect() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let socket = LocalSocket::bind(&path).expect("bound");
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn replaces_only_the_socket_of_a_process_that_has_ended() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let first = LocalSocket::bind(&path).expect("bound");
        let error = LocalSocket::bind(&path).expect_err("in use").to_string();
        assert!(error.contains("/s: another process"), "{error}");
        drop(first);
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "left behind");
        drop(LocalSocket::bind(&path).expect("replaced"));
        fs::write(&path, "data").expect("written");
        let error = LocalSocket::bind(&path).expect_err("a file").to_string();
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(fs::read(&path).expect("kept"), b"data");
    }
}
