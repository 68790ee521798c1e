//! The only reader of settings.  The file is parsed once, into the `Config` of each part, and every
//! problem is reported at once.

mod admin;
mod applications;
mod audit;
mod changes;
mod clients;
mod credential;
mod directory;
mod graph;
mod listeners;
mod named_files;
mod oauth;
mod origin;
mod overrides;
mod parse;
mod problem;
mod rate_limits;
pub mod reference;
mod revocation;
mod secret_files;
mod section;
mod similar;
mod tls;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::admin as admin_plane;
use crate::crl;
use crate::directory as directory_plane;
use crate::keyring;
use crate::oauth as oauth_plane;
use crate::runtime::audit_sink;
use crate::runtime::files::ReadFileError;
use crate::runtime::log::{AuditWhenFull, Format};
use crate::store::Database;
use crate::sync;
use crate::tls as tls_part;
use crate::tls::acceptor::Bounds;
use crate::token::policy::TokenPolicy;
use crate::trust::revocation::ListPolicy;
use crate::trust::snapshot::TrustPolicy;

pub use origin::{Candidate, Origin};
pub use problem::Problem;
pub(crate) use similar::closest;

/// All settings of one gateway.
pub struct Config {
    /// The file, and its values.
    pub origin: Origin,
    /// Directory that contains the state.
    pub data_dir: PathBuf,
    /// Filter of log records, in tracing's directive syntax.
    pub log_filter: String,
    /// Format of log records.
    pub log_format: Format,
    /// Handling of audit records while standard error is not writable.
    pub audit_when_full: AuditWhenFull,
    /// Destination of audit records.
    pub audit: audit_sink::Config,
    /// Protocol settings of the TLS listeners.
    pub tls: tls_part::Config,
    /// The gateway's own keys.
    pub keyring: keyring::Config,
    /// The token listener.  A hub has none.
    pub token: Listener,
    /// Close connections of the token listener when a new snapshot refuses their certificate.
    pub close_refused: bool,
    /// The public listener.  A hub has none; these bounds are also those of the directory's TLS
    /// listener.
    pub public: Listener,
    /// The OAuth plane; `None` in a hub, which only serves its directory.
    pub oauth: Option<oauth_plane::Config>,
    /// Clients and their terms.
    pub policy: Arc<TokenPolicy>,
    /// Rules for certification paths.
    pub trust: TrustPolicy,
    /// Rules for revocation lists.
    pub lists: ListPolicy,
    /// Fetching of revocation lists.
    pub crl: crl::Config,
    /// The embedded directory, if there is one.
    pub directory: Option<DirectoryPart>,
    /// The directories that trust is synced from.
    pub graph: Vec<sync::Config>,
    /// The admin plane.
    pub admin: admin_plane::Config,
    /// Address of the health listener; `None` without one.
    pub health: Option<SocketAddr>,
    /// The file names the address of the health listener.  Without it, the gateway starts even if another
    /// process of the machine uses the default.
    pub health_is_set: bool,
    /// Time between the announcement of a stop and the stop.
    pub drain_delay: Duration,
    /// Time for which the data directory may be unwritable before the gateway is not ready.
    pub unwritable_limit: Duration,
    /// Limit on the resident memory in bytes.
    pub memory_limit: Option<u64>,
    /// Let other processes listen on the same addresses.
    pub reuse_port: bool,
    /// Time limit for requests in progress when the gateway stops.
    pub drain: Duration,
}

impl Config {
    /// Returns true for a hub: a directory without tokens, and without a directory that it follows.
    pub(crate) fn is_hub(&self) -> bool {
        self.oauth.is_none()
    }

    /// Hosts of the URLs that clients use, each once.  The server certificate must name them.
    pub(crate) fn advertised_hosts(&self) -> Vec<String> {
        let oauth = self.oauth.iter().flat_map(|part| [&part.token_origin, &part.public_origin]);
        let directory = self.directory.as_ref().filter(|part| part.listen.is_some());
        let directory = directory.and_then(|part| Url::parse(part.public_url.as_ref()?).ok());
        let mut hosts: Vec<String> = Vec::new();
        for host in oauth.chain(&directory).filter_map(Url::host_str) {
            let host = host.trim_matches(['[', ']']).to_owned();
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }
}

/// One TLS listener.
pub struct Listener {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Limits on handshakes and connections.
    pub bounds: Bounds,
}

/// The embedded directory and its listeners.
pub struct DirectoryPart {
    /// Address of the TLS listener.
    pub listen: Option<SocketAddr>,
    /// Address of the plain HTTP listener, on loopback.
    pub listen_http: Option<SocketAddr>,
    /// URL of the TLS listener as clients reach it.  Links begin with it.
    pub public_url: Option<String>,
    /// The database; `None` for a file in `data_dir`.
    pub database: Option<Database>,
    /// Settings of the directory itself.
    pub config: directory_plane::Config,
}

/// Error of loading a configuration.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    File(ReadFileError),
    /// The file is not valid TOML.
    Syntax(PathBuf, String),
    /// Settings are missing or not valid: all of them.
    Problems(PathBuf, Vec<Problem>),
    /// Settings are valid only together with others that need a restart.
    NeedsRestart(PathBuf, Vec<Problem>),
}

/// Reads a configuration file.  Relative paths in it are relative to its folder.
///
/// # Errors
/// The file cannot be read or is not TOML, or some of its settings are not valid.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    Origin::new(path).load()
}

/// Like [`load`], and returns the settings also if some of the file are not valid.  They are only for
/// checks that find further problems.
pub(crate) fn load_for_check(path: &Path) -> (Option<Config>, Option<LoadError>) {
    Origin::new(path).load_for_check()
}

/// Returns every value of a configuration file by its key.  Secrets are not shown.
///
/// # Errors
/// The file cannot be read or is not TOML.
pub(crate) fn redacted(path: &Path) -> Result<BTreeMap<String, String>, LoadError> {
    Origin::new(path).redacted()
}

impl LoadError {
    /// The error of another file's text, which was read in the place of this one.
    pub(crate) fn of_other_file(self, name: &str) -> Self {
        let named = |path: PathBuf| {
            let folder = path.parent().unwrap_or(Path::new("")).display();
            PathBuf::from(format!("{name} (paths relative to {folder}/)"))
        };
        match self {
            Self::File(error) => Self::File(error),
            Self::Syntax(path, why) => Self::Syntax(named(path), why),
            Self::Problems(path, problems) => Self::Problems(named(path), problems),
            Self::NeedsRestart(path, problems) => Self::NeedsRestart(named(path), problems),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Syntax(path, why) => write!(f, "{}: {}", path.display(), why.trim_end()),
            Self::NeedsRestart(path, problems) => {
                write!(
                    f,
                    "{}: {} problem(s) without a restart, which other changes of the file need",
                    path.display(),
                    problems.len()
                )?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
            Self::Problems(path, problems) => {
                write!(f, "{}: {} problem(s)", path.display(), problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for LoadError {}

#[cfg(test)]
mod tests;
