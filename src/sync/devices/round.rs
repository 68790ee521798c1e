//! One response of the directory about devices: its pages, from the first to the delta link.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::spawn_blocking;
use url::Url;

use crate::graph::client::{Client, FetchError};
use crate::graph::wire::WireError;
use crate::graph::wire::devices::{Link, Page};
use crate::trust::devices::{DeviceRegistry, Difference, ObjectKey};

/// Limit on the pages of a round, in addition to one for each [`DEVICES_PER_PAGE`] devices that are
/// allowed.  Directories choose the size of their pages; Graph's have about a hundred devices.
const PAGES: usize = 1_000;
/// See [`PAGES`].
const DEVICES_PER_PAGE: usize = 50;
/// Failures after which an incomplete round is discarded, because its links may be the cause.
const MAX_FAILURES: u32 = 8;

/// Rules for reading pages.
#[derive(Debug, Clone)]
pub(super) struct PageRules {
    /// Prefix of configuration ids.
    pub(super) prefix: Option<Arc<str>>,
    /// Limit on the devices.
    pub(super) max_devices: usize,
}

/// A response that has been read up to some page.
pub(super) struct Round {
    /// The round enumerates all devices: a device that it does not contain does not exist.
    pub(super) is_enumeration: bool,
    /// The next page.
    pub(super) url: Url,
    /// The devices after the pages so far.
    pub(super) registry: DeviceRegistry,
    /// Number of pages so far.
    pub(super) pages: usize,
    /// Number of objects that are not registered devices.
    pub(super) others: usize,
    /// Consecutive failures.
    pub(super) failures: u32,
    /// Keys of the requested URLs, to detect a circle.
    requested: HashSet<ObjectKey>,
}

impl Round {
    /// Starts an enumeration at `url`.
    pub(super) fn enumeration(url: Url) -> Self {
        Self { is_enumeration: true, ..Self::delta(url, DeviceRegistry::default()) }
    }

    /// Starts with the delta link `url`, which stands for the devices of `registry`.
    pub(super) fn delta(url: Url, registry: DeviceRegistry) -> Self {
        let requested = HashSet::from([ObjectKey::of(url.as_str())]);
        Self { is_enumeration: false, url, registry, pages: 0, others: 0, failures: 0, requested }
    }

    /// Applies a page.  After the last one, returns the delta link and the difference to `in_force`.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        body: Vec<u8>,
        rules: PageRules,
        in_force: DeviceRegistry,
    ) -> Result<Option<(Url, Difference)>, FetchError> {
        let (registry, limit) = (self.registry.clone(), rules.max_devices);
        // A page takes milliseconds of computation, which must not delay other tasks.
        let read = spawn_blocking(move || {
            let page = Page::read(&body, rules.prefix.as_deref())?;
            let (registry, others) = registry.changed(&page.changes, limit)?;
            let is_last = matches!(page.link, Some(Link::Delta(_)));
            let difference =
                if is_last { in_force.difference(&registry) } else { Difference::default() };
            Ok::<_, FetchError>((registry, others, page.link, difference))
        });
        let (registry, others, link, difference) = match read.await {
            Ok(read) => read?,
            Err(_) => return Err(WireError::Shape("reading the page was aborted".into()).into()),
        };
        let end = match link {
            Some(Link::Delta(link)) => Some((client.same_origin(&link)?, difference)),
            Some(Link::Next(link)) => {
                let url = client.same_origin(&link)?;
                let limit = PAGES.saturating_add(limit / DEVICES_PER_PAGE);
                if self.pages + 1 >= limit {
                    return Err(FetchError::TooManyPages { limit });
                }
                if !self.requested.insert(ObjectKey::of(url.as_str())) {
                    return Err(FetchError::Circle);
                }
                self.url = url;
                None
            }
            // The response may have been cut off, and later changes could not be requested.
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

    /// True if the directory does not know its own link any more: 410, or another client error when a
    /// token has expired (Graph's `syncStateNotFound`, `resyncRequired`).
    pub(super) fn is_forgotten(&self, error: &FetchError, start: &Url) -> bool {
        self.url != *start && matches!(error, FetchError::Status { status: 400 | 404 | 410, .. })
    }

    /// True if repeating the request for the same page cannot succeed.
    pub(super) fn is_hopeless(&self, error: &FetchError) -> bool {
        match error {
            FetchError::Circle
            | FetchError::TooManyPages { .. }
            | FetchError::Foreign(_)
            | FetchError::Registry(_) => true,
            _ => self.failures >= MAX_FAILURES,
        }
    }
}
