//! The store in a PostgreSQL database, for several replicas of one directory.
//!
//! # Why
//! Every change locks the one row that holds the number of the last change, and holds it until it is
//! committed.  So changes happen one after another, as in the embedded store: versions are in the order
//! of commits, a limit that was counted still holds at the commit, and a reader that has seen version N
//! has missed nothing below N.  A sequence would give none of the three.
//!
//! What follows from the objects (the last change and the size of each collection, what was removed) is
//! kept by a trigger of the database, so that it holds beside a replica of an earlier program too.

mod database;
mod follow;

use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{PgConnection, Postgres as Engine, Transaction, query, query_as, query_scalar};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::store::changes::{Announcer, Versions};
use crate::store::objects::{Change, Collection, Record, Since, StoreError};

use follow::Shut;

pub use database::{Database, DatabaseUrlError};
pub use follow::Follower;

/// Connections for requests; one more listens.
const CONNECTIONS: u32 = 8;
/// How long a request waits for a connection.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long one operation may take in all.
const OPERATION: Duration = Duration::from_secs(10);
/// Told with each change, in its transaction.
const CHANNEL: &str = "anchorgate_directory";

/// A pool of connections to one database.
#[derive(Clone)]
pub(super) struct Postgres {
    pool: PgPool,
    /// Shut while the database cannot be followed, with the reason: what is read then would be
    /// answered as current without being so.
    gate: watch::Receiver<Result<(), Shut>>,
}

impl Postgres {
    /// Tries the database once, and waits no longer for one that is not there: its follower goes on.
    pub(super) async fn connect(database: &Database, changes: Announcer) -> (Self, Follower) {
        let limits = [
            ("statement_timeout", OPERATION.as_millis()),
            // A replica that stops in the middle of a change must not stop the others for long.
            ("idle_in_transaction_session_timeout", OPERATION.as_millis() / 2),
        ];
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(ACQUIRE)
            .after_connect(|connection, _| Box::pin(make_durable(connection)))
            .connect_lazy_with(database.options.clone().options(limits));
        let mut follower = Follower::new(database, changes);
        follower.begin().await;
        (Self { pool, gate: follower.gate() }, follower)
    }

    /// The versions of the last changes.
    pub(super) async fn versions(&self) -> Result<Versions, StoreError> {
        self.answer(async { Ok(versions(&mut *self.pool.acquire().await?).await?) }).await
    }

    pub(super) async fn identity(&self) -> Result<String, StoreError> {
        self.answer(async {
            let asked = query_scalar("SELECT identity FROM directory_version");
            Ok(asked.fetch_one(&self.pool).await?)
        })
        .await
    }

    pub(super) async fn list(
        &self,
        collection: Collection,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.answer(async {
            let rows = query_as(
                "SELECT id, version, body FROM directory_object \
                 WHERE collection = $1 AND id >= $2 ORDER BY id LIMIT $3",
            )
            .bind(collection.name())
            .bind(least_after(after))
            .bind(rows_up_to(limit))
            .fetch_all(&self.pool)
            .await?;
            Ok(rows.into_iter().map(record).collect())
        })
        .await
    }

    pub(super) async fn referrers(
        &self,
        target: (Collection, &str),
        collection: Collection,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.answer(async {
            let rows = query_as(
                "SELECT id, version, body FROM directory_object \
                 WHERE refers_to_collection = $1 AND refers_to_id = $2 \
                 AND collection = $3 AND id >= $4 ORDER BY id LIMIT $5",
            )
            .bind(target.0.name())
            .bind(target.1.as_bytes())
            .bind(collection.name())
            .bind(least_after(after))
            .bind(rows_up_to(limit))
            .fetch_all(&self.pool)
            .await?;
            Ok(rows.into_iter().map(record).collect())
        })
        .await
    }

    pub(super) async fn changes_since(
        &self,
        collection: Collection,
        since: Since,
        limit: usize,
    ) -> Result<Vec<Change>, StoreError> {
        let limit = rows_up_to(limit);
        // What is greater than any version is none that this database has given out.
        let number = |version: u64| i64::try_from(version).unwrap_or(i64::MAX);
        self.answer(async {
            let mut connection = self.pool.acquire().await?;
            let rows: Vec<(Vec<u8>, i64, Option<Vec<u8>>)> = query_as(
                "(SELECT id, version, body FROM directory_object \
                  WHERE collection = $1 AND version > $2 ORDER BY version LIMIT $4) \
                 UNION ALL \
                 (SELECT id, version, NULL FROM directory_removed \
                  WHERE collection = $1 AND version > $3 ORDER BY version LIMIT $4) \
                 ORDER BY version LIMIT $4",
            )
            .bind(collection.name())
            .bind(number(since.seen))
            .bind(number(since.removals()))
            .bind(limit)
            .fetch_all(&mut *connection)
            .await?;
            // Read after the changes: what is forgotten in between is refused rather than missed.
            let (forgotten, last): (i64, i64) = query_as(
                "SELECT coalesce((SELECT forgotten FROM directory_collection \
                                  WHERE collection = $1), 0), version FROM directory_version",
            )
            .bind(collection.name())
            .fetch_one(&mut *connection)
            .await?;
            if !(forgotten..=last).contains(&number(since.removals())) {
                return Err(StoreError::Forgotten(since.seen).into());
            }
            let change = |(id, version, body): (Vec<u8>, i64, Option<Vec<u8>>)| Change {
                id: text(&id),
                version: version.cast_unsigned(),
                body,
            };
            Ok(rows.into_iter().map(change).collect())
        })
        .await
    }

    pub(super) async fn count(&self, collection: Collection) -> Result<u64, StoreError> {
        self.answer(async {
            let mut connection = self.pool.acquire().await?;
            Ok(count(&mut connection, collection).await?)
        })
        .await
    }

    pub(super) async fn get(&self, collection: Collection, id: &str) -> Result<Record, StoreError> {
        self.answer(async {
            let row: Option<(i64, Vec<u8>)> = query_as(
                "SELECT version, body FROM directory_object WHERE collection = $1 AND id = $2",
            )
            .bind(collection.name())
            .bind(id.as_bytes())
            .fetch_optional(&self.pool)
            .await?;
            let (version, body) = row.ok_or(StoreError::Missing)?;
            Ok(Record { id: id.to_owned(), version: version.cast_unsigned(), body })
        })
        .await
    }

    pub(super) async fn insert(
        &self,
        collection: Collection,
        id: &str,
        body: &[u8],
        most: Option<u64>,
        refers_to: Option<(Collection, &str)>,
    ) -> Result<u64, StoreError> {
        self.answer(async {
            let mut change = self.begin().await?;
            if let Some((collection, id)) = refers_to {
                expect(&mut change, collection, id, None).await?;
            }
            if let Some(most) = most
                && count(&mut change.transaction, collection).await? >= most
            {
                return Err(StoreError::Full(most).into());
            }
            let done = query(
                "INSERT INTO directory_object \
                 (collection, id, version, body, refers_to_collection, refers_to_id) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            )
            .bind(collection.name())
            .bind(id.as_bytes())
            .bind(change.version)
            .bind(body)
            .bind(refers_to.map(|(collection, _)| collection.name()))
            .bind(refers_to.map(|(_, id)| id.as_bytes()))
            .execute(&mut *change.transaction)
            .await?;
            if done.rows_affected() == 0 {
                return Err(StoreError::Exists.into());
            }
            change.commit().await
        })
        .await
    }

    pub(super) async fn replace(
        &self,
        collection: Collection,
        id: &str,
        expected: u64,
        body: &[u8],
    ) -> Result<u64, StoreError> {
        self.answer(async {
            let mut change = self.begin().await?;
            expect(&mut change, collection, id, Some(expected)).await?;
            query(
                "UPDATE directory_object SET version = $3, body = $4 \
                 WHERE collection = $1 AND id = $2",
            )
            .bind(collection.name())
            .bind(id.as_bytes())
            .bind(change.version)
            .bind(body)
            .execute(&mut *change.transaction)
            .await?;
            change.commit().await
        })
        .await
    }

    pub(super) async fn remove(
        &self,
        collection: Collection,
        id: &str,
        expected: Option<u64>,
        remembered: u64,
    ) -> Result<u64, StoreError> {
        self.answer(async {
            let mut change = self.begin().await?;
            expect(&mut change, collection, id, expected).await?;
            if let Some(by) = referrer(&mut change, collection, id).await? {
                return Err(StoreError::Referenced(by).into());
            }
            query("DELETE FROM directory_object WHERE collection = $1 AND id = $2")
                .bind(collection.name())
                .bind(id.as_bytes())
                .execute(&mut *change.transaction)
                .await?;
            forget(&mut change, collection, remembered).await?;
            change.commit().await
        })
        .await
    }

    /// Begins a change: the others wait until it is committed, or dropped, which undoes it.
    async fn begin(&self) -> Result<Begun, Failure> {
        // Read committed: each statement after the lock sees what the change before has committed.
        let mut transaction =
            self.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        let version =
            query_scalar("UPDATE directory_version SET version = version + 1 RETURNING version")
                .fetch_one(&mut *transaction)
                .await?;
        Ok(Begun { transaction, version })
    }

    /// An operation within its time, while the gate is open.
    async fn answer<T>(
        &self,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, StoreError> {
        if let Err(Shut(why)) = &*self.gate.borrow() {
            return Err(StoreError::Unavailable(why.clone()));
        }
        match timeout(OPERATION, operation).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(Failure::Rule(error))) => Err(error),
            Ok(Err(Failure::Engine(error))) => Err(StoreError::Unavailable(error.to_string())),
            Err(_) => {
                Err(StoreError::Unavailable(format!("the database took more than {OPERATION:?}")))
            }
        }
    }
}

/// A change that is begun, and the version that it makes.
struct Begun {
    transaction: Transaction<'static, Engine>,
    version: i64,
}

impl Begun {
    /// When this returns, the change is on the database's disk; the other replicas are told.
    async fn commit(mut self) -> Result<u64, Failure> {
        query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&mut *self.transaction).await?;
        self.transaction.commit().await?;
        Ok(self.version.cast_unsigned())
    }
}

async fn count(connection: &mut PgConnection, collection: Collection) -> Result<u64, sqlx::Error> {
    let count: Option<i64> =
        query_scalar("SELECT objects FROM directory_collection WHERE collection = $1")
            .bind(collection.name())
            .fetch_optional(connection)
            .await?;
    Ok(count.unwrap_or(0).cast_unsigned())
}

/// Forgets the oldest removals, so that `most` are left.
async fn forget(change: &mut Begun, collection: Collection, most: u64) -> Result<(), sqlx::Error> {
    query(
        "WITH over AS (SELECT removed - $2 AS many FROM directory_collection \
                       WHERE collection = $1 AND removed > $2), \
         oldest AS (SELECT version, id FROM directory_removed WHERE collection = $1 \
                    ORDER BY version LIMIT coalesce((SELECT many FROM over), 0)), \
         gone AS (DELETE FROM directory_removed r USING oldest \
                  WHERE r.collection = $1 AND r.version = oldest.version AND r.id = oldest.id \
                  RETURNING r.version) \
         UPDATE directory_collection SET removed = removed - (SELECT count(*) FROM gone), \
         forgotten = (SELECT max(version) FROM gone) \
         WHERE collection = $1 AND EXISTS (SELECT FROM gone)",
    )
    .bind(collection.name())
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .execute(&mut *change.transaction)
    .await
    .map(drop)
}

async fn expect(
    change: &mut Begun,
    collection: Collection,
    id: &str,
    expected: Option<u64>,
) -> Result<(), Failure> {
    let found: Option<i64> =
        query_scalar("SELECT version FROM directory_object WHERE collection = $1 AND id = $2")
            .bind(collection.name())
            .bind(id.as_bytes())
            .fetch_optional(&mut *change.transaction)
            .await?;
    match (found.map(i64::cast_unsigned), expected) {
        (None, _) => Err(StoreError::Missing.into()),
        (Some(found), Some(expected)) if found != expected => {
            Err(StoreError::Changed { expected, found }.into())
        }
        _ => Ok(()),
    }
}

/// The id of an object that refers to this one.
async fn referrer(
    change: &mut Begun,
    collection: Collection,
    id: &str,
) -> Result<Option<String>, sqlx::Error> {
    let by: Option<Vec<u8>> = query_scalar(
        "SELECT id FROM directory_object \
         WHERE refers_to_collection = $1 AND refers_to_id = $2 ORDER BY collection, id LIMIT 1",
    )
    .bind(collection.name())
    .bind(id.as_bytes())
    .fetch_optional(&mut *change.transaction)
    .await?;
    Ok(by.as_deref().map(text))
}

/// The least id that is greater than `after`: that with a zero byte more.
fn least_after(after: Option<&str>) -> Vec<u8> {
    after.map_or_else(Vec::new, |after| [after.as_bytes(), &[0]].concat())
}

fn rows_up_to(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn record((id, version, body): (Vec<u8>, i64, Vec<u8>)) -> Record {
    Record { id: text(&id), version: version.cast_unsigned(), body }
}

/// An id as it was stored.
fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

async fn versions(connection: &mut PgConnection) -> Result<Versions, sqlx::Error> {
    let rows: Vec<(String, i64)> = query_as("SELECT collection, version FROM directory_collection")
        .fetch_all(connection)
        .await?;
    let mut versions = Versions::default();
    for collection in Collection::ALL {
        if let Some((_, version)) = rows.iter().find(|(name, _)| name == collection.name()) {
            versions.set(collection, version.cast_unsigned());
        }
    }
    Ok(versions)
}

/// A server may be set to answer before a commit is on its disk; not to us.
async fn make_durable(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    query(
        "SELECT set_config('synchronous_commit', 'on', false) \
         WHERE current_setting('synchronous_commit') = 'off'",
    )
    .execute(connection)
    .await
    .map(drop)
}

/// A rule of the store that forbids, or the database that fails.
enum Failure {
    Rule(StoreError),
    Engine(sqlx::Error),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Rule(error)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Engine(error)
    }
}
