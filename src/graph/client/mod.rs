//! The conversation with a directory: pages, limits, retries, and nothing that decides trust.

mod error;
mod exchange;
mod settings;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use reqwest::header::ETAG;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tracing::warn;
use url::{Host, Url};

use crate::graph::Collection;
use crate::graph::auth::{AuthError, Credential, TokenSource};
use crate::graph::wire::{self, Entry, Page, WireError};
use crate::http::outbound::{ClientSettings, ProxyChoice, ServerAuthorities, header_text};
use crate::trust::configurations::ConfigurationId;

pub use error::FetchError;
pub use exchange::Since;
use exchange::{Conversation, applies_wait};
pub use settings::Limits;

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
        let authorities = match ca_bundle {
            Some(pem) => ServerAuthorities::Only(pem),
            // Plain HTTP verifies nothing, and the system may not have any authorities.
            None if base.scheme() == "http" => ServerAuthorities::Only(Vec::new()),
            None => ServerAuthorities::System,
        };
        let proxy = if is_loopback(base) { ProxyChoice::Direct } else { ProxyChoice::Environment };
        let settings = ClientSettings {
            authorities,
            proxy,
            connect: limits.connect,
            read: Some(limits.read),
            request: Some(limits.request),
        };
        let http = settings.client()?;
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
        let conversation = self.begin().await?;
        let mut entries = Entries::default();
        let mut list = self.list.clone();
        list.set_query(self.collection.query());
        let mut pages = Pages::from(list);
        let (mut etag, mut waits) = (None, false);
        while let Some(url) = pages.turn(&self.limits)? {
            let first = pages.seen.len() == 1;
            let page = conversation.get(&url, first.then_some(since)).await?;
            if page.status == StatusCode::NOT_MODIFIED && first && since.etag.is_some() {
                return Ok(Fetched::Unchanged);
            }
            if first {
                etag = header_text(&page.headers, &ETAG);
                waits = applies_wait(&page.headers);
            }
            pages.weigh(page.body.len(), &self.limits)?;
            let page = Page::read_of(self.collection, &page.body)?;
            page.entries.into_iter().for_each(|entry| entries.add(entry));
            pages.next = page.next.map(|link| self.same_origin(&link)).transpose()?;
        }
        let mut entries = entries.list;
        self.complete(&conversation, &mut entries).await;
        Ok(Fetched::List { entries, etag, waits })
    }

    /// One page of something else than the list, at an address that [`below`] or the directory gave.
    /// With `wait` the directory may hold it back until there is something to say; the second value
    /// tells that it would.
    ///
    /// # Errors
    /// As for [`Client::fetch`].
    pub(crate) async fn page(
        &self,
        url: &Url,
        wait: Option<Duration>,
    ) -> Result<(Vec<u8>, bool), FetchError> {
        let since = Since { etag: None, wait };
        let answer = self.begin().await?.get(url, Some(&since)).await?;
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
        self.begin().await?.operate(method, url, body, if_match).await
    }

    /// Every object of the list as it was sent, for administrators' tools.
    ///
    /// # Errors
    /// As for [`Client::fetch`].
    pub async fn objects(&self) -> Result<Vec<Value>, FetchError> {
        let (mut objects, mut pages) = (Vec::new(), Pages::from(self.list.clone()));
        while let Some(url) = pages.turn(&self.limits)? {
            let (page, link) = self.list_page(&url).await?;
            objects.extend(page);
            pages.next = link;
        }
        Ok(objects)
    }

    /// One page of a list as it was sent, and where it goes on, for administrators' tools.
    ///
    /// # Errors
    /// As for [`Client::fetch`].
    pub async fn list_page(&self, url: &Url) -> Result<(Vec<Value>, Option<Url>), FetchError> {
        let mut page = wire::parse(&self.begin().await?.get(url, None).await?.body)?;
        let Value::Array(list) = page["value"].take() else {
            return Err(WireError::Shape("`value` is no list".into()).into());
        };
        let link = page["@odata.nextLink"].as_str();
        Ok((list, link.map(|link| self.same_origin(link)).transpose()?))
    }

    async fn begin(&self) -> Result<Conversation<'_>, AuthError> {
        let http = self.tokens.bound_client().await?.unwrap_or_else(|| self.http.clone());
        Ok(Conversation { http, tokens: &self.tokens, limits: &self.limits })
    }

    /// Asks one by one for what the list shortened.  What stays short stays so: it is for the caller to
    /// keep what it has.
    async fn complete(&self, conversation: &Conversation<'_>, entries: &mut [Entry]) {
        let shortened = entries.iter_mut().filter(|e| matches!(e, Entry::Shortened { .. }));
        for entry in shortened.take(self.limits.single_gets) {
            let whole = match self.collection {
                Collection::Devices => self.get_one(conversation, entry.id()).await,
                Collection::Applications => self.get_authorities(conversation, entry).await,
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
        conversation: &Conversation<'_>,
        id: &ConfigurationId,
    ) -> Result<Entry, FetchError> {
        let mut url = self.list.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(id.as_str());
        }
        let answer = conversation.get(&url, None).await?;
        Ok(wire::read_entry(&answer.body)?)
    }

    /// Asks for the authorities of an application configuration, page by page.
    async fn get_authorities(
        &self,
        conversation: &Conversation<'_>,
        entry: &Entry,
    ) -> Result<Entry, FetchError> {
        let mut url = self.list.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(entry.id().as_str()).push("trustedCertificateAuthorities");
        }
        let (mut authorities, mut pages) = (Vec::new(), Pages::from(url));
        while let Some(url) = pages.turn(&self.limits)? {
            let page = conversation.get(&url, None).await?;
            pages.weigh(page.body.len(), &self.limits)?;
            let (more, link) = wire::read_authorities(&page.body)?;
            authorities.extend(more);
            pages.next = link.map(|link| self.same_origin(&link)).transpose()?;
        }
        let name = match entry {
            Entry::Shortened { readable: Some(known), .. } => &*known.display_name,
            _ => "",
        };
        Ok(wire::application(entry.id(), name, &authorities))
    }

    pub(crate) fn same_origin(&self, link: &str) -> Result<Url, FetchError> {
        match Url::parse(link) {
            Ok(url) if url.origin() == self.list.origin() => Ok(url),
            Ok(url) => Err(FetchError::Foreign(url.origin().ascii_serialization())),
            Err(_) => Err(FetchError::Foreign("an address that is none".into())),
        }
    }
}

/// The way through a list that goes on from page to page.
struct Pages {
    next: Option<Url>,
    seen: HashSet<Url>,
    bytes: usize,
}

impl Pages {
    fn from(first: Url) -> Self {
        Self { next: Some(first), seen: HashSet::new(), bytes: 0 }
    }

    /// The page to ask for; none after the last.
    fn turn(&mut self, limits: &Limits) -> Result<Option<Url>, FetchError> {
        let Some(url) = self.next.take() else { return Ok(None) };
        if self.seen.len() >= limits.pages {
            return Err(FetchError::TooManyPages { limit: limits.pages });
        }
        match self.seen.insert(url.clone()) {
            true => Ok(Some(url)),
            false => Err(FetchError::Circle),
        }
    }

    /// Counts a page's bytes.
    fn weigh(&mut self, bytes: usize, limits: &Limits) -> Result<(), FetchError> {
        self.bytes += bytes;
        match self.bytes > limits.total_bytes {
            true => Err(FetchError::TooLarge { limit: limits.total_bytes }),
            false => Ok(()),
        }
    }
}

/// Objects by id: a list that is read while it changes may show one twice.
#[derive(Default)]
pub(crate) struct Entries {
    pub(crate) list: Vec<Entry>,
    places: HashMap<ConfigurationId, usize>,
}

impl Entries {
    pub(crate) fn add(&mut self, entry: Entry) {
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

/// An address below the root of a directory, whose version people put there or leave out.
pub(crate) fn below(base: &Url, path: &str) -> Url {
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

#[cfg(test)]
mod tests;
