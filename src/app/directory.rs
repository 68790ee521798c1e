//! The embedded directory: its store and its services.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::Notify;

use crate::app::base::Base;
use crate::app::capacity::Capacity;
use crate::app::sockets::Addresses;
use crate::config::Config;
use crate::directory::{Directory, Metrics, Served};
use crate::store::Store;

/// The embedded directory, if there is one, and its services.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) directory: Option<Directory>,
    pub(super) store: Option<Store>,
    /// Over TLS.
    pub(super) tls: Option<Served>,
    /// Over plain HTTP.
    pub(super) http: Option<Served>,
}

/// Opens the embedded directory with its store: a database, or a file in `data_dir`.  `refused` is
/// signalled when the database refuses the credentials.
///
/// # Errors
/// The store cannot be opened.
pub(super) async fn open(
    config: &Config,
    addresses: &Addresses,
    capacity: Capacity,
    refused: &Arc<Notify>,
    base: &mut Base,
) -> anyhow::Result<Opened> {
    let Some(part) = &config.directory else { return Ok(Opened::default()) };
    let store = match &part.database {
        None => Store::open(&config.data_dir.join("directory.redb")).await?,
        Some(database) => {
            let connected = Store::connect(database).await;
            let (store, follower) =
                connected.with_context(|| format!("directory.database_url: {database}"))?;
            let follower = follower.notify_refusals(Arc::clone(refused));
            base.tasks.spawn_until_stop(follower.run());
            store
        }
    };
    let metrics = Metrics::register(&mut base.registry);
    let directory = Directory::until(part.config.clone(), store.clone(), base.tasks.stopping());
    let directory = directory.with_metrics(metrics);
    let at = |url: &str, connections| directory.at(url).with_waiters(connections / 2);
    let tls = part.public_url.as_ref().map(|url| at(url, capacity.directory));
    let http = addresses.directory_http;
    let http = http.map(|address| at(&format!("http://{address}"), capacity.directory_http));
    Ok(Opened { directory: Some(directory), store: Some(store), tls, http })
}
