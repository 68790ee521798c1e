//! The addresses of a connection: those of its socket, or those that a load balancer tells.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use crate::http::connections::Connection;
use crate::http::proxy_protocol::{self, Addresses, Proxies};
use crate::runtime::tasks::Stop;

/// Returns the addresses of a connection that `peer` has made.  On a connection of a listed load
/// balancer, reads its header within `limit` and counts the connection for the client's address.
///
/// # Errors
/// The reason for which the connection is not served, as metrics name it.
pub(super) async fn addresses(
    stream: &mut TcpStream,
    peer: SocketAddr,
    connection: &Connection,
    proxies: &Proxies,
    limit: Duration,
    stop: &Stop,
) -> Result<Addresses, &'static str> {
    let of_socket = Addresses { client: peer, server: stream.local_addr().map_err(|_| "io")? };
    if !proxies.contains(peer.ip()) {
        return Ok(of_socket);
    }
    let header = Box::pin(timeout(limit, proxy_protocol::read(stream)));
    let header = tokio::select! {
        biased;
        header = header => header,
        () = connection.until_unwanted(stop) => return Err("silent"),
    };
    match header {
        // The balancer's own connection, such as a health check.
        Ok(Ok(None)) => Ok(of_socket),
        Ok(Ok(Some(addresses))) => match connection.assign_address(addresses.client.ip()) {
            Ok(()) => Ok(addresses),
            Err(_) => Err("address"),
        },
        Ok(Err(error)) => {
            debug!(%peer, %error, "PROXY header of a load balancer not accepted");
            Err("proxy_header")
        }
        Err(_) => Err("timeout"),
    }
}
