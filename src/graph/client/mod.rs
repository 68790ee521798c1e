//! The conversation with a directory: pages, limits, retries, and nothing that decides trust.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Identity, Method, Response, StatusCode, redirect};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tracing::{debug, warn};
use url::{Host, Url};

use crate::domain::time::Timestamp;
use crate::domain::trust::anchors::ConfigurationId;
use crate::domain::trust::devices::RegistryError;
use crate::graph::Collection;
use crate::graph::auth::{AuthError, Credential, Token, TokenSource, challenge_claims};
use crate::graph::wire::{self, Entry, Page, WireError};
use crate::runtime::random::{guid, jitter};

/// Bounds of one conversation.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Pages of a list.
    pub pages: usize,
    /// Bytes of a page, after decompression.
    pub page_bytes: usize,
    /// Bytes of all pages.
    pub total_bytes: usize,
    /// Objects that are asked for one by one because the list shortens them.
    pub single_gets: usize,
    /// Further tries of a request that the directory puts off (429, 503, 504).
    pub retries: u32,
    /// The longest that a request is put off within one fetch; what is put off longer ends the fetch.
    pub longest_pause: Duration,
    /// To connect.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// One request and its answer.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pages: 200,
            page_bytes: 16 * 1024 * 1024,
            total_bytes: 256 * 1024 * 1024,
            single_gets: 500,
            retries: 3,
            longest_pause: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            read: Duration::from_secs(30),
            request: Duration::from_secs(60),
        }
    }
}

/// How HTTP clients are made.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// PEM of the only authorities that servers may have; the system's when `None`.
    pub ca_bundle: Option<Vec<u8>>,
    /// Use the proxy that the environment names.
    pub proxy: bool,
    /// To connect.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// One request and its answer.
    pub request: Duration,
}

impl HttpSettings {
    /// The same, past any proxy.
    pub fn without_proxy(&self) -> Self {
        Self { proxy: false, ..self.clone() }
    }

    /// A client; with a certificate of its own, if given.
    ///
    /// # Errors
    /// Authorities or a certificate that cannot be used.
    pub fn client(&self, identity: Option<Identity>) -> Result<reqwest::Client, AuthError> {
        let failed = |error: reqwest::Error| AuthError::Credential(chain(&error));
        let mut builder = reqwest::Client::builder()
            // A redirect could lead a bearer token astray; Graph has none.
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect)
            .read_timeout(self.read)
            .timeout(self.request)
            .user_agent(concat!("anchorgate/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = &self.ca_bundle {
            let bundle = reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?;
            builder = builder.tls_certs_only(bundle);
        }
        if !self.proxy {
            builder = builder.no_proxy();
        }
        if let Some(identity) = identity {
            builder = builder.identity(identity);
        }
        builder.build().map_err(failed)
    }
}

/// Why there is no answer to use.  Nothing of a fetch that failed is applied.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No token.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The directory was not reached, or broke off.
    #[error("{0}")]
    Transport(String),
    /// It answered with an error.
    #[error("{status} {code}: {message} (request-id {request_id})")]
    Status {
        /// HTTP status.
        status: u16,
        /// Graph's code, empty where the body is none of Graph's.
        code: String,
        /// Graph's sentence.
        message: String,
        /// To be quoted to the directory's operator.
        request_id: String,
        /// Not to be asked again before.
        retry_after: Option<Duration>,
    },
    /// It answered with more than is read.
    #[error("an answer of more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The list does not end.
    #[error("the list has more than {limit} pages")]
    TooManyPages {
        /// The limit.
        limit: usize,
    },
    /// The list leads to a page that it had already.
    #[error("the list runs in a circle")]
    Circle,
    /// The list leads elsewhere; a bearer token is not sent there.
    #[error("the list goes on at {0}, which is not the directory's origin")]
    Foreign(String),
    /// The answer is not understood.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The devices are more than are kept.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl FetchError {
    /// Not to be asked again before.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What a fetch brings.
#[derive(Debug)]
pub enum Fetched {
    /// Nothing has changed since the state that was named.
    Unchanged,
    /// Everything there is.
    List {
        /// One for each object, no id twice.
        entries: Vec<Entry>,
        /// Names this state, if the directory can tell one from another.
        etag: Option<String>,
        /// The directory lets a reader wait for a change.
        waits: bool,
    },
}

/// What a fetch may build on.
#[derive(Debug, Clone, Default)]
pub struct Since {
    /// The state that the caller has.
    pub etag: Option<String>,
    /// How long the directory may wait for another one, if it can.
    pub wait: Option<Duration>,
}

/// A client of one directory.
pub struct Client {
    http: reqwest::Client,
    tokens: TokenSource,
    collection: Collection,
    list: Url,
    limits: Limits,
}

impl Client {
    /// A client of the directory at `base`, such as `https://graph.microsoft.com`.
    ///
    /// # Errors
    /// A base that a token must not be sent to, or settings that make no client.
    pub fn new(
        base: &Url,
        credential: Credential,
        ca_bundle: Option<Vec<u8>>,
        limits: Limits,
    ) -> Result<Self, AuthError> {
        check_base(base)?;
        let settings = HttpSettings {
            // Over plain HTTP nothing is verified, and the system's authorities need not even exist.
            ca_bundle: ca_bundle.or_else(|| (base.scheme() == "http").then(Vec::new)),
            proxy: !is_loopback(base),
            connect: limits.connect,
            read: limits.read,
            request: limits.request,
        };
        let http = settings.client(None)?;
        let collection = Collection::default();
        let list = below(base, collection.path());
        let tokens = TokenSource::new(credential, settings);
        Ok(Self { http, tokens, collection, list, limits })
    }

    /// The same for another collection of the directory.
    #[must_use]
    pub fn following(mut self, collection: Collection) -> Self {
        let path = self.list.path();
        let root = path.strip_suffix(self.collection.path()).unwrap_or(path).to_owned();
        self.list.set_path(&format!("{root}{}", collection.path()));
        Self { collection, ..self }
    }

    /// Where the list is asked for.
    pub fn url(&self) -> &Url {
        &self.list
    }

    /// The whole list.
    ///
    /// # Errors
    /// Anything that leaves it less than whole.
    pub async fn fetch(&self, since: &Since) -> Result<Fetched, FetchError> {
        let http = self.http().await?;
        let mut entries = Entries::default();
        let mut seen = HashSet::new();
        let mut list = self.list.clone();
        list.set_query(self.collection.query());
        let (mut next, mut bytes) = (Some(list), 0);
        let (mut etag, mut waits) = (None, false);
        while let Some(url) = next {
            if seen.len() >= self.limits.pages {
                return Err(FetchError::TooManyPages { limit: self.limits.pages });
            }
            let first = seen.is_empty();
            if !seen.insert(url.clone()) {
                return Err(FetchError::Circle);
            }
            let page = self.get(&http, &url, first.then_some(since)).await?;
            if page.status == StatusCode::NOT_MODIFIED && first && since.etag.is_some() {
                return Ok(Fetched::Unchanged);
            }
            if first {
                etag = text(&page.headers, "etag");
                waits = applies_wait(&page.headers);
            }
            bytes += page.body.len();
            if bytes > self.limits.total_bytes {
                return Err(FetchError::TooLarge { limit: self.limits.total_bytes });
            }
            let page = Page::read_of(self.collection, &page.body)?;
            page.entries.into_iter().for_each(|entry| entries.add(entry));
            next = page.next.map(|link| self.same_origin(&link)).transpose()?;
        }
        let mut entries = entries.list;
        self.complete(&http, &mut entries).await;
        Ok(Fetched::List { entries, etag, waits })
    }

    /// One page of something else than the list, at an address that [`below`] or the directory gave.
    /// With `wait` the directory may hold it back until there is something to say; the second value
    /// tells that it would.
    ///
    /// # Errors
    /// As for [`Client::fetch`].
    pub(super) async fn page(
        &self,
        url: &Url,
        wait: Option<Duration>,
    ) -> Result<(Vec<u8>, bool), FetchError> {
        let http = self.http().await?;
        let answer = self.get(&http, url, Some(&Since { etag: None, wait })).await?;
        Ok((answer.body, applies_wait(&answer.headers)))
    }

    /// One operation on the list (`below` is empty) or on what is below it, for administrators' tools:
    /// the answer's JSON, null where there is none.  Not tried again but after a 401: a change that
    /// was put off may have been made.
    ///
    /// # Errors
    /// As for [`Client::fetch`]; nothing is known to be changed then.
    pub async fn call(
        &self,
        method: Method,
        below: &str,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<Value, FetchError> {
        let mut url = self.list.clone();
        if let (Ok(mut path), false) = (url.path_segments_mut(), below.is_empty()) {
            path.push(below);
        }
        self.operate(method, &url, body, if_match).await
    }

    /// The address of something else of the directory: `segments` are below its version.
    pub fn at(&self, segments: &[&str], query: &str) -> Url {
        let mut url = self.list.clone();
        url.set_query((!query.is_empty()).then_some(query));
        let root = url.path().rsplit_once("/directory/certificateAuthorities/");
        let root = root.map_or("/", |(root, _)| root).to_owned();
        url.set_path(&root);
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url
    }

    /// As [`Client::call`], at an address that [`Client::at`] made.
    ///
    /// # Errors
    /// As for [`Client::call`].
    pub async fn operate(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<Value, FetchError> {
        let http = self.http().await?;
        let mut token = self.tokens.token().await?;
        let mut renewed = false;
        loop {
            let mut request = http
                .request(method.clone(), url.clone())
                .bearer_auth(token.secret.expose())
                .header("accept", "application/json")
                .header("client-request-id", guid());
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(tag) = if_match {
                request = request.header("if-match", tag);
            }
            let response = request.send().await.map_err(|e| FetchError::Transport(chain(&e)))?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = read_limited(response, self.limits.page_bytes).await?;
            if status == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                token = self.tokens.other_than(&token, None).await?;
                continue;
            }
            if !status.is_success() {
                let answer = Answer { status, headers, body };
                return Err(answer.into_error(Timestamp::from(SystemTime::now())));
            }
            return if body.is_empty() { Ok(Value::Null) } else { Ok(wire::parse(&body)?) };
        }
    }

    /// Every object of the list as it was sent, for administrators' tools.
    ///
    /// # Errors
    /// As for [`Client::fetch`].
    pub async fn objects(&self) -> Result<Vec<Value>, FetchError> {
        let (mut objects, mut seen) = (Vec::new(), HashSet::new());
        let mut next = Some(self.list.clone());
        while let Some(url) = next {
            if seen.len() >= self.limits.pages {
                return Err(FetchError::TooManyPages { limit: self.limits.pages });
            }
            if !seen.insert(url.clone()) {
                return Err(FetchError::Circle);
            }
            let (page, link) = self.list_page(&url).await?;
            objects.extend(page);
            next = link;
        }
        Ok(objects)
    }

    /// One page of a list as it was sent, and where it goes on, for administrators' tools.
    ///
    /// # Errors
    /// As for [`Client::fetch`].
    pub async fn list_page(&self, url: &Url) -> Result<(Vec<Value>, Option<Url>), FetchError> {
        let http = self.http().await?;
        let mut page = wire::parse(&self.get(&http, url, None).await?.body)?;
        let Value::Array(list) = page["value"].take() else {
            return Err(WireError::Shape("`value` is no list".into()).into());
        };
        let link = page["@odata.nextLink"].as_str();
        Ok((list, link.map(|link| self.same_origin(link)).transpose()?))
    }

    async fn http(&self) -> Result<reqwest::Client, AuthError> {
        Ok(self.tokens.bound_client().await?.unwrap_or_else(|| self.http.clone()))
    }

    /// Asks one by one for what the list shortened.  What stays short stays so: it is for the caller to
    /// keep what it has.
    async fn complete(&self, http: &reqwest::Client, entries: &mut [Entry]) {
        let shortened = entries.iter_mut().filter(|e| matches!(e, Entry::Shortened { .. }));
        for entry in shortened.take(self.limits.single_gets) {
            let whole = match self.collection {
                Collection::Devices => self.get_one(http, entry.id()).await,
                Collection::Applications => self.get_authorities(http, entry).await,
            };
            match whole {
                // An answer for another object says nothing about this one.
                Ok(whole) if whole.id() == entry.id() => *entry = whole,
                Ok(other) => {
                    warn!(asked = %entry.id(), got = %other.id(), "another object was sent");
                }
                Err(error) => warn!(configuration = %entry.id(), %error, "not completed"),
            }
        }
    }

    async fn get_one(
        &self,
        http: &reqwest::Client,
        id: &ConfigurationId,
    ) -> Result<Entry, FetchError> {
        let mut url = self.list.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(id.as_str());
        }
        let answer = self.get(http, &url, None).await?;
        Ok(wire::read_entry(&answer.body)?)
    }

    /// Asks for the authorities of an application configuration, page by page.
    async fn get_authorities(
        &self,
        http: &reqwest::Client,
        entry: &Entry,
    ) -> Result<Entry, FetchError> {
        let mut url = self.list.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(entry.id().as_str()).push("trustedCertificateAuthorities");
        }
        let (mut authorities, mut seen, mut bytes) = (Vec::new(), HashSet::new(), 0);
        let mut next = Some(url);
        while let Some(url) = next {
            if seen.len() >= self.limits.pages {
                return Err(FetchError::TooManyPages { limit: self.limits.pages });
            }
            if !seen.insert(url.clone()) {
                return Err(FetchError::Circle);
            }
            let page = self.get(http, &url, None).await?;
            bytes += page.body.len();
            if bytes > self.limits.total_bytes {
                return Err(FetchError::TooLarge { limit: self.limits.total_bytes });
            }
            let (more, link) = wire::read_authorities(&page.body)?;
            authorities.extend(more);
            next = link.map(|link| self.same_origin(&link)).transpose()?;
        }
        let name = match entry {
            Entry::Shortened { readable: Some(known), .. } => &*known.display_name,
            _ => "",
        };
        Ok(wire::application(entry.id(), name, &authorities))
    }

    pub(super) fn same_origin(&self, link: &str) -> Result<Url, FetchError> {
        match Url::parse(link) {
            Ok(url) if url.origin() == self.list.origin() => Ok(url),
            Ok(url) => Err(FetchError::Foreign(url.origin().ascii_serialization())),
            Err(_) => Err(FetchError::Foreign("an address that is none".into())),
        }
    }

    /// One GET, tried again where the directory asks for it.
    async fn get(
        &self,
        http: &reqwest::Client,
        url: &Url,
        since: Option<&Since>,
    ) -> Result<Answer, FetchError> {
        let mut token = self.tokens.token().await?;
        let (mut renewed, mut tries) = (false, 0);
        loop {
            let answer = self.get_once(http, url, since, &token).await?;
            match answer.status.as_u16() {
                200 | 304 => return Ok(answer),
                401 if !renewed => {
                    renewed = true;
                    let claims = text(&answer.headers, "www-authenticate")
                        .and_then(|challenge| challenge_claims(&challenge));
                    token = self.tokens.other_than(&token, claims.as_deref()).await?;
                }
                429 | 503 | 504 if tries < self.limits.retries => {
                    let now = Timestamp::from(SystemTime::now());
                    let asked = retry_after(&answer.headers, now);
                    let pause = asked.unwrap_or_else(|| back_off(tries));
                    if pause > self.limits.longest_pause {
                        return Err(answer.into_error(now));
                    }
                    debug!(status = %answer.status, ?pause, "the directory puts the request off");
                    tokio::time::sleep(pause).await;
                    tries += 1;
                }
                _ => return Err(answer.into_error(Timestamp::from(SystemTime::now()))),
            }
        }
    }

    async fn get_once(
        &self,
        http: &reqwest::Client,
        url: &Url,
        since: Option<&Since>,
        token: &Token,
    ) -> Result<Answer, FetchError> {
        let request_id = guid();
        let mut request = http
            .get(url.clone())
            .bearer_auth(token.secret.expose())
            .header("accept", "application/json")
            .header("client-request-id", &request_id);
        if let Some(Since { etag, wait }) = since {
            if let Some(etag) = etag {
                request = request.header("if-none-match", etag);
            }
            if let Some(wait) = wait {
                request = request
                    .header("prefer", format!("wait={}", wait.as_secs()))
                    .timeout(self.limits.request + *wait);
            }
        }
        let response = request.send().await.map_err(|e| FetchError::Transport(chain(&e)))?;
        let (status, headers) = (response.status(), response.headers().clone());
        debug!(
            %status,
            client_request_id = %request_id,
            request_id = text(&headers, "request-id").unwrap_or_default(),
            diagnostic = text(&headers, "x-ms-ags-diagnostic").unwrap_or_default(),
            "answered"
        );
        let body = read_limited(response, self.limits.page_bytes).await?;
        Ok(Answer { status, headers, body })
    }
}

/// One answer, whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn into_error(self, now: Timestamp) -> FetchError {
        // A body that is HTML, empty or anything else is no error on top of the error.
        let json: Value = wire::parse(&self.body).unwrap_or_default();
        let said = |name: &str| {
            let text = json["error"][name].as_str().unwrap_or_default();
            text.chars().filter(|c| !c.is_control()).take(300).collect()
        };
        FetchError::Status {
            status: self.status.as_u16(),
            code: said("code"),
            message: said("message"),
            request_id: text(&self.headers, "request-id").unwrap_or_default(),
            retry_after: retry_after(&self.headers, now),
        }
    }
}

/// Objects by id: a list that is read while it changes may show one twice.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) list: Vec<Entry>,
    places: HashMap<ConfigurationId, usize>,
}

impl Entries {
    pub(super) fn add(&mut self, entry: Entry) {
        let id = entry.id().clone();
        match self.places.get(&id) {
            // Which of the two is newer only a GET by id can tell.
            Some(&place) => {
                let why = "the list shows it twice".into();
                self.list[place] = Entry::Shortened { id, why, readable: None };
            }
            None => {
                self.places.insert(id, self.list.len());
                self.list.push(entry);
            }
        }
    }
}

/// Reads a body of at most `limit` bytes.
pub(crate) async fn read_limited(
    mut response: Response,
    limit: usize,
) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                return Err(FetchError::TooLarge { limit });
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(FetchError::Transport(chain(&error))),
        }
    }
}

/// `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = text(headers, "retry-after")?;
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
    Some(Timestamp(at.unix_timestamp()).since(now))
}

/// Full jitter on a doubling bound: 1 s, 2 s, 4 s …
fn back_off(tries: u32) -> Duration {
    jitter(Duration::from_secs(1 << tries.min(6)))
}

fn text(headers: &HeaderMap, name: &'static str) -> Option<String> {
    let value = headers.get(HeaderName::from_static(name))?.to_str().ok()?;
    Some(value.to_owned())
}

/// The directory lets a reader wait for a change (RFC 7240 section 3).
fn applies_wait(headers: &HeaderMap) -> bool {
    text(headers, "preference-applied").is_some_and(|applied| applied.contains("wait"))
}

/// An address below the root of a directory, whose version people put there or leave out.
pub(super) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    let root = url.path().trim_end_matches('/').trim_end_matches("/beta").to_owned();
    url.set_path(&format!("{root}/{path}"));
    url
}

/// Refuses to send tokens in the clear over a network.
fn check_base(base: &Url) -> Result<(), AuthError> {
    let bad = |why: &str| Err(AuthError::Credential(format!("directory address `{base}`: {why}")));
    match base.scheme() {
        "https" if base.has_host() => Ok(()),
        "http" if is_loopback(base) => Ok(()),
        "http" => bad("plain HTTP is for loopback only"),
        _ => bad("it is not https"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// An error with what it comes from: reqwest's own text leaves the cause out.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
