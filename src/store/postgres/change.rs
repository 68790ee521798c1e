//! One change: its transaction, and the statements that check it.

use sqlx::{PgConnection, Postgres as Engine, Transaction, query, query_scalar};

use crate::store::objects::{Collection, StoreError};
use crate::store::postgres::follow::CHANNEL;
use crate::store::postgres::{Failure, text};

/// Open transaction with the version of its change.
pub(super) struct PendingChange {
    pub(super) transaction: Transaction<'static, Engine>,
    pub(super) version: i64,
}

impl PendingChange {
    /// Commits the change and notifies the other replicas.  When this returns, the change is on the
    /// database's disk.
    pub(super) async fn commit(mut self) -> Result<u64, Failure> {
        query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&mut *self.transaction).await?;
        self.transaction.commit().await?;
        Ok(self.version.cast_unsigned())
    }
}

pub(super) async fn count(
    connection: &mut PgConnection,
    collection: Collection,
) -> Result<u64, sqlx::Error> {
    let count: Option<i64> =
        query_scalar("SELECT objects FROM directory_collection WHERE collection = $1")
            .bind(collection.name())
            .fetch_optional(connection)
            .await?;
    Ok(count.unwrap_or(0).cast_unsigned())
}

/// Deletes the oldest removals, so that at most `kept` are left.
pub(super) async fn expire_removals(
    change: &mut PendingChange,
    collection: Collection,
    kept: u64,
) -> Result<(), sqlx::Error> {
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
    .bind(i64::try_from(kept).unwrap_or(i64::MAX))
    .execute(&mut *change.transaction)
    .await
    .map(drop)
}

/// Checks that the object exists and has the expected version, if one is given.
pub(super) async fn expect(
    change: &mut PendingChange,
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

/// Returns the id of an object that refers to this one.
pub(super) async fn referrer(
    change: &mut PendingChange,
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
