//! Where lists come from, by URL scheme: `http`, `https`, `file`.
//!
//! The bytes go on in pieces, so that a list is never held here.  Nothing that a server says is
//! trusted: not its type, not its length, not where it redirects to.

mod file;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::sync::mpsc::Sender;
use url::{Host, Url};

use crate::crl::filter::{self, PublicOnly};
use crate::crl::transport::file::Reading;
use crate::http::outbound::{
    ClientSettings, ProxyChoice, ServerAuthorities, explain, header_text, retry_after,
};

/// How lists are fetched.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of one list.
    pub max_bytes: u64,
    /// One fetch, redirects and body included.
    pub timeout: Duration,
    /// To connect, within that.  A host that is gone holds up others no longer than it must.
    pub connect: Duration,
    /// Redirects that are followed.
    pub max_redirects: usize,
    /// Addresses that are not the public Internet's are not spoken to.  Behind a proxy only
    /// addresses written as such are seen: names are the proxy's to resolve.
    pub public_only: bool,
    /// `file:` addresses are read.  Off, a directory cannot make the gateway read its own disk.
    pub files: bool,
    /// An HTTP proxy; the environment's is never used.
    pub proxy: Option<Url>,
    /// PEM certificates that `https` servers may chain to, besides the system's.
    pub roots_pem: Option<Vec<u8>>,
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
        }
    }
}

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL, or of a scheme that is not read.
    #[error("`{0}` is not an address that lists are fetched from")]
    Address(String),
    /// The host is an address that the operator forbids.
    #[error("`{0}` is not a public address")]
    Private(String),
    /// The server answers with this.
    #[error("HTTP status {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// More redirects than the limit.
    #[error("more than {0} redirects")]
    Redirects(usize),
    /// A redirect that leads nowhere.
    #[error("a redirect without a usable Location")]
    Location,
    /// A Content-Encoding that nobody asked for.
    #[error("the body is encoded as `{0}`")]
    Encoded(String),
    /// More bytes than the limit.
    #[error("{bytes} bytes or more; at most {limit} are read")]
    TooLarge {
        /// Bytes seen or announced.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The time is over.
    #[error("not there within {0:?}")]
    Timeout(Duration),
    /// Connection, TLS or protocol.
    #[error("{0}")]
    Http(String),
    /// A file cannot be read.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The last look at a file has not ended yet, as on a network disk whose server is gone.
    #[error("{0} is still being read since an earlier look")]
    Stuck(String),
    /// Whoever reads the bytes has had enough.
    #[error("the list was not read to its end")]
    Refused,
}

impl FetchError {
    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What tells one version of a list from the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validators {
    /// ETag.
    pub etag: Option<String>,
    /// Last-Modified; of a file: its identity, length and time.
    pub last_modified: Option<String>,
}

impl Validators {
    /// A request with them is conditional: its answer may be 304.
    fn are_there(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }
}

/// What a fetch brought, besides the bytes.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// The list is the one that the validators are of; no bytes came.
    pub unchanged: bool,
    /// Of this version.
    pub validators: Validators,
    /// How long it may be taken for fresh.
    pub max_age: Option<Duration>,
}

/// An address that lists are fetched from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `http` or `https`.
    Http(Url),
    /// `file`.
    File(PathBuf),
}

impl Location {
    /// Reads an address.
    ///
    /// # Errors
    /// Not a URL, another scheme, or `file` while `files` is off.
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

/// Fetches lists.
#[derive(Debug, Clone)]
pub struct Transport {
    client: Client,
    config: Config,
    /// Files that are being read.
    reading: Reading,
}

impl Transport {
    /// A transport with its own connection pool.
    ///
    /// # Errors
    /// Unusable proxy or root certificates.
    pub fn new(config: Config) -> Result<Self, FetchError> {
        let settings = ClientSettings {
            authorities: match &config.roots_pem {
                Some(pem) => ServerAuthorities::SystemAnd(pem.clone()),
                None => ServerAuthorities::SystemAnd(Vec::new()),
            },
            proxy: match &config.proxy {
                Some(proxy) => ProxyChoice::Address(proxy.clone()),
                None => ProxyChoice::Direct,
            },
            connect: config.connect,
            read: None,
            // `Transport::fetch` bounds it, redirects included.
            request: None,
        };
        // Behind a proxy the only name resolved here is the proxy's own, which the operator chose.
        let public_only = config.public_only && config.proxy.is_none();
        let client = settings
            .client_with(|builder| {
                let builder = builder.no_gzip().pool_max_idle_per_host(1);
                if public_only { builder.dns_resolver(PublicOnly) } else { builder }
            })
            .map_err(|error| FetchError::Http(error.to_string()))?;
        Ok(Self { client, config, reading: Reading::default() })
    }

    /// The limits it keeps.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Fetches `location` and sends its bytes on in pieces, unless it is still the version that
    /// `known` tells of.  `past_caches` asks for what the origin has now.
    ///
    /// # Errors
    /// See [`FetchError`]; some of the bytes may have been sent on.
    pub async fn fetch(
        &self,
        location: &Location,
        known: Option<&Validators>,
        past_caches: bool,
        out: Sender<Bytes>,
    ) -> Result<Fetched, FetchError> {
        let timeout = self.config.timeout;
        let fetch = async {
            match location {
                Location::Http(url) => self.get(url.clone(), known, past_caches, out).await,
                Location::File(path) => {
                    let (path, known) = (path.clone(), known.cloned());
                    let limit = self.config.max_bytes;
                    let reading = self.reading.begin(&path)?;
                    let read = move || {
                        let _reading = reading;
                        file::read(&path, known.as_ref(), limit, &out)
                    };
                    let joined = tokio::task::spawn_blocking(read).await;
                    joined.unwrap_or(Err(FetchError::Refused))
                }
            }
        };
        tokio::time::timeout(timeout, fetch).await.unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    async fn get(
        &self,
        mut url: Url,
        known: Option<&Validators>,
        past_caches: bool,
        out: Sender<Bytes>,
    ) -> Result<Fetched, FetchError> {
        for _ in 0..=self.config.max_redirects {
            self.allow(&url)?;
            // Without this any encoding would do (RFC 9110 section 12.5.3).
            let plain = (header::ACCEPT_ENCODING, "identity");
            let mut request = self.client.get(url.clone()).header(plain.0, plain.1);
            if past_caches {
                request = request.header(header::CACHE_CONTROL, "no-cache");
            }
            if let Some(etag) = known.and_then(|known| known.etag.as_deref()) {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            if let Some(date) = known.and_then(|known| known.last_modified.as_deref()) {
                request = request.header(header::IF_MODIFIED_SINCE, date);
            }
            let response =
                request.send().await.map_err(|error| FetchError::Http(explain(&error)))?;
            let status = response.status();
            match status {
                StatusCode::OK => return self.body(response, out).await,
                StatusCode::NOT_MODIFIED if known.is_some_and(Validators::are_there) => {
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

    /// Every hop is checked: a redirect is as foreign as the address was.  Names are checked when
    /// they are resolved.
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
        let mut seen = 0u64;
        while let Some(piece) =
            response.chunk().await.map_err(|error| FetchError::Http(explain(&error)))?
        {
            seen += piece.len() as u64;
            if seen > limit {
                return Err(FetchError::TooLarge { bytes: seen, limit });
            }
            out.send(piece).await.map_err(|_| FetchError::Refused)?;
        }
        Ok(fetched)
    }
}

fn next_hop(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let to = from.join(headers.get(header::LOCATION)?.to_str().ok()?).ok()?;
    matches!(to.scheme(), "http" | "https").then_some(to)
}

/// The freshness lifetime that is left (RFC 9111 section 4.2): max-age, or Expires, without Age.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |value: &HeaderValue| value.to_str().ok()?.trim().parse().ok();
    let mut lifetime = None;
    for directive in headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
    {
        match directive.trim().to_ascii_lowercase().split_once('=') {
            None if matches!(directive.trim(), "no-cache" | "no-store") => {
                return Some(Duration::ZERO);
            }
            Some(("max-age", value)) => lifetime = value.trim_matches('"').parse().ok(),
            _ => {}
        }
    }
    let lifetime = lifetime.or_else(|| {
        let date = |name| OffsetDateTime::parse(&header_text(headers, &name)?, &Rfc2822).ok();
        let lifetime = date(header::EXPIRES)? - date(header::DATE)?;
        Some(u64::try_from(lifetime.whole_seconds()).unwrap_or(0))
    })?;
    let age: u64 = headers.get(header::AGE).and_then(seconds).unwrap_or(0);
    Some(Duration::from_secs(lifetime.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(header::HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn cache_lifetimes_are_read() {
        let age = |pairs: &[_]| max_age(&headers(pairs)).map(|age| age.as_secs());
        assert_eq!(age(&[]), None);
        assert_eq!(age(&[(header::CACHE_CONTROL, "public, Max-Age=60")]), Some(60));
        assert_eq!(age(&[(header::CACHE_CONTROL, "max-age=60"), (header::AGE, "45")]), Some(15));
        assert_eq!(age(&[(header::CACHE_CONTROL, "max-age=60"), (header::AGE, "450")]), Some(0));
        assert_eq!(age(&[(header::CACHE_CONTROL, "no-cache, max-age=60")]), Some(0));
        assert_eq!(age(&[(header::CACHE_CONTROL, "max-age=soon")]), None);
        let date = (header::DATE, "Sat, 21 Nov 2026 08:00:00 GMT");
        assert_eq!(age(&[date, (header::EXPIRES, "Sat, 21 Nov 2026 09:00:00 GMT")]), Some(3600));
        let date = (header::DATE, "Sat, 21 Nov 2026 08:00:00 GMT");
        assert_eq!(age(&[date, (header::EXPIRES, "0")]), None);
    }

    #[test]
    fn only_web_addresses_and_permitted_files_are_locations() {
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
    fn a_redirect_leads_to_the_web_or_nowhere() {
        let from = Url::parse("http://ca.example/a/1.crl").expect("a URL");
        let hop = |to| next_hop(&from, &headers(&[(header::LOCATION, to)])).map(String::from);
        assert_eq!(hop("../2.crl").as_deref(), Some("http://ca.example/2.crl"));
        assert_eq!(hop("https://b.example/").as_deref(), Some("https://b.example/"));
        assert_eq!(hop("file:///etc/passwd"), None);
    }
}
