//! Outbound HTTP: the one place that builds clients, reads bounded bodies, formats errors and parses
//! `Retry-After`.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{Client, ClientBuilder, Proxy, Request, RequestBuilder, Response, redirect};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

use crate::http::delta_seconds::delta_seconds;
use crate::http::server_authorities::SystemAnd;
use crate::runtime::clock;
use crate::runtime::server_clocks::{Kind, ServerClocks};
use crate::x509::pem;
use crate::x509::time::Timestamp;

/// Longest `Retry-After` that is obeyed.  A faulty or malicious server must not stop a client for longer.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Certification authorities that a server's certificate may chain to.
#[derive(Debug, Clone, Default)]
pub enum ServerAuthorities {
    /// Those of the system.  They are read when a TLS handshake first needs them.
    #[default]
    System,
    /// Those of the system, if it has any, and those in this PEM bundle.
    SystemAnd(Vec<u8>),
    /// Only those in this PEM bundle.
    Only(Vec<u8>),
}

/// The proxy that requests go through.
#[derive(Debug, Clone, Default)]
pub enum ProxyChoice {
    /// No proxy; the environment is ignored.
    #[default]
    Direct,
    /// The proxy of the environment variables.
    Environment,
    /// The proxy at this URL.
    Address(Url),
}

/// Settings of an HTTP client.  No client follows redirects: one could carry a bearer token to another
/// server.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Certification authorities for `https`.
    pub authorities: ServerAuthorities,
    /// Proxy.
    pub proxy: ProxyChoice,
    /// Time limit of connecting.
    pub connect: Duration,
    /// Time limit between two pieces of a response; `None` for no limit.
    pub read: Option<Duration>,
    /// Time limit of one request with its response; `None` if the caller limits it.
    pub request: Option<Duration>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            authorities: ServerAuthorities::default(),
            proxy: ProxyChoice::default(),
            connect: Duration::from_secs(10),
            read: None,
            request: Some(Duration::from_secs(60)),
        }
    }
}

/// Network that the requests of a part go over.  Simulations replace it.
#[derive(Clone, Default)]
pub struct Network {
    exchange: Option<Arc<Exchange>>,
    clocks: Option<(Kind, ServerClocks)>,
}

/// Returns the response to a request, or the reason why the request failed.
type Exchange = dyn Fn(Request) -> BoxFuture<'static, Result<Response, String>> + Send + Sync;

impl Network {
    /// Creates a network in which `exchange` answers every request.  It applies the time limits, because
    /// no connection exists that could.
    pub fn simulated(
        exchange: impl Fn(Request) -> BoxFuture<'static, Result<Response, String>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self { exchange: Some(Arc::new(exchange)), clocks: None }
    }

    /// Compares the system clock with the `Date` of each response of servers of this kind.
    #[must_use]
    pub(crate) fn with_clocks(self, kind: Kind, clocks: ServerClocks) -> Self {
        Self { clocks: Some((kind, clocks)), ..self }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// The text says why the request failed.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, String> {
        let (client, request) = request.build_split();
        let request = request.map_err(|error| explain(&error))?;
        let server = request.url().host_str().unwrap_or_default().to_owned();
        let response = match &self.exchange {
            None => client.execute(request).await.map_err(|error| explain(&error))?,
            Some(exchange) => exchange(request).await?,
        };
        if let (Some((kind, clocks)), Some(sent)) = (&self.clocks, sent_at(response.headers())) {
            clocks.observe(*kind, &server, sent, SystemTime::now().into());
        }
        Ok(response)
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.exchange.is_some() { "simulated" } else { "system" })
    }
}

/// A client could not be built.  The text names the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(String);

/// Reasons why a body was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseBodyError {
    /// The body is larger than the caller accepts.
    #[error("the response is larger than {limit} bytes")]
    TooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// The connection failed.
    #[error("{0}")]
    Transport(String),
}

impl ClientSettings {
    /// Builds a client.
    ///
    /// # Errors
    /// The authorities or the proxy are not usable.
    pub fn client(&self) -> Result<Client, ClientError> {
        self.client_with(|builder| builder)
    }

    /// Builds a client that presents `chain`, leaf first, and proves possession of `key`.
    ///
    /// # Errors
    /// As for [`ClientSettings::client`], or the key does not match the certificate.
    pub(crate) fn client_as(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Client, ClientError> {
        build(self.builder()?, self.tls(Some((chain, key)))?)
    }

    /// Builds a client with a builder that `adjust` has modified.
    ///
    /// # Errors
    /// As for [`ClientSettings::client`].
    pub fn client_with(
        &self,
        adjust: impl Fn(ClientBuilder) -> ClientBuilder,
    ) -> Result<Client, ClientError> {
        build(adjust(self.builder()?), self.tls(None)?)
    }

    fn tls(&self, identity: Option<ClientIdentity>) -> Result<ClientConfig, ClientError> {
        let failed = |error: rustls::Error| ClientError(format!("HTTP client: {error}"));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let clock = Arc::new(ReleaseClock);
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), clock)
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let with_system = |others| {
            let verifier = Arc::new(SystemAnd::new(others, provider));
            builder.clone().dangerous().with_custom_certificate_verifier(verifier)
        };
        let builder = match &self.authorities {
            ServerAuthorities::System => with_system(RootCertStore::empty()),
            ServerAuthorities::SystemAnd(file) => with_system(bundle(file)?),
            ServerAuthorities::Only(file) => builder.with_root_certificates(bundle(file)?),
        };
        let mut tls = match identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(failed)?,
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(tls)
    }

    fn builder(&self) -> Result<ClientBuilder, ClientError> {
        let mut builder = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect)
            .user_agent(concat!("anchorgate/", env!("CARGO_PKG_VERSION")));
        if let Some(read) = self.read {
            builder = builder.read_timeout(read);
        }
        if let Some(request) = self.request {
            builder = builder.timeout(request);
        }
        Ok(match &self.proxy {
            ProxyChoice::Environment => builder,
            ProxyChoice::Direct => builder.no_proxy(),
            ProxyChoice::Address(url) => {
                let proxy = Proxy::all(url.as_str());
                builder
                    .no_proxy()
                    .proxy(proxy.map_err(|error| failed(&format!("proxy {url}"), &error))?)
            }
        })
    }
}

/// The clock of [`clock::now`], for certificates of servers.
#[derive(Debug)]
struct ReleaseClock;

impl TimeProvider for ReleaseClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(clock::now().0).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A certificate chain and the key of its leaf.
type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Reads the authorities of a certificate file.  An empty input has none.
fn bundle(file: &[u8]) -> Result<RootCertStore, ClientError> {
    let mut authorities = RootCertStore::empty();
    if file.is_empty() {
        return Ok(authorities);
    }
    let found = pem::certificates(file);
    for der in found.map_err(|error| ClientError(format!("CA bundle: {error}")))? {
        let added = authorities.add(CertificateDer::from(der));
        added.map_err(|error| ClientError(format!("CA bundle: {error}")))?;
    }
    Ok(authorities)
}

fn build(builder: ClientBuilder, tls: ClientConfig) -> Result<Client, ClientError> {
    let client = builder.tls_backend_preconfigured(tls).build();
    client.map_err(|error| failed("HTTP client", &error))
}

fn failed(what: &str, error: &reqwest::Error) -> ClientError {
    ClientError(format!("{what}: {}", explain(error)))
}

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// See [`ResponseBodyError`].  After `limit` bytes, reading stops.
pub(crate) async fn read_limited(
    mut response: Response,
    limit: usize,
) -> Result<Vec<u8>, ResponseBodyError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                return Err(ResponseBodyError::TooLarge { limit });
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(ResponseBodyError::Transport(explain(&error))),
        }
    }
}

/// Settings that name the authority of a server whose certificate is not accepted.
pub(crate) const BUNDLE_HINT: &str = "no accepted authority issued the server's certificate; name the PEM file of its \
     authority in `ca_bundle` of the table of this server, in --ca-bundle of a command, or in \
     OTEL_EXPORTER_OTLP_CERTIFICATE";

/// Returns the text of an error and its causes.  The text of a reqwest error omits the causes.
pub fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    if text.contains("UnknownIssuer") {
        let _ = write!(text, " ({BUNDLE_HINT})");
    }
    text
}

/// Returns the value of a header, if it is present and visible ASCII.
pub(crate) fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// Returns the time at which a response was sent: its `Date`, and its `Age` in caches (RFC 9111 section
/// 4.2.3).
fn sent_at(headers: &HeaderMap) -> Option<Timestamp> {
    let date = header_text(headers, &header::DATE)?;
    let date = OffsetDateTime::parse(date.trim(), &Rfc2822).ok()?;
    let age = header_text(headers, &header::AGE).and_then(|age| delta_seconds(&age));
    Some(Timestamp(date.unix_timestamp()).after(age.unwrap_or_default()))
}

/// Parses `Retry-After` (RFC 9110 section 10.2.3).  The result is at most [`MAX_RETRY_AFTER`].
///
/// A date is compared with the `Date` of the same response, so a wrong clock on either side has no effect;
/// without `Date`, with `now`.  A date in the past yields zero.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = header_text(headers, &header::RETRY_AFTER)?;
    let pause = match delta_seconds(&value) {
        Some(pause) => pause,
        None => {
            let date = |text: &str| OffsetDateTime::parse(text.trim(), &Rfc2822).ok();
            let sent = header_text(headers, &header::DATE).and_then(|text| date(&text));
            let sent = sent.map_or(now, |sent| Timestamp(sent.unix_timestamp()));
            Timestamp(date(&value)?.unix_timestamp()).since(sent)
        }
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::delta_seconds::MAX_DELTA;
    use crate::runtime::health::Ready;
    use crate::runtime::server_clocks::ClockReport;
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;

    /// Sun, 06 Nov 1994 08:48:20 GMT.
    const NOW: Timestamp = Timestamp(784_111_700);

    fn pause(pairs: &[(HeaderName, &str)]) -> Option<u64> {
        let pair = |(name, value): &(HeaderName, &str)| {
            (name.clone(), value.parse().expect("a header value"))
        };
        retry_after(&pairs.iter().map(pair).collect(), NOW).map(|pause| pause.as_secs())
    }

    /// A response of a cache has the Date of its origin.
    #[test]
    fn a_response_was_sent_at_its_date_and_age() {
        let at = |pairs: &[(HeaderName, &str)]| {
            let pair = |(name, value): &(HeaderName, &str)| {
                (name.clone(), value.parse().expect("a header value"))
            };
            sent_at(&pairs.iter().map(pair).collect()).map(|at| at.0 - NOW.0)
        };
        let date = (header::DATE, "Sun, 06 Nov 1994 08:48:20 GMT");
        assert_eq!(at(std::slice::from_ref(&date)), Some(0));
        assert_eq!(at(&[date.clone(), (header::AGE, "75")]), Some(75));
        assert_eq!(at(&[date.clone(), (header::AGE, "-1")]), Some(0));
        let old = at(&[date, (header::AGE, "18446744073709551615")]);
        assert_eq!(old, i64::try_from(MAX_DELTA.as_secs()).ok());
        assert_eq!(at(&[(header::DATE, "yesterday")]), None);
        assert_eq!(at(&[(header::AGE, "75")]), None);
    }

    #[tokio::test]
    async fn compares_the_clock_with_each_response() {
        let respond = |_: Request| -> BoxFuture<'static, Result<Response, String>> {
            let response = hyper::Response::builder()
                .header(header::DATE, "Sun, 06 Nov 1994 08:48:20 GMT")
                .body("")
                .expect("a response");
            Box::pin(std::future::ready(Ok(response.into())))
        };
        let (clocks, ready) = (ServerClocks::default(), Ready::default());
        let network = Network::simulated(respond).with_clocks(Kind::Directory, clocks.clone());
        let client = ClientSettings::default().client().expect("a client");
        network.send(client.get("https://pki.example/1.crl")).await.expect("a response");
        ClockReport::register(clocks, &mut Registry::default())
            .update(&ready, SystemTime::now().into());
        let warning = &ready.warnings()["server_clocks"];
        assert!(warning.contains(" s ahead of `pki.example` ("), "{warning}");
    }

    #[test]
    fn reads_retry_after_in_both_forms() {
        let asks = |value| (header::RETRY_AFTER, value);
        assert_eq!(pause(&[]), None);
        assert_eq!(pause(&[asks("120")]), Some(120));
        assert_eq!(pause(&[asks("Sun, 06 Nov 1994 08:49:37 GMT")]), Some(77));
        assert_eq!(pause(&[asks("Sun, 06 Nov 1994 08:00:00 GMT")]), Some(0), "a date in the past");
        for wrong in ["soon", "-1", "+1", "1.5", ""] {
            assert_eq!(pause(&[asks(wrong)]), None, "{wrong}");
        }
    }

    #[test]
    fn compares_a_date_with_the_date_of_the_response() {
        let asks = (header::RETRY_AFTER, "Sat, 21 Nov 2026 08:02:00 GMT");
        let date = (header::DATE, "Sat, 21 Nov 2026 08:00:00 GMT");
        assert_eq!(pause(&[date, asks]), Some(120));
    }

    #[test]
    fn bounds_retry_after() {
        let limit = Some(MAX_RETRY_AFTER.as_secs());
        for long in ["86401", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(pause(&[(header::RETRY_AFTER, long)]), limit, "{long}");
        }
        assert_eq!(pause(&[(header::RETRY_AFTER, "Fri, 31 Dec 9999 23:59:59 GMT")]), limit);
    }

    #[test]
    fn names_the_setting_that_cannot_be_used() {
        let settings = ClientSettings {
            authorities: ServerAuthorities::Only(b"-----BEGIN CERTIFICATE-----\n?".to_vec()),
            ..ClientSettings::default()
        };
        let error = settings.client().expect_err("not a bundle").to_string();
        assert!(error.starts_with("CA bundle: "), "{error}");
    }

    proptest! {
        #[test]
        fn any_retry_after_is_bounded(value in "[ -~]{0,40}") {
            if let Ok(value) = value.parse() {
                let headers = [(header::RETRY_AFTER, value)].into_iter().collect();
                let pause = retry_after(&headers, NOW);
                prop_assert!(pause.is_none_or(|pause| pause <= MAX_RETRY_AFTER));
            }
        }
    }
}
