//! Address and credentials of the database.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

/// Parameters that a database URL may have.
const PARAMETERS: [&str; 10] = [
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "options",
];

/// Connection settings of a PostgreSQL database.  The password does not appear in any output.
#[derive(Clone)]
pub struct Database {
    pub(super) options: PgConnectOptions,
    pub(super) connections: u32,
}

/// Connections for operations, unless set.  The follower has one more.
const CONNECTIONS: u32 = 4;

/// Reasons why a database URL is rejected.  The error does not quote the URL, which may contain a
/// password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// Not a PostgreSQL URL.
    #[error(
        "not a PostgreSQL URL: expected postgres://user:password@host:5432/database, with reserved \
         characters percent-encoded"
    )]
    Url,
    /// Unknown parameter.
    #[error("the URL has an unknown parameter; allowed: {}", PARAMETERS.join(", "))]
    Parameter,
}

impl Database {
    /// Parses a URL in the form of PostgreSQL's own tools.
    ///
    /// Without `sslmode`, a connection to another machine uses TLS with a verified name
    /// (`verify-full`), because the database decides which certificates the gateway trusts.
    ///
    /// # Errors
    /// The text is not a PostgreSQL URL, or has an unknown parameter.
    pub fn parse(text: &str) -> Result<Self, DatabaseUrlError> {
        let url = Url::parse(text).map_err(|_| DatabaseUrlError::Url)?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(DatabaseUrlError::Url);
        }
        // Checked here because the client library would log an unknown parameter.
        if url.query_pairs().any(|(key, _)| !PARAMETERS.contains(&&*key)) {
            return Err(DatabaseUrlError::Parameter);
        }
        let has_mode = url.query_pairs().any(|(key, _)| key == "sslmode");
        let mut options = PgConnectOptions::from_str(text).map_err(|_| DatabaseUrlError::Url)?;
        if !has_mode && !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        let options = options.application_name("anchorgate");
        Ok(Self { options, connections: CONNECTIONS })
    }

    /// Sets the number of connections for operations.
    #[must_use]
    pub(crate) fn with_connections(self, connections: u32) -> Self {
        Self { connections, ..self }
    }
}

/// Connection settings that can be replaced while they are used.  Copies share them.
#[derive(Clone)]
pub(super) struct SharedOptions(Arc<RwLock<PgConnectOptions>>);

impl SharedOptions {
    pub(super) fn new(database: &Database) -> Self {
        Self(Arc::new(RwLock::new(database.options.clone())))
    }

    pub(super) fn get(&self) -> PgConnectOptions {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, database: &Database) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = database.options.clone();
    }
}

fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

impl fmt::Display for Database {
    /// Writes host, port and name, without the user and the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        match options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display())?,
            None => write!(f, "{}", options.get_host())?,
        }
        let name = options.get_database().unwrap_or(options.get_username());
        write!(f, ":{}/{name}", options.get_port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mode(url: &str) -> PgSslMode {
        Database::parse(url).expect("a database").options.get_ssl_mode()
    }

    #[test]
    fn connections_to_other_machines_are_verified_by_default() {
        for url in ["postgres://hub@db.example/d", "postgresql://hub@10.1.2.3:5433/d"] {
            assert!(matches!(mode(url), PgSslMode::VerifyFull), "{url}");
        }
        assert!(matches!(mode("postgres://db.example/d?sslmode=require"), PgSslMode::Require));
        for url in [
            "postgres://hub@127.0.0.1/d",
            "postgres://hub@[::1]/d",
            "postgres://hub@localhost/d",
            "postgres:///d?host=/run/postgresql",
        ] {
            assert!(!matches!(mode(url), PgSslMode::VerifyFull), "{url}");
        }
    }

    #[test]
    fn no_output_contains_the_password() {
        let database = Database::parse("postgres://hub:hunter2@db.example/d").expect("a database");
        assert_eq!(format!("{database} {database:?}"), "db.example:5432/d Database");
        for url in [
            "hunter2",
            "mysql://hub:hunter2@db.example/d",
            "postgres://hub:hunter2@db.example/d?sslmode=hunter2",
            "postgres://hub@db.example/d?passwort=hunter2",
        ] {
            let error = Database::parse(url).expect_err(url);
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(postgres://)?\\PC{0,60}") {
            let _ = Database::parse(&text);
        }
    }
}
