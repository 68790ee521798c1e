//! One answer of the directory about devices, page by page until it is whole.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use url::Url;

use crate::graph::client::{Client, FetchError};
use crate::graph::wire::WireError;
use crate::graph::wire::devices::{Link, Page};
use crate::trust::devices::{DeviceRegistry, Difference, ObjectKey};

/// Pages that a round may have, and one more for each [`DEVICES_PER_PAGE`] that are allowed: directories
/// choose the size of their pages, and Graph's have about a hundred.
const PAGES: usize = 1_000;
/// See [`PAGES`].
const DEVICES_PER_PAGE: usize = 50;
/// Failures after which a round that is not whole is given up: its links may be what is wrong.
const TRIES: u32 = 8;

/// One answer of the directory, as far as it was read.
pub(super) struct Round {
    /// It enumerates everything: what it does not name is not there.
    pub(super) whole: bool,
    /// The next page.
    pub(super) url: Url,
    pub(super) registry: DeviceRegistry,
    pub(super) pages: usize,
    /// The pages that were asked for, to notice a circle.
    seen: HashSet<ObjectKey>,
    /// Objects that are no registered devices.
    pub(super) others: usize,
    pub(super) failures: u32,
}

impl Round {
    /// Begins where `url` says, with the devices that are known there.
    pub(super) fn new(whole: bool, url: Url, registry: DeviceRegistry) -> Self {
        let seen = HashSet::from([ObjectKey::of(url.as_str())]);
        Self { whole, url, registry, pages: 0, seen, others: 0, failures: 0 }
    }

    /// Applies a page to the round.  When it was the last one: the deltaLink, and what is different.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        (body, prefix, most): (Vec<u8>, Option<Arc<str>>, usize),
        in_force: DeviceRegistry,
    ) -> Result<Option<(Url, Difference)>, FetchError> {
        let registry = self.registry.clone();
        // Milliseconds of computing, which no request should wait for.
        let read = spawn_blocking(move || {
            let page = Page::read(&body, prefix.as_deref())?;
            let (registry, others) = registry.changed(&page.changes, most)?;
            let is_last = matches!(page.link, Some(Link::Delta(_)));
            let difference =
                if is_last { in_force.difference(&registry) } else { Difference::default() };
            Ok::<_, FetchError>((registry, others, page.link, difference))
        });
        let (registry, others, link, difference) = match read.await {
            Ok(read) => read?,
            Err(_) => return Err(WireError::Shape("reading it ended early".into()).into()),
        };
        let end = match link {
            Some(Link::Delta(link)) => Some((client.same_origin(&link)?, difference)),
            Some(Link::Next(link)) => {
                let url = client.same_origin(&link)?;
                let limit = PAGES.saturating_add(most / DEVICES_PER_PAGE);
                if self.pages + 1 >= limit {
                    return Err(FetchError::TooManyPages { limit });
                }
                if !self.seen.insert(ObjectKey::of(url.as_str())) {
                    return Err(FetchError::Circle);
                }
                self.url = url;
                None
            }
            // Where would its changes be asked for?  It may as well be cut off.
            None => {
                let why = "neither @odata.nextLink nor @odata.deltaLink";
                return Err(WireError::Shape(why.into()).into());
            }
        };
        (self.registry, self.failures) = (registry, 0);
        self.pages += 1;
        self.others += others;
        Ok(end)
    }

    /// True for the ways in which a directory says that it does not know a link of its own any more: 410,
    /// and a client error where a token has expired (Graph's `syncStateNotFound`, `resyncRequired`).
    pub(super) fn is_forgotten(&self, error: &FetchError, start: &Url) -> bool {
        self.url != *start && matches!(error, FetchError::Status { status: 400 | 404 | 410, .. })
    }

    /// True where nothing is to be had by asking for the same page again.
    pub(super) fn is_hopeless(&self, error: &FetchError) -> bool {
        match error {
            FetchError::Circle
            | FetchError::TooManyPages { .. }
            | FetchError::Foreign(_)
            | FetchError::Registry(_) => true,
            _ => self.failures >= TRIES,
        }
    }
}
