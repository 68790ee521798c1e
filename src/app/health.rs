//! The health listener, on a thread, a runtime and a table of connections of its own.
//!
//! # Design notes
//! Probes must be answered when every thread of the token plane is busy, and probes must not slow the
//! token plane.  One thread answers them all: it has its turn from the operating system, whatever the
//! other threads do, and a flood of probes uses one processor at most.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::admin::Admin;
use crate::http::connections::{Admission, Shares};
use crate::http::listen::serve_plain_within;
use crate::http::serve::Limits;
use crate::runtime::memory::Pressure;
use crate::runtime::tasks::Tasks;

/// Time from the start of a connection to the end of its first request's header.
const HEADER: Duration = Duration::from_secs(5);
/// Time without a request, and time to read a response.  A scraper connects again at no cost.
const IDLE: Duration = Duration::from_secs(10);

/// Serves probes and metrics until the process stops, on at most `connections` connections.
///
/// # Errors
/// The operating system refuses a thread or its descriptors.
pub(super) fn serve(
    socket: TcpListener,
    connections: usize,
    admin: Arc<Admin>,
    tasks: &Tasks,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let socket = socket.into_std()?;
    let socket = {
        let _context = runtime.enter();
        TcpListener::from_std(socket)?
    };
    let stop = tasks.stop();
    let (mut running, ended) = oneshot::channel::<()>();
    let served = async move {
        // Probes are answered when memory is short.
        let admission = Admission::new(Shares::new(connections), Pressure::default(), |_| {});
        let limits = Limits { header_read: HEADER, idle: IDLE, ..Limits::default() };
        let health = move |request| {
            let admin = Arc::clone(&admin);
            async move { admin.health(&request) }
        };
        let is_complete = tokio::select! {
            () = serve_plain_within(socket, admission, limits, stop, health) => true,
            // The tasks of the process were dropped without a stop.
            () = running.closed() => false,
        };
        if is_complete {
            let _ = running.send(());
        }
    };
    thread::Builder::new().name("health".to_owned()).spawn(move || runtime.block_on(served))?;
    tasks.spawn(async move {
        if let Err(error) = ended.await {
            // The thread has panicked.
            resume_unwind(Box::new(error));
        }
    });
    Ok(())
}
