//! The contract of the store, tested with both engines, and additional guarantees of the database.

#[path = "../support/mod.rs"]
mod support;

mod backup;
mod changes;
mod contract;
mod limited;
mod lost;
mod offline;
mod replicas;
mod upgrade;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anchorgate::store::{Collection, Store};
use tempfile::TempDir;

use crate::support::postgres::{Cluster, database};

const C: Collection = Collection::MutualTlsOauthConfigurations;
/// Below the polling interval of replicas: a change seen within this time was notified.
const NOTIFIED: Duration = Duration::from_secs(4);
/// Upper limit for waits.
const LONG: Duration = Duration::from_secs(60);

/// The location of a store, which outlives the store.
enum Place {
    File(TempDir),
    Database { url: String, _running: Arc<Cluster> },
}

impl Place {
    fn file() -> Self {
        Self::File(tempfile::tempdir().expect("a folder"))
    }

    async fn database() -> Self {
        let cluster = Cluster::shared();
        let url = cluster.database().await;
        Self::Database { url, _running: cluster }
    }

    /// The location as text for a child process.
    fn text(&self) -> String {
        match self {
            Self::File(folder) => folder.path().join("directory.redb").display().to_string(),
            Self::Database { url, .. } => url.clone(),
        }
    }

    async fn open(&self) -> Store {
        open(&self.text()).await
    }
}

async fn open(place: &str) -> Store {
    if !place.starts_with("postgres:") {
        return Store::open(&PathBuf::from(place)).await.expect("a store");
    }
    let (store, follower) = Store::connect(&database(place)).await.expect("an address");
    tokio::spawn(follower.run());
    store
}

macro_rules! both_engines {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::Place::file()).await;
            })*
        }
        mod postgresql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::Place::database().await).await;
            })*
        }
    };
}

pub(crate) use both_engines;

/// Opens the same location again.
async fn reopen(place: &Place, store: Store) -> Store {
    drop(store);
    place.open().await
}
