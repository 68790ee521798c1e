//! Follower of the database: receives the changes of other replicas, and reconnects after failures.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Connection, PgConnection, SqlSafeStr, query, query_as, query_scalar};
use tokio::sync::{Notify, watch};
use tokio::time::{error::Elapsed, sleep, timeout};
use tracing::{info, warn};

use crate::store::changes::{ChangeNotifier, Versions};
use crate::store::objects::{Collection, StoreError};
use crate::store::postgres::database::{Database, SharedOptions};

/// Channel of the notifications, one for each change, sent in its transaction.
pub(super) const CHANNEL: &str = "anchorgate_directory";
/// Timeout of a connection attempt and of a query of the follower.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of the migrations, including the time in which another replica runs them.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which an idle connection is queried, to detect that it is dead.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Shortest and longest pause between connection attempts.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Migrations, in order.  A released migration must not change.  After each, the previous program
/// version can still use the tables, because replicas are replaced one at a time.
const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "objects", include_str!("migrations/0001_objects.sql")),
    (2, "changes", include_str!("migrations/0002_changes.sql")),
];

/// Whether the store may use the database; otherwise the reason why not.
pub(super) type Availability = Result<(), String>;

/// Receives the changes of other replicas.  While the database is not followed, the store rejects all
/// operations, because the data could be outdated.
pub struct Follower {
    options: SharedOptions,
    /// Signalled when the database refuses the credentials.
    refused: Arc<Notify>,
    /// Name of the database in log messages, without credentials.
    name: String,
    changes: ChangeNotifier,
    availability: watch::Sender<Availability>,
    listener: Option<PgListener>,
}

impl Follower {
    pub(super) fn new(
        database: &Database,
        options: SharedOptions,
        changes: ChangeNotifier,
    ) -> Self {
        let (availability, _) = watch::channel(Err("not connected yet".into()));
        let (refused, name) = (Arc::default(), database.to_string());
        Self { options, refused, name, changes, availability, listener: None }
    }

    /// Signals `refused` when the database refuses the credentials.
    #[must_use]
    pub(crate) fn notify_refusals(self, refused: Arc<Notify>) -> Self {
        Self { refused, ..self }
    }

    pub(super) fn availability(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }

    /// Makes the first connection attempt.
    ///
    /// # Errors
    /// The address can never work.  After other failures, [`Follower::run`] tries again.
    pub(super) async fn connect_once(&mut self) -> Result<(), StoreError> {
        match self.connect().await {
            Ok(listener) => self.listener = Some(listener),
            Err(FollowError::Pooler) => {
                return Err(StoreError::Unavailable(FollowError::Pooler.to_string()));
            }
            Err(error) => self.mark_unavailable(&error),
        }
        Ok(())
    }

    /// Reports the changes of all replicas, and whether the database is available.  Reconnects after
    /// failures and never returns.
    pub async fn run(mut self) {
        let [first, last] = PAUSES;
        let mut pause = first;
        loop {
            let connected = match self.listener.take() {
                Some(listener) => Ok(listener),
                None => self.connect().await,
            };
            let error = match connected {
                Ok(listener) => {
                    pause = first;
                    let Err(error) = self.follow(listener).await;
                    error
                }
                Err(error) => error,
            };
            self.mark_unavailable(&error);
            sleep(pause).await;
            pause = last.min(pause * 2);
        }
    }

    /// Runs the migrations and subscribes to notifications.  Changes before that may have been missed,
    /// so a change is assumed.
    async fn connect(&self) -> Result<PgListener, FollowError> {
        let mut connection =
            timeout(RESPONSE_TIMEOUT, PgConnection::connect_with(&self.options.get())).await??;
        let is_recovering = self.prepare(&mut connection).await?;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(RESPONSE_TIMEOUT)
            .connect_lazy_with(self.options.get());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        // A standby has no notifications.  It is queried at each heartbeat.
        if !is_recovering {
            timeout(RESPONSE_TIMEOUT, listener.listen(CHANNEL)).await??;
            probe(&mut listener, &mut connection).await?;
        }
        timeout(RESPONSE_TIMEOUT, connection.close()).await??;
        let versions = current_versions(&mut listener).await?;
        // In this order: a notified reader reads at once.
        let _ = self.availability.send_replace(Ok(()));
        self.changes.reset_to(versions);
        info!("directory database {} connected", self.name);
        Ok(listener)
    }

    /// Runs the migrations if any is missing, and checks the rights.  Returns true for a standby.
    async fn prepare(&self, connection: &mut PgConnection) -> Result<bool, FollowError> {
        let is_recovering: bool =
            query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut *connection).await?;
        // Without a missing migration, neither the right to create tables nor a writable server is
        // needed.
        if !is_migrated(connection).await? {
            let migrator = migrator();
            let migrated = migrator.run_direct(None, &mut *connection, false);
            match timeout(MIGRATION_TIMEOUT, migrated).await? {
                Err(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))
                    if is_refused(&error) =>
                {
                    return Err(rights(connection, &error.to_string()).await);
                }
                migrated => migrated?,
            }
        }
        let missing: Vec<String> = query_scalar(MISSING_RIGHTS).fetch_all(&mut *connection).await?;
        match missing.as_slice() {
            [] => Ok(is_recovering),
            _ => Err(rights(connection, &format!("no access to {}", missing.join(", "))).await),
        }
    }

    async fn follow(&self, mut listener: PgListener) -> Result<Infallible, FollowError> {
        loop {
            match timeout(HEARTBEAT, listener.try_recv()).await {
                // One query covers all notifications so far.  The versions are queried and not taken
                // from the notification, because every user of the database can send one.
                Ok(Ok(Some(_))) => while listener.next_buffered().is_some() {},
                Ok(Ok(None)) => return Err(FollowError::Other("the connection is closed".into())),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {}
            }
            self.changes.advance_to(&current_versions(&mut listener).await?);
        }
    }

    /// Makes the store reject operations.  A repeated error is logged once, not at every attempt.
    fn mark_unavailable(&self, error: &FollowError) {
        if matches!(error, FollowError::Refused(_)) {
            self.refused.notify_one();
        }
        let why = error.to_string();
        let unavailable = Err(why.clone());
        let changed = self.availability.send_if_modified(|current| {
            let changed = *current != unavailable;
            *current = unavailable;
            changed
        });
        if changed {
            warn!("directory database {} is not available: {why}", self.name);
        }
    }
}

/// Reads the version of the last change of each collection.
pub(super) async fn versions(connection: &mut PgConnection) -> Result<Versions, sqlx::Error> {
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

/// Reads the versions over the listener's connection.
async fn current_versions(listener: &mut PgListener) -> Result<Versions, FollowError> {
    let query = async {
        let connection = sqlx::Acquire::acquire(listener).await?;
        versions(connection).await
    };
    Ok(timeout(RESPONSE_TIMEOUT, query).await??)
}

fn migrator() -> Migrator {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        let kind = MigrationType::Simple;
        Migration::new(version, description.into(), kind, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.map(migration).into());
    // A newer replica may have run more migrations.
    migrator.set_ignore_missing(true);
    migrator
}

/// True if the last migration was run.
async fn is_migrated(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let [.., (last, ..)] = MIGRATIONS;
    let has_table: bool = query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !has_table {
        return Ok(false);
    }
    let done =
        query_scalar("SELECT EXISTS (SELECT FROM _sqlx_migrations WHERE version = $1 AND success)")
            .bind(last)
            .fetch_one(connection)
            .await;
    match done {
        // The rights on each table are checked later.
        Err(error) if is_refused(&error) => Ok(true),
        done => done,
    }
}

/// Tables on which the user lacks a right.
const MISSING_RIGHTS: &str = "SELECT name FROM unnest(ARRAY['_sqlx_migrations', \
    'directory_version', 'directory_object', 'directory_collection', 'directory_removed']) AS name \
    WHERE to_regclass(name) IS NOT NULL AND NOT (has_table_privilege(to_regclass(name), 'SELECT') \
    AND (name = '_sqlx_migrations' OR has_table_privilege(to_regclass(name), 'UPDATE')) \
    AND (name IN ('_sqlx_migrations', 'directory_version') \
         OR has_table_privilege(to_regclass(name), 'INSERT')) \
    AND (name NOT IN ('directory_object', 'directory_removed') \
         OR has_table_privilege(to_regclass(name), 'DELETE')))";

/// True if the database denied a right (insufficient_privilege).
fn is_refused(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).as_deref() == Some("42501")
}

/// The error of missing rights, with the SQL that grants them.
async fn rights(connection: &mut PgConnection, why: &str) -> FollowError {
    let names = query_as("SELECT quote_ident(current_user), quote_ident(current_schema())");
    let (user, schema): (String, Option<String>) = match names.fetch_one(connection).await {
        Ok(names) => names,
        Err(error) => return error.into(),
    };
    let schema = schema.unwrap_or_else(|| "public".to_owned());
    FollowError::Other(format!(
        "the user {user} lacks rights: {why}. Run as the owner: GRANT USAGE, CREATE ON SCHEMA \
         {schema} TO {user}; and if the tables belong to another user: GRANT SELECT, INSERT, UPDATE, \
         DELETE ON ALL TABLES IN SCHEMA {schema} TO {user};"
    ))
}

/// Checks that a notification of another connection arrives.  A pooler that gives connections to other
/// clients between transactions loses notifications.
async fn probe(
    listener: &mut PgListener,
    connection: &mut PgConnection,
) -> Result<(), FollowError> {
    match query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(connection).await {
        // The notification came here: both connections are one.
        Err(sqlx::Error::Protocol(_)) => return Err(FollowError::Pooler),
        notified => notified.map(drop)?,
    }
    match timeout(RESPONSE_TIMEOUT, listener.recv()).await {
        Ok(received) => received.map(drop).map_err(Into::into),
        Err(_) => Err(FollowError::Pooler),
    }
}

/// Reason why the database cannot be followed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    /// Notifications do not arrive.
    #[error(
        "notifications do not arrive, as behind a pooler in transaction mode: connect to the server \
         itself, or through a pooler in session mode"
    )]
    Pooler,
    /// The database refused the credentials.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Other(String),
}

impl From<sqlx::Error> for FollowError {
    fn from(error: sqlx::Error) -> Self {
        // Another client's connection has other prepared statements.
        match error.as_database_error().and_then(DatabaseError::code).as_deref() {
            Some("26000" | "42P05") => Self::Pooler,
            // invalid_authorization_specification, invalid_password
            Some("28000" | "28P01") => Self::Refused(error.to_string()),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<MigrateError> for FollowError {
    fn from(error: MigrateError) -> Self {
        Self::Other(format!("the migrations failed: {error}"))
    }
}

impl From<Elapsed> for FollowError {
    fn from(_: Elapsed) -> Self {
        Self::Other("it does not respond".into())
    }
}
