//! Rank 5: the only reader of settings.  Everything is parsed once, into each part's own `Config`, and
//! every problem is told at once.

mod admin;
mod applications;
mod clients;
mod graph;
mod oauth;
mod parse;
mod read;
mod revocation;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::admin as admin_plane;
use crate::crl;
use crate::directory;
use crate::keyring;
use crate::oauth as oauth_plane;
use crate::runtime::log::Format;
use crate::store::Database;
use crate::tls;
use crate::tls::acceptor::Bounds;
use crate::token::policy::TokenPolicy;
use crate::trust::revocation::ListPolicy;
use crate::trust::snapshot::TrustPolicy;

pub use read::Problem;

/// All settings of one gateway.
pub struct Config {
    /// Where state is kept.
    pub data_dir: PathBuf,
    /// What is logged, in tracing's directive syntax.
    pub log_filter: String,
    /// How it is written.
    pub log_format: Format,
    /// Protocol settings of the edge.
    pub tls: tls::Config,
    /// Our own keys.
    pub keyring: keyring::Config,
    /// The token listener.
    pub token: Listener,
    /// Its connections are closed when their certificates are no longer good.
    pub close_refused: bool,
    /// The public listener.
    pub public: Listener,
    /// The OAuth plane.
    pub oauth: oauth_plane::Config,
    /// Clients and terms.
    pub policy: Arc<TokenPolicy>,
    /// What is demanded of paths and lists.
    pub trust: TrustPolicy,
    /// How lists are used.
    pub lists: ListPolicy,
    /// How lists are fetched.
    pub crl: crl::Config,
    /// The embedded directory, if there is one.
    pub directory: Option<DirectoryPart>,
    /// The directories that are synced from.
    pub graph: Vec<crate::sync::Config>,
    /// The admin plane.
    pub admin: admin_plane::Config,
    /// How long a stop waits for requests in flight.
    pub drain: Duration,
}

/// One TLS listener.
pub struct Listener {
    /// Its address.
    pub listen: SocketAddr,
    /// Its limits.
    pub bounds: Bounds,
}

/// The embedded directory and where it is served.
pub struct DirectoryPart {
    /// Over TLS.
    pub listen: Option<SocketAddr>,
    /// Over plain HTTP, loopback only.
    pub listen_http: Option<SocketAddr>,
    /// The URL that clients reach the TLS listener by; links are made of it.
    pub public_url: Option<String>,
    /// The database that it is kept in; without one, a file in `data_dir`.
    pub database: Option<Database>,
    /// Its own settings.
    pub config: directory::Config,
}

/// Why a configuration is not used.
#[derive(Debug)]
pub enum Faults {
    /// The file cannot be read.
    File(PathBuf, std::io::Error),
    /// The file is no TOML.
    Syntax(PathBuf, String),
    /// Its settings break rules: every one.
    Problems(PathBuf, Vec<Problem>),
}

/// Reads a configuration file.  Relative paths in it are relative to its folder.
///
/// # Errors
/// Every problem of the file.
pub fn load(path: &Path) -> Result<Config, Faults> {
    let file = |error| Faults::File(path.to_owned(), error);
    let bytes = read::file(path).map_err(file)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Faults::Syntax(path.to_owned(), "not UTF-8".to_owned()))?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let table = text
        .parse()
        .map_err(|e: toml::de::Error| Faults::Syntax(path.to_owned(), e.to_string()))?;
    parse::parse(table, &folder).map_err(|problems| Faults::Problems(path.to_owned(), problems))
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Syntax(path, why) => write!(f, "{}: {}", path.display(), why.trim_end()),
            Self::Problems(path, problems) => {
                write!(f, "{}: {} problem(s)", path.display(), problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
