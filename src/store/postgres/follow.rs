//! Follows what other replicas change: listens, and comes back when the database does.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, PgConnection, SqlSafeStr};
use tokio::sync::watch;
use tokio::time::{error::Elapsed, sleep, timeout};
use tracing::{info, warn};

use crate::store::changes::{Announcer, Versions};
use crate::store::postgres::database::Database;
use crate::store::postgres::{CHANNEL, versions};

/// How long a connection and a sign of life may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the database may take to be brought up to date; another replica may be at it.
const MIGRATE: Duration = Duration::from_secs(60);
/// A silent connection is asked for a sign of life this often: it may be dead.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Pauses between attempts grow from the first to the last.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// In order; what was released is never changed.  Each leaves the tables usable by the program before
/// it, since replicas are replaced one after another.
const MIGRATIONS: [(i64, &str, &str); 2] = [
    (1, "objects", include_str!("migrations/0001_objects.sql")),
    (2, "changes", include_str!("migrations/0002_changes.sql")),
];

/// Why the database cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shut(pub(super) String);

/// Keeps one replica in step with the database.  Nothing is answered from a database that is lost and
/// not followed again: see [`Follower::run`].
pub struct Follower {
    options: PgConnectOptions,
    shown: String,
    changes: Announcer,
    gate: watch::Sender<Result<(), Shut>>,
    listener: Option<PgListener>,
}

impl Follower {
    pub(super) fn new(database: &Database, changes: Announcer) -> Self {
        let (gate, _) = watch::channel(Err(Shut("not connected yet".into())));
        let (options, shown) = (database.options.clone(), database.to_string());
        Self { options, shown, changes, gate, listener: None }
    }

    pub(super) fn gate(&self) -> watch::Receiver<Result<(), Shut>> {
        self.gate.subscribe()
    }

    /// The first attempt.
    pub(super) async fn begin(&mut self) {
        match self.join().await {
            Ok(listener) => self.listener = Some(listener),
            Err(error) => self.shut(&error),
        }
    }

    /// Tells of every change, whichever replica makes it; shuts the store while the database is
    /// lost, and opens it again.  Never ends by itself.
    pub async fn run(mut self) {
        let [first, last] = PAUSES;
        let mut pause = first;
        loop {
            let joined = match self.listener.take() {
                Some(listener) => Ok(listener),
                None => self.join().await,
            };
            let lost = match joined {
                Ok(listener) => {
                    pause = first;
                    let Err(lost) = self.follow(listener).await;
                    lost
                }
                Err(error) => error,
            };
            self.shut(&lost);
            sleep(pause).await;
            pause = last.min(pause * 2);
        }
    }

    /// Brings the database up to date, and listens.  What was changed before that is not known, so
    /// that a change is assumed.
    async fn join(&self) -> Result<PgListener, Lost> {
        let mut connection = timeout(ANSWER, PgConnection::connect_with(&self.options)).await??;
        timeout(MIGRATE, migrator().run_direct(None, &mut connection, false)).await??;
        timeout(ANSWER, connection.close()).await??;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(ANSWER)
            .connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        timeout(ANSWER, listener.listen(CHANNEL)).await??;
        let versions = current(&mut listener).await?;
        // In this order: who is told of a change reads at once.
        let _ = self.gate.send_replace(Ok(()));
        self.changes.assume(versions);
        info!("the directory's database {} is followed", self.shown);
        Ok(listener)
    }

    async fn follow(&self, mut listener: PgListener) -> Result<Infallible, Lost> {
        loop {
            match timeout(HEARTBEAT, listener.try_recv()).await {
                // One reading covers all that has come so far.  The numbers are read, not taken from
                // the notification, which anyone who may connect to the database can send.
                Ok(Ok(Some(_))) => while listener.next_buffered().is_some() {},
                Ok(Ok(None)) => return Err(Lost("the connection is closed".into())),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => {}
            }
            self.changes.at_least(&current(&mut listener).await?);
        }
    }

    /// Told once for each reason, not with every attempt.
    fn shut(&self, Lost(why): &Lost) {
        let shut = Err(Shut(why.clone()));
        let news = self.gate.send_if_modified(|gate| {
            let news = *gate != shut;
            *gate = shut;
            news
        });
        if news {
            warn!("the directory's database {} is lost: {why}", self.shown);
        }
    }
}

async fn current(listener: &mut PgListener) -> Result<Versions, Lost> {
    let asked = async {
        let connection = sqlx::Acquire::acquire(listener).await?;
        versions(connection).await
    };
    Ok(timeout(ANSWER, asked).await??)
}

fn migrator() -> Migrator {
    let migration = |(version, description, sql): (i64, &'static str, &'static str)| {
        let kind = MigrationType::Simple;
        Migration::new(version, description.into(), kind, sql.into_sql_str(), false)
    };
    let mut migrator = Migrator::with_migrations(MIGRATIONS.map(migration).into());
    // A newer replica may have been here.
    migrator.set_ignore_missing(true);
    migrator
}

/// Why the database is not followed any longer.
struct Lost(String);

impl From<sqlx::Error> for Lost {
    fn from(error: sqlx::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<MigrateError> for Lost {
    fn from(error: MigrateError) -> Self {
        Self(format!("it cannot be brought up to date: {error}"))
    }
}

impl From<Elapsed> for Lost {
    fn from(_: Elapsed) -> Self {
        Self("it does not answer".into())
    }
}
