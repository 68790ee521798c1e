//! Transfer of lists, by URL scheme: `http`, `https`, `file`.
//!
//! The bytes are forwarded in pieces, so a list is never held here.  No statement of a server is trusted:
//! neither a media type, nor a length, nor a redirect.

mod client;
mod file;
mod freshness;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;
use tracing::{Instrument as _, trace_span};
use url::{Host, Url};

use crate::crl::filter;
use crate::crl::transport::client::client;
use crate::crl::transport::file::ActiveReads;
use crate::crl::transport::freshness::max_age;
use crate::http::outbound::{Network, explain, header_text, retry_after};
use crate::runtime::telemetry::spans;

pub use client::AuthorizedClient;
pub(crate) use client::client_settings;

/// Limits and settings of transfers.
#[derive(Debug, Clone)]
pub struct Config {
    /// Largest list in bytes.
    pub max_bytes: u64,
    /// Time limit of one fetch, including redirects and body.
    pub timeout: Duration,
    /// Time limit of connecting, so that an unreachable host delays other fetches less.
    pub connect: Duration,
    /// Most redirects that are followed.
    pub max_redirects: usize,
    /// Connect to public addresses only.  With a proxy this applies to IP addresses in URLs, because the
    /// proxy resolves host names.
    pub public_only: bool,
    /// Read `file:` addresses.  If off, a directory cannot make the gateway read its own disk.
    pub files: bool,
    /// HTTP proxy.  The proxy of the environment is never used.
    pub proxy: Option<Url>,
    /// PEM certificates of authorities for `https`, in addition to those of the system.
    pub roots_pem: Option<Vec<u8>>,
    /// Network that requests go over.
    pub network: Network,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_bytes: crate::x509::crl::DEFAULT_MAX_BYTES,
            timeout: Duration::from_secs(30),
            connect: Duration::from_secs(10),
            max_redirects: 5,
            public_only: false,
            files: false,
            proxy: None,
            roots_pem: None,
            network: Network::default(),
        }
    }
}

/// Reasons why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is not a URL, or its scheme is not supported.
    #[error("`{0}` is not a supported CRL address")]
    Address(String),
    /// The host is a private address, and the operator allows public ones only.
    #[error("`{0}` is not a public address")]
    Private(String),
    /// The server returned an error.
    #[error("HTTP status {status}")]
    Status {
        /// Status code.
        status: StatusCode,
        /// Retry-After.
        retry_after: Option<Duration>,
    },
    /// The server redirects too often.
    #[error("more than {0} redirects")]
    Redirects(usize),
    /// A redirect has no usable target.
    #[error("a redirect has no usable Location")]
    Location,
    /// The server applied a Content-Encoding that was not requested.
    #[error("the body is encoded as `{0}`")]
    Encoded(String),
    /// The list exceeds the limit.
    #[error("{bytes} bytes or more; at most {limit} are read")]
    TooLarge {
        /// Bytes received or announced.
        bytes: u64,
        /// Limit in bytes.
        limit: u64,
    },
    /// The time limit was reached.
    #[error("not completed within {0:?}")]
    Timeout(Duration),
    /// The connection, TLS or HTTP failed.
    #[error("{0}")]
    Http(String),
    /// The file cannot be read.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// An earlier read of the file has not ended, as on a network disk whose server is unreachable.
    #[error("an earlier read of {0} has not ended")]
    StillReading(String),
    /// The receiver stopped reading.
    #[error("the list was not read to its end")]
    Stopped,
}

impl FetchError {
    /// The pause that the server asks for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Identifies a version of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Validators {
    /// ETag.
    pub etag: Option<String>,
    /// Last-Modified; for a file, its length, time and identity.
    pub last_modified: Option<String>,
}

impl Validators {
    /// True if a request cannot be made conditional, so that 304 is not a valid response.
    pub(super) fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// The result of a transfer, besides the bytes.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// The list is still the known version; no bytes were sent.
    pub unchanged: bool,
    /// Version of the list.
    pub validators: Validators,
    /// Freshness lifetime of the response.
    pub max_age: Option<Duration>,
}

/// A supported CRL address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `http` or `https`.
    Http(Url),
    /// `file`.
    File(PathBuf),
}

impl Location {
    /// Parses an address.
    ///
    /// # Errors
    /// [`FetchError::Address`] for a text that is not a URL, an unsupported scheme, or `file` if `files`
    /// is off.
    pub fn parse(address: &str, files: bool) -> Result<Self, FetchError> {
        let bad = || FetchError::Address(address.to_owned());
        let url = Url::parse(address).map_err(|_| bad())?;
        match url.scheme() {
            "http" | "https" => Ok(Self::Http(url)),
            "file" if files => url.to_file_path().map(Self::File).map_err(|()| bad()),
            _ => Err(bad()),
        }
    }
}

/// Transfers lists.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    /// Shared by all copies, because its authorities can be replaced.
    client: Arc<RwLock<AuthorizedClient>>,
    config: Config,
    active_reads: ActiveReads,
}

impl Transport {
    /// Creates a transport with its own connection pool.
    ///
    /// # Errors
    /// The proxy or the root certificates are not usable.
    pub fn new(config: Config) -> Result<Self, FetchError> {
        let client = client(&config, config.roots_pem.clone())?;
        let client = Arc::new(RwLock::new(client));
        Ok(Self { client, config, active_reads: ActiveReads::default() })
    }

    /// Builds a client that accepts these authorities.  Returns `None` if the current one does.
    ///
    /// # Errors
    /// The root certificates are not usable.
    pub fn client_with(
        &self,
        roots_pem: Option<&[u8]>,
    ) -> Result<Option<AuthorizedClient>, FetchError> {
        let current = self.client.read().unwrap_or_else(PoisonError::into_inner);
        if current.roots_pem.as_deref() == roots_pem {
            return Ok(None);
        }
        client(&self.config, roots_pem.map(<[u8]>::to_vec)).map(Some)
    }

    /// Uses `client` from the next fetch on.
    pub fn use_client(&self, client: AuthorizedClient) {
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Transfers the list at `location` to `out`, in pieces, unless its version is still `known`.
    /// `bypass_caches` requests it from the origin server.
    ///
    /// # Errors
    /// See [`FetchError`].  Some of the bytes may have been sent.
    pub async fn fetch(
        &self,
        location: &Location,
        known: Option<&Validators>,
        bypass_caches: bool,
        out: Sender<Bytes>,
    ) -> Result<Fetched, FetchError> {
        let timeout = self.config.timeout;
        let fetch = async {
            match location {
                Location::Http(url) => self.get(url.clone(), known, bypass_caches, out).await,
                Location::File(path) => {
                    let (path, known) = (path.clone(), known.cloned());
                    let limit = self.config.max_bytes;
                    let guard = self.active_reads.begin(&path)?;
                    let read = move || {
                        let _guard = guard;
                        file::read(&path, known.as_ref(), limit, &out)
                    };
                    let joined = tokio::task::spawn_blocking(read).await;
                    joined.unwrap_or(Err(FetchError::Stopped))
                }
            }
        };
        tokio::time::timeout(timeout, fetch).await.unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    async fn get(
        &self,
        mut url: Url,
        known: Option<&Validators>,
        bypass_caches: bool,
        out: Sender<Bytes>,
    ) -> Result<Fetched, FetchError> {
        let client = self.client();
        for _ in 0..=self.config.max_redirects {
            self.allow(&url)?;
            // Without this header the server may choose any encoding (RFC 9110 section 12.5.3).
            let request = client.get(url.clone());
            let mut request = request.header(header::ACCEPT_ENCODING, "identity");
            if bypass_caches {
                request = request.header(header::CACHE_CONTROL, "no-cache");
            }
            if let Some(etag) = known.and_then(|known| known.etag.as_deref()) {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            if let Some(date) = known.and_then(|known| known.last_modified.as_deref()) {
                request = request.header(header::IF_MODIFIED_SINCE, date);
            }
            let span = trace_span!(
                target: spans::TARGET,
                "revocation list request",
                otel.kind = "client",
                server.address = url.host_str(),
            );
            request = request.headers(span.in_scope(spans::context_headers));
            let sent = self.config.network.send(request).instrument(span).await;
            let response = sent.map_err(FetchError::Http)?;
            let status = response.status();
            match status {
                StatusCode::OK => return self.body(response, out).await,
                StatusCode::NOT_MODIFIED if known.is_some_and(|known| !known.is_empty()) => {
                    return Ok(Fetched {
                        unchanged: true,
                        max_age: max_age(response.headers()),
                        validators: known.cloned().unwrap_or_default(),
                    });
                }
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    url = next_hop(&url, response.headers()).ok_or(FetchError::Location)?;
                }
                _ => {
                    let retry_after = retry_after(response.headers(), SystemTime::now().into());
                    return Err(FetchError::Status { status, retry_after });
                }
            }
        }
        Err(FetchError::Redirects(self.config.max_redirects))
    }

    /// Checks the host of each hop, because a redirect is no more trusted than the address.  Host names
    /// are checked when they are resolved.
    fn allow(&self, url: &Url) -> Result<(), FetchError> {
        let address = match url.host() {
            Some(Host::Ipv4(v4)) => Some(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => Some(IpAddr::V6(v6)),
            Some(Host::Domain(_)) => None,
            None => return Err(FetchError::Address(url.to_string())),
        };
        match address {
            Some(address) if self.config.public_only && filter::is_private(address) => {
                Err(FetchError::Private(address.to_string()))
            }
            _ => Ok(()),
        }
    }

    async fn body(
        &self,
        mut response: Response,
        out: Sender<Bytes>,
    ) -> Result<Fetched, FetchError> {
        let limit = self.config.max_bytes;
        let encoding = header_text(response.headers(), &header::CONTENT_ENCODING);
        if let Some(encoding) = encoding.filter(|e| !e.eq_ignore_ascii_case("identity")) {
            return Err(FetchError::Encoded(encoding));
        }
        if let Some(bytes) = response.content_length().filter(|bytes| *bytes > limit) {
            return Err(FetchError::TooLarge { bytes, limit });
        }
        let fetched = Fetched {
            unchanged: false,
            validators: Validators {
                etag: header_text(response.headers(), &header::ETAG),
                last_modified: header_text(response.headers(), &header::LAST_MODIFIED),
            },
            max_age: max_age(response.headers()),
        };
        let mut total = 0u64;
        while let Some(piece) =
            response.chunk().await.map_err(|error| FetchError::Http(explain(&error)))?
        {
            total += piece.len() as u64;
            if total > limit {
                return Err(FetchError::TooLarge { bytes: total, limit });
            }
            out.send(piece).await.map_err(|_| FetchError::Stopped)?;
        }
        Ok(fetched)
    }
}

fn next_hop(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let to = from.join(headers.get(header::LOCATION)?.to_str().ok()?).ok()?;
    matches!(to.scheme(), "http" | "https").then_some(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(header::HeaderName, &str)| {
            (name.clone(), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn parses_web_addresses_and_permitted_files_only() {
        for bad in ["ldap://ca.example/cn=ca", "ca.example/1.crl", "", "file:///etc/passwd"] {
            assert!(Location::parse(bad, false).is_err(), "{bad}");
        }
        assert!(matches!(Location::parse("HTTP://ca.example/1.crl", false), Ok(Location::Http(_))));
        assert_eq!(
            Location::parse("file:///crls/1.crl", true).expect("a location"),
            Location::File("/crls/1.crl".into())
        );
    }

    #[test]
    fn follows_redirects_to_web_addresses_only() {
        let from = Url::parse("http://ca.example/a/1.crl").expect("a URL");
        let hop = |to| next_hop(&from, &headers(&[(header::LOCATION, to)])).map(String::from);
        assert_eq!(hop("../2.crl").as_deref(), Some("http://ca.example/2.crl"));
        assert_eq!(hop("https://b.example/").as_deref(), Some("https://b.example/"));
        assert_eq!(hop("file:///etc/passwd"), None);
    }
}
