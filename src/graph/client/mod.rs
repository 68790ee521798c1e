//! HTTP client of a directory: pages, limits and retries.  It makes no decision about trust.

mod base_url;
mod error;
mod metrics;
mod pages;
mod session;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use tracing::warn;
use url::Url;

use crate::graph::Collection;
use crate::graph::auth::{AuthError, Credential, TokenSource};
use crate::graph::client::base_url::{check_base, is_loopback};
use crate::graph::client::pages::Pages;
use crate::graph::client::session::Session;
use crate::graph::wire::{self, Entries, Entry, JsonKind, Page, WireError};
use crate::http::outbound::{ClientSettings, Network, ProxyChoice, ServerAuthorities, header_text};
use crate::trust::configurations::{Configuration, ConfigurationId};

pub(crate) use base_url::below;
pub use error::FetchError;
pub use metrics::{RequestCounters, RequestMetrics};
pub use settings::{FetchOptions, Limits};

/// The result of a fetch.
#[derive(Debug)]
pub enum Fetched<K> {
    /// The list still has the ETag of the request.
    Unchanged,
    /// The complete list.
    List {
        /// The objects, each id once.
        entries: Vec<Entry<K>>,
        /// ETag of this state, if the directory supports them.
        etag: Option<String>,
        /// The directory supports long polls.
        supports_wait: bool,
    },
}

/// A client of one directory.
pub struct Client {
    http: reqwest::Client,
    network: Network,
    tokens: TokenSource,
    collection: Collection,
    list: Url,
    limits: Limits,
    requests: RequestCounters,
}

/// Settings of the HTTP client of the directory at `base`.
pub(crate) fn client_settings(
    base: &Url,
    ca_bundle: Option<Vec<u8>>,
    limits: &Limits,
) -> ClientSettings {
    let authorities = match ca_bundle {
        Some(pem) => ServerAuthorities::Only(pem),
        // Plain HTTP verifies nothing, and the system may not have any authorities.
        None if base.scheme() == "http" => ServerAuthorities::Only(Vec::new()),
        None => ServerAuthorities::System,
    };
    let proxy = if is_loopback(base) { ProxyChoice::Direct } else { ProxyChoice::Environment };
    ClientSettings {
        authorities,
        proxy,
        connect: limits.connect,
        read: Some(limits.read),
        request: Some(limits.request),
    }
}

impl Client {
    /// Creates a client of the directory at `base`, such as `https://graph.microsoft.com`.
    ///
    /// # Errors
    /// A token must not be sent to `base`, or the HTTP client cannot be built.
    pub fn new(
        base: &Url,
        credential: Credential,
        ca_bundle: Option<Vec<u8>>,
        limits: Limits,
    ) -> Result<Self, AuthError> {
        check_base(base)?;
        let settings = client_settings(base, ca_bundle, &limits);
        let http = settings.client()?;
        let collection = Collection::default();
        let list = below(base, collection.path());
        let tokens = TokenSource::new(credential, settings);
        let (network, requests) = (Network::default(), RequestCounters::default());
        Ok(Self { http, network, tokens, collection, list, limits, requests })
    }

    /// Changes the collection that [`Client::fetch`] and [`Client::call`] refer to.
    #[must_use]
    pub(crate) fn with_collection(mut self, collection: Collection) -> Self {
        let path = self.list.path();
        let root = path.strip_suffix(self.collection.path()).unwrap_or(path).to_owned();
        self.list.set_path(&format!("{root}{}", collection.path()));
        Self { collection, ..self }
    }

    /// Changes the network that requests go over, except those for tokens.
    #[must_use]
    pub(crate) fn with_network(self, network: Network) -> Self {
        Self { network, ..self }
    }

    /// Counts requests in `requests`.
    #[must_use]
    pub(crate) fn with_metrics(self, requests: RequestCounters) -> Self {
        Self { requests, ..self }
    }

    /// URL of the list.
    pub fn url(&self) -> &Url {
        &self.list
    }

    /// Fetches the complete list, whose objects are of kind `K`.  Objects that the list shortens are
    /// fetched one by one.
    ///
    /// # Errors
    /// A page was not received, or is not usable.
    pub async fn fetch<K: JsonKind>(
        &self,
        options: &FetchOptions,
    ) -> Result<Fetched<K>, FetchError> {
        let session = self.session().await?;
        let mut entries = Entries::default();
        let mut list = self.list.clone();
        list.set_query(self.collection.query());
        let mut pages = Pages::starting_at(list);
        let (mut etag, mut supports_wait) = (None, false);
        while let Some(url) = pages.advance(&self.limits)? {
            let first = pages.is_first();
            let response = session.get(&url, first.then_some(options)).await?;
            if response.status == StatusCode::NOT_MODIFIED && first && options.etag.is_some() {
                return Ok(Fetched::Unchanged);
            }
            if first {
                etag = header_text(&response.headers, &header::ETAG);
                supports_wait = response.supports_wait();
            }
            pages.add_bytes(response.body.len(), &self.limits)?;
            let page = Page::<K>::read(&response.body)?;
            page.entries.into_iter().for_each(|entry| entries.add(entry));
            pages.next = page.next.map(|link| self.same_origin(&link)).transpose()?;
        }
        let mut entries = entries.list;
        self.complete(&session, &mut entries).await;
        Ok(Fetched::List { entries, etag, supports_wait })
    }

    /// Fetches one page of another collection, at a URL from [`below`] or from the directory.  With
    /// `wait`, the directory may delay the response until there is a change; the second value is true
    /// if it supports that.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub(crate) async fn page(
        &self,
        url: &Url,
        wait: Option<Duration>,
    ) -> Result<(Vec<u8>, bool), FetchError> {
        let options = FetchOptions { etag: None, wait };
        let response = self.session().await?.get(url, Some(&options)).await?;
        let supports_wait = response.supports_wait();
        Ok((response.body, supports_wait))
    }

    /// Performs one operation on the list (`id` is empty) or on one of its objects, for administrators'
    /// tools.  Returns the JSON of the response, or null if its body is empty.  The operation is
    /// repeated only after a 401: a throttled change may have been applied.
    ///
    /// # Errors
    /// See [`FetchError`].  The change may have been applied all the same.
    pub async fn call(
        &self,
        method: Method,
        id: &str,
        body: Option<&Value>,
        if_match: Option<&str>,
    ) -> Result<Value, FetchError> {
        let segments: &[&str] = if id.is_empty() { &[] } else { &[id] };
        self.operate(method, &self.list_url(segments), body, if_match).await
    }

    /// URL of another object of the directory.  `segments` follow the version.
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

    /// Like [`Client::call`], at a URL from [`Client::at`].
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
        self.session().await?.operate(method, url, body, if_match).await
    }

    /// Fetches every object of the list as JSON, for administrators' tools.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn objects(&self) -> Result<Vec<Value>, FetchError> {
        let (mut objects, mut pages) = (Vec::new(), Pages::starting_at(self.list.clone()));
        while let Some(url) = pages.advance(&self.limits)? {
            let (page, next) = self.list_page(&url).await?;
            objects.extend(page);
            pages.next = next;
        }
        Ok(objects)
    }

    /// Fetches one page of a list as JSON, with the URL of the next one, for administrators' tools.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub(crate) async fn list_page(
        &self,
        url: &Url,
    ) -> Result<(Vec<Value>, Option<Url>), FetchError> {
        let mut page = wire::parse(&self.session().await?.get(url, None).await?.body)?;
        let Value::Array(list) = page["value"].take() else {
            return Err(WireError::Shape("`value` is not a list".into()).into());
        };
        let next = page["@odata.nextLink"].as_str();
        Ok((list, next.map(|link| self.same_origin(link)).transpose()?))
    }

    async fn session(&self) -> Result<Session<'_>, AuthError> {
        let http = self.tokens.bound_client().await?.unwrap_or_else(|| self.http.clone());
        let Self { network, tokens, limits, requests, .. } = self;
        Ok(Session { http, network, tokens, limits, requests })
    }

    /// Fetches the objects that the list shortened one by one.  An object that is still shortened
    /// afterwards stays so in `entries`; the caller keeps its version in force.
    async fn complete<K: JsonKind>(&self, session: &Session<'_>, entries: &mut [Entry<K>]) {
        let shortened = entries.iter_mut().filter(|e| matches!(e, Entry::Shortened { .. }));
        for entry in shortened.take(self.limits.single_gets) {
            let fetched = match K::WITH_SEPARATE_AUTHORITIES {
                None => self.fetch_one(session, entry.id()).await,
                Some(kind) => self.fetch_authorities(session, entry, kind).await,
            };
            match fetched {
                // A response that contains another object says nothing about this one.
                Ok(fetched) if fetched.id() == entry.id() => *entry = fetched,
                Ok(other) => warn!(
                    requested = %entry.id(),
                    received = %other.id(),
                    "wrong configuration received, it is ignored"
                ),
                Err(error) => {
                    warn!(configuration = %entry.id(), %error, "shortened configuration not completed");
                }
            }
        }
    }

    async fn fetch_one<K: JsonKind>(
        &self,
        session: &Session<'_>,
        id: &ConfigurationId,
    ) -> Result<Entry<K>, FetchError> {
        let response = session.get(&self.list_url(&[id.as_str()]), None).await?;
        Ok(wire::read_entry(&response.body)?)
    }

    /// Fetches the authorities of a configuration, page by page.
    async fn fetch_authorities<K: JsonKind>(
        &self,
        session: &Session<'_>,
        entry: &Entry<K>,
        kind: K,
    ) -> Result<Entry<K>, FetchError> {
        let url = self.list_url(&[entry.id().as_str(), K::AUTHORITIES]);
        let (mut authorities, mut pages) = (Vec::new(), Pages::starting_at(url));
        while let Some(url) = pages.advance(&self.limits)? {
            let response = session.get(&url, None).await?;
            pages.add_bytes(response.body.len(), &self.limits)?;
            let (page, link) = wire::read_authorities(&response.body)?;
            authorities.extend(page);
            pages.next = link.map(|link| self.same_origin(&link)).transpose()?;
        }
        let name = match entry {
            Entry::Shortened { readable: Some(readable), .. } => &*readable.display_name,
            _ => "",
        };
        let skeleton = Configuration {
            id: entry.id().clone(),
            domain: Arc::default(),
            display_name: name.to_owned(),
            kind,
            authorities: Vec::with_capacity(authorities.len()),
        };
        Ok(wire::with_authorities(skeleton, &authorities))
    }

    /// URL below the list.
    fn list_url(&self, segments: &[&str]) -> Url {
        let mut url = self.list.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url
    }

    /// Parses a link of the directory.  A token is sent to its own origin only.
    pub(crate) fn same_origin(&self, link: &str) -> Result<Url, FetchError> {
        match Url::parse(link) {
            Ok(url) if url.origin() == self.list.origin() => Ok(url),
            Ok(url) => Err(FetchError::Foreign(url.origin().ascii_serialization())),
            Err(_) => Err(FetchError::Foreign("a link that is not a valid URL".into())),
        }
    }
}

#[cfg(test)]
mod tests;
