//! The simulated network: routes requests to the servers and shapes their responses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anchorgate::http::outbound::Network;
use anchorgate::x509::time::Timestamp;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream;
use reqwest::{Body, Request, Response};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

use crate::directory::{Directory, Listing};
use crate::issuer::Issuer;
use crate::pki::Pki;
use crate::support::crl_maker::NOW;

/// Time limit of a request to a directory.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time limit of a fetch of a list.
const CRL_PATIENCE: Duration = Duration::from_secs(30);

/// A response, or its absence.
pub enum Reply {
    Unreachable,
    /// Nothing within the time limit.
    TimeOut,
    /// The first half of a body, then the end of the connection.
    Truncated(Vec<u8>),
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
}

impl Reply {
    pub fn ok(body: Vec<u8>) -> Self {
        Self::Whole(200, Vec::new(), body)
    }

    pub fn status(status: u16) -> Self {
        Self::Whole(status, Vec::new(), Vec::new())
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Whole(_, headers, _) = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }

    /// True for a response that a client can use, except for its content.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(200 | 304, _, body) if !body.starts_with(b"<"))
    }

    fn response(self) -> Result<Response, String> {
        let (status, headers, body) = match self {
            Self::Unreachable => return Err("connection refused".to_owned()),
            Self::TimeOut => return Err("operation timed out".to_owned()),
            Self::Truncated(mut body) => {
                body.truncate(body.len() / 2);
                let end = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                (200, Vec::new(), Body::wrap_stream(stream::iter([Ok(body), Err(end)])))
            }
            Self::Whole(status, headers, body) => (status, headers, Body::from(body)),
        };
        let mut response = hyper::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        Ok(response.body(body).expect("a valid response").into())
    }
}

/// The surroundings of the gateway.
pub struct World {
    start: Instant,
    /// Error of the gateway's clock in seconds.
    pub clock_error: i64,
    pub domains: Vec<Domain>,
    /// Number of fetches of lists that time out now.
    pub timing_out: usize,
}

/// The servers of one trust domain.
pub struct Domain {
    pub name: &'static str,
    pub pki: Arc<Pki>,
    pub directory: Directory,
    pub issuer: Issuer,
}

impl Domain {
    /// A list is dropped when no authority names it.  Its copy is missing if the disk was full.
    pub fn forget_unnamed_lists(&mut self) {
        let model = &self.directory.model;
        if !model.was_full {
            return;
        }
        for (authority, lists) in self.issuer.lists.iter_mut().enumerate() {
            let is_named = |listing: &Listing| listing.contains(&authority);
            lists.is_unknown |= !model.listing.as_ref().is_some_and(is_named);
        }
    }
}

/// The world, shared with the network.
pub type Shared = Arc<Mutex<World>>;

pub fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub fn new() -> Shared {
        let domain = |index: usize| {
            let (name, pki) = (["a", "b"][index], Arc::clone(Pki::of(index)));
            let directory = Directory::new(name, Arc::clone(&pki));
            let issuer = Issuer::new(Arc::clone(&pki), NOW);
            Domain { name, pki, directory, issuer }
        };
        let domains = (0..2).map(domain).collect();
        let world = Self { start: Instant::now(), clock_error: 0, domains, timing_out: 0 };
        Arc::new(Mutex::new(world))
    }

    /// The true time.
    pub fn time(&self) -> Timestamp {
        NOW.after(self.start.elapsed())
    }

    /// The time by the gateway's clock.
    pub fn wall(&self) -> Timestamp {
        Timestamp(self.time().0 + self.clock_error)
    }

    /// The present, for the models.
    pub fn now(&self) -> (Instant, Timestamp) {
        (Instant::now(), self.wall())
    }

    /// Answers a request.  The second value is true if it came from the source of lists.
    fn answer(&mut self, request: &Request) -> (Reply, bool) {
        let (now, host) = (self.now(), request.url().host_str().unwrap_or_default());
        let is_crl = host.starts_with("crl.");
        let name = host.trim_start_matches("crl.").split('.').next();
        let domain = self.domains.iter_mut().find(|domain| Some(domain.name) == name);
        let domain = domain.expect("a server of the simulation");
        let reply = match is_crl {
            true => domain.issuer.answer(request, now.1),
            false => domain.directory.answer(request, now),
        };
        (reply, is_crl)
    }
}

/// The network of `world`.
pub fn network(world: &Shared) -> Network {
    let world = Arc::clone(world);
    Network::simulated(move |request| exchange(Arc::clone(&world), request))
}

fn exchange(world: Shared, request: Request) -> BoxFuture<'static, Result<Response, String>> {
    async move {
        let (reply, is_crl) = lock(&world).answer(&request);
        if matches!(reply, Reply::TimeOut) {
            if is_crl {
                pass(&world, CRL_PATIENCE).await;
            } else {
                sleep(PATIENCE).await;
            }
        }
        reply.response()
    }
    .boxed()
}

/// Counts a fetch that times out, until it ends or is dropped.
struct TimingOut<'a>(&'a Shared);

impl Drop for TimingOut<'_> {
    fn drop(&mut self) {
        lock(self.0).timing_out -= 1;
    }
}

/// Lets time pass while a thread waits for the pieces of a list: the clock does not advance by itself
/// then.
async fn pass(world: &Shared, time: Duration) {
    let end = Instant::now() + time;
    lock(world).timing_out += 1;
    let _count = TimingOut(world);
    while Instant::now() < end {
        advance(Duration::from_secs(1)).await;
        for _ in 0..10 {
            yield_now().await;
        }
    }
}
