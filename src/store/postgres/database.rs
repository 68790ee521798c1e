//! Which database, and how it is reached.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

/// Parameters that a database's URL may have.
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

/// A PostgreSQL database and the password to it, which is never told.
#[derive(Clone)]
pub struct Database {
    pub(super) options: PgConnectOptions,
}

/// Why a text names no database.  It has nothing of the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// Not a URL of PostgreSQL.
    #[error(
        "it must be a URL such as postgres://user:password@host:5432/database, with what has a \
         meaning in URLs percent-encoded"
    )]
    Url,
    /// A parameter that is not known.
    #[error("its parameters may be {}", PARAMETERS.join(", "))]
    Parameter,
}

impl Database {
    /// Reads a URL as PostgreSQL's own tools do.
    ///
    /// Where it does not say `sslmode`, a database on another machine is spoken to over TLS with a
    /// verified name (`verify-full`): what is read from it decides whom the gateway trusts.
    ///
    /// # Errors
    /// Another kind of URL, or parameters that are not known.
    pub fn parse(text: &str) -> Result<Self, DatabaseUrlError> {
        let url = Url::parse(text).map_err(|_| DatabaseUrlError::Url)?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(DatabaseUrlError::Url);
        }
        // Checked here: the client would write what it does not know into the log.
        if url.query_pairs().any(|(key, _)| !PARAMETERS.contains(&&*key)) {
            return Err(DatabaseUrlError::Parameter);
        }
        let said = url.query_pairs().any(|(key, _)| key == "sslmode");
        let mut options = PgConnectOptions::from_str(text).map_err(|_| DatabaseUrlError::Url)?;
        if !said && !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        Ok(Self { options: options.application_name("anchorgate") })
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
    /// Host, port and name, without the user and the password.
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
    fn another_machine_is_verified_unless_it_is_said_otherwise() {
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
    fn the_password_is_never_told() {
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
        fn no_text_makes_it_panic(text in "(postgres://)?\\PC{0,60}") {
            let _ = Database::parse(&text);
        }
    }
}
