//! One connection: its handshake, its requests and its end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::Request;
use tokio::net::TcpStream;
use tracing::debug;

use crate::http::connections::Connection;
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::http::serve::{Ended, Protocol, RequestBody};
use crate::runtime::audit;
use crate::tls::acceptor::handshake::{Completed, Edge};
use crate::tls::proxied;

impl Edge {
    /// Completes the handshake of a new connection.  Returns `None` if it fails; a refused peer has had the
    /// time to read the alert then.
    pub(super) async fn establish(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        connection: &Connection,
        number: u64,
    ) -> Option<Completed> {
        let stop = &self.stop;
        let (proxies, limit) = {
            let bounds = self.listener.bounds.borrow();
            (bounds.shares.proxies.clone(), bounds.handshake)
        };
        let addresses =
            proxied::addresses(&mut stream, address, connection, &proxies, limit, stop).await;
        let addresses = match addresses {
            Ok(addresses) => addresses,
            Err(reason) => {
                self.listener.metrics.failed(self.listener.name, reason);
                debug!(connection = number, %address, reason, "connection not served");
                return None;
            }
        };
        // The verifier audits refusals without knowing the connection.
        let connection_of_task = audit::Connection { number, address: addresses.client };
        let handshake = self.handshake(stream, connection, addresses, number);
        // Boxed, so that a connection that lingers does not keep the space.
        let completed = Box::pin(audit::CONNECTION.scope(connection_of_task, handshake)).await;
        match completed {
            Ok(completed) => Some(completed),
            Err(Some(refused)) => {
                connection.linger();
                self.lingering.close(refused, connection.until_unwanted(stop)).await;
                None
            }
            Err(None) => None,
        }
    }

    /// Serves HTTP on a connection whose handshake is complete, until it ends.
    pub(super) async fn serve<H, F>(
        &self,
        completed: Completed,
        connection: &Connection,
        number: u64,
        handler: H,
    ) where
        H: Fn(Arc<Peer>, Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let Completed { stream, peer, hosts, ticket } = completed;
        let Self { listener, stop, .. } = self;
        let address = peer.address;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        if let Some(certificate) = &peer.certificate
            && connection.assign(&certificate.0).is_err()
        {
            return;
        }
        let _registration = match (&listener.open, &peer.chain) {
            (Some(open), Ok(chain)) => Some(open.register(number, chain, connection.closing())),
            _ => None,
        };
        let peer = Arc::new(peer);
        let requested = Arc::clone(&ticket.has_request);
        let handle = move |request| {
            requested.store(true, Ordering::Relaxed);
            handler(Arc::clone(&peer), request)
        };
        let (limits, unfinished) = {
            let bounds = listener.bounds.borrow();
            (bounds.http.clone(), bounds.unfinished)
        };
        let ended =
            connection.serve(stream, protocol, hosts, &limits, stop, unfinished, handle).await;
        if let Some(gets_no_ticket) = ticket.ended(ended) {
            self.closed_after_ticket(number, address, gets_no_ticket);
        }
        if ended == Ended::Flooded {
            listener.metrics.flooded(listener.name);
            debug!(connection = number, %address, "closed: too many HTTP/2 control frames");
        }
    }
}
