//! The embedded directory: its store and its services.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::Notify;

use crate::app::capacity::Capacity;
use crate::app::sockets::Addresses;
use crate::directory::{Directory, Served};
use crate::runtime::tasks::Tasks;
use crate::store::{Database, Store};

/// Opens the store of the embedded directory: a database, or a file in `data_dir`.  `refused` is signalled
/// when the database refuses the credentials.
pub(super) async fn open_store(
    database: Option<&Database>,
    data_dir: &Path,
    refused: &Arc<Notify>,
    tasks: &Tasks,
) -> anyhow::Result<Store> {
    let Some(database) = database else {
        return Ok(Store::open(&data_dir.join("directory.redb")).await?);
    };
    let connected = Store::connect(database).await;
    let (store, follower) =
        connected.with_context(|| format!("directory.database_url: {database}"))?;
    tasks.spawn_until_stop(follower.notify_refusals(Arc::clone(refused)).run());
    Ok(store)
}

/// Returns the services of the embedded directory over TLS and over plain HTTP.
pub(super) fn serve(
    directory: &Directory,
    public_url: Option<String>,
    addresses: &Addresses,
    capacity: Capacity,
) -> (Option<Served>, Option<Served>) {
    let at = |url: &str, connections| directory.at(url).with_waiters(connections / 2);
    let https = public_url.map(|url| at(&url, capacity.directory));
    let http = addresses.directory_http;
    let http = http.map(|address| at(&format!("http://{address}"), capacity.directory_http));
    (https, http)
}
