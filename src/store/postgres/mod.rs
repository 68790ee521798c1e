//! PostgreSQL engine, for several replicas of one directory.
//!
//! # Design notes
//! Every change locks the only row with the last version until it is committed.  Changes are therefore
//! serialized, as in the embedded engine: versions follow the order of commits, a limit that was
//! checked still holds at the commit, and a reader at version N has missed nothing below N.  A sequence
//! would guarantee none of the three.
//!
//! A trigger of the database maintains the derived data: last version and size of each collection, and
//! its removals.  The data therefore stays correct when replicas of an earlier program version write.

mod change;
mod database;
mod follow;

use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{PgConnection, query, query_as, query_scalar};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::store::changes::{ChangeNotifier, Versions};
use crate::store::objects::{Change, Collection, READ_BYTES, Record, Since, StoreError};

use change::{PendingChange, count, expect, expire_removals, referrer};
use follow::{Availability, versions};

use database::SharedOptions;
pub use database::{Database, DatabaseUrlError};
pub use follow::Follower;

/// Longest time that an operation waits for a connection.  A request has few operations, and fails at
/// the first that gets none.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of one operation in total.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Connection pool of one database.
#[derive(Clone)]
pub(super) struct Postgres {
    pool: PgPool,
    options: SharedOptions,
    /// Host, port and database.
    name: String,
    availability: watch::Receiver<Availability>,
}

impl Postgres {
    /// Makes one connection attempt.  If it fails, the follower continues to try.
    ///
    /// # Errors
    /// The address can never work.
    pub(super) async fn connect(
        database: &Database,
        changes: ChangeNotifier,
    ) -> Result<(Self, Follower), StoreError> {
        let pool = PgPoolOptions::new()
            .max_connections(database.connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .connect_lazy_with(database.options.clone());
        let options = SharedOptions::new(database);
        let mut follower = Follower::new(database, options.clone(), changes);
        follower.connect_once().await?;
        let (name, availability) = (database.to_string(), follower.availability());
        Ok((Self { pool, options, name, availability }, follower))
    }

    /// Returns an error if `database` is another database.
    pub(super) fn check(&self, database: &Database) -> Result<(), String> {
        let new = database.to_string();
        if new == self.name {
            return Ok(());
        }
        Err(format!(
            "directory.database_url_file: the URL names the database {new}; without a restart only the \
             credentials of {} can change",
            self.name
        ))
    }

    /// Uses the credentials of `database` for every connection that is opened from now on.
    pub(super) fn use_credentials(&self, database: &Database) {
        self.options.set(database);
        self.pool.set_connect_options(self.options.get());
    }

    /// Reads the version of the last change of each collection.
    pub(super) async fn versions(&self) -> Result<Versions, StoreError> {
        self.run(async { Ok(versions(&mut *self.pool.acquire().await?).await?) }).await
    }

    pub(super) async fn identity(&self) -> Result<String, StoreError> {
        self.run(async {
            // A restored backup, a failover and a restored dump have the identity of the original
            // and may reach the same versions with other objects.  The first two begin with a start
            // of the server, the last one with a new table.
            let query = query_scalar(
                "SELECT encode(sha256(convert_to(concat_ws(' ', identity, \
                 extract(epoch FROM pg_postmaster_start_time()), \
                 'directory_version'::regclass::oid), 'UTF8')), 'hex') FROM directory_version",
            );
            Ok(query.fetch_one(&self.pool).await?)
        })
        .await
    }

    pub(super) async fn list(
        &self,
        collection: Collection,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.run(async {
            let rows = query_as(
                "SELECT id, version, body FROM (SELECT *, \
                  sum(octet_length(body)) OVER (ORDER BY id) - octet_length(body) AS before FROM \
                  (SELECT id, version, body FROM directory_object \
                   WHERE collection = $1 AND id >= $2 ORDER BY id LIMIT $3) AS rows) AS sized \
                 WHERE before < $4 ORDER BY id",
            )
            .bind(collection.name())
            .bind(least_after(after))
            .bind(rows_up_to(limit))
            .bind(rows_up_to(READ_BYTES))
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
        self.run(async {
            let rows = query_as(
                "SELECT id, version, body FROM (SELECT *, \
                  sum(octet_length(body)) OVER (ORDER BY id) - octet_length(body) AS before FROM \
                  (SELECT id, version, body FROM directory_object \
                   WHERE refers_to_collection = $1 AND refers_to_id = $2 \
                   AND collection = $3 AND id >= $4 ORDER BY id LIMIT $5) AS rows) AS sized \
                 WHERE before < $6 ORDER BY id",
            )
            .bind(target.0.name())
            .bind(target.1.as_bytes())
            .bind(collection.name())
            .bind(least_after(after))
            .bind(rows_up_to(limit))
            .bind(rows_up_to(READ_BYTES))
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
        // A number above i64::MAX is not a version of this database.
        let number = |version: u64| i64::try_from(version).unwrap_or(i64::MAX);
        self.run(async {
            let mut connection = self.pool.acquire().await?;
            let rows: Vec<(Vec<u8>, i64, Option<Vec<u8>>)> = query_as(
                "SELECT id, version, body FROM (SELECT *, sum(coalesce(octet_length(body), 0)) \
                  OVER (ORDER BY version) - coalesce(octet_length(body), 0) AS before FROM \
                  ((SELECT id, version, body FROM directory_object \
                    WHERE collection = $1 AND version > $2 ORDER BY version LIMIT $4) \
                   UNION ALL \
                   (SELECT id, version, NULL FROM directory_removed \
                    WHERE collection = $1 AND version > $3 ORDER BY version LIMIT $4) \
                   ORDER BY version LIMIT $4) AS rows) AS sized \
                 WHERE before < $5 ORDER BY version",
            )
            .bind(collection.name())
            .bind(number(since.seen))
            .bind(number(since.removals()))
            .bind(limit)
            .bind(rows_up_to(READ_BYTES))
            .fetch_all(&mut *connection)
            .await?;
            // Read after the changes: a removal that expires in between causes an error.
            let (expired, last): (i64, i64) = query_as(
                "SELECT coalesce((SELECT forgotten FROM directory_collection \
                                  WHERE collection = $1), 0), version FROM directory_version",
            )
            .bind(collection.name())
            .fetch_one(&mut *connection)
            .await?;
            if !(expired..=last).contains(&number(since.removals())) {
                return Err(StoreError::HistoryExpired(since.seen).into());
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
        self.run(async {
            let mut connection = self.pool.acquire().await?;
            Ok(count(&mut connection, collection).await?)
        })
        .await
    }

    pub(super) async fn get(&self, collection: Collection, id: &str) -> Result<Record, StoreError> {
        self.run(async {
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
        self.run(async {
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
        self.run(async {
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
        kept_removals: u64,
    ) -> Result<u64, StoreError> {
        self.run(async {
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
            expire_removals(&mut change, collection, kept_removals).await?;
            change.commit().await
        })
        .await
    }

    /// Begins a change.  Other changes wait until it is committed or dropped; dropping it undoes it.
    async fn begin(&self) -> Result<PendingChange, Failure> {
        // Read committed: the statements after the lock see the previous change.  Not `READ WRITE`: a
        // provider sets the database read-only when its disk is almost full.
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        let version =
            query_scalar("UPDATE directory_version SET version = version + 1 RETURNING version")
                .fetch_one(&mut *transaction)
                .await?;
        Ok(PendingChange { transaction, version })
    }

    /// Runs an operation with a timeout, if the database is available.
    async fn run<T>(
        &self,
        operation: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, StoreError> {
        if let Err(why) = &*self.availability.borrow() {
            return Err(StoreError::Unavailable(why.clone()));
        }
        match timeout(OPERATION_TIMEOUT, operation).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(Failure::Rule(error))) => Err(error),
            Ok(Err(Failure::Engine(error))) if is_read_only(&error) => Err(StoreError::ReadOnly),
            Ok(Err(Failure::Engine(error))) => Err(StoreError::Unavailable(error.to_string())),
            Err(_) => Err(StoreError::Unavailable(format!(
                "the database operation took longer than {OPERATION_TIMEOUT:?}"
            ))),
        }
    }
}

/// True if the database refused a change (read_only_sql_transaction).
fn is_read_only(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).as_deref() == Some("25006")
}

/// Returns the least id that is greater than `after`: the same id with a zero byte appended.
fn least_after(after: Option<&str>) -> Vec<u8> {
    after.map_or_else(Vec::new, |after| [after.as_bytes(), &[0]].concat())
}

fn rows_up_to(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn record((id, version, body): (Vec<u8>, i64, Vec<u8>)) -> Record {
    Record { id: text(&id), version: version.cast_unsigned(), body }
}

/// Returns an id as text.
fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

/// Prepares a connection.  Commits wait for the disk, even if the server is configured to acknowledge them
/// earlier.  The limits are not in the start of the connection, because poolers refuse them there.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    query(
        "SELECT set_config('statement_timeout', $1, false), \
         set_config('idle_in_transaction_session_timeout', $2, false), \
         CASE current_setting('synchronous_commit') WHEN 'off' \
         THEN set_config('synchronous_commit', 'on', false) END",
    )
    .bind(OPERATION_TIMEOUT.as_millis().to_string())
    // A replica that stops during a change must not block the others for long.
    .bind((OPERATION_TIMEOUT.as_millis() / 2).to_string())
    .execute(connection)
    .await
    .map(drop)
}

/// Violated rule of the store, or error of the database.
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
