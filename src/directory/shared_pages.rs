//! Encoded pages of lists, which the followers of a directory share.
//!
//! # Design notes
//! After a change, every follower requests the same pages within a moment.  The first request builds and
//! compresses a page, the others wait for it and send the same bytes.  A page belongs to one entity tag,
//! which names the history and the version, so that a page of an earlier state is never returned.
//!
//! Pages are part of the memory for responses, under a name of their own, and keep it until the last
//! connection has sent them.  If no memory is left, the oldest pages are dropped; if that frees nothing,
//! the request builds its page alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use crate::directory::errors::Fault;
use crate::directory::in_flight::{InFlight, PAGE, Reserved};
use crate::directory::responses::Encoded;

/// Name of the pages among the callers that reserve memory.  No caller has it: theirs are not empty.
const OWNER: &str = "";
/// Maximum number of pages.
const MANY: usize = 256;

/// Everything that a page depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// Service root of the links in the page.
    pub(super) root: Arc<str>,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) gzip: bool,
    /// Entity tag of the list.
    pub(super) tag: String,
}

/// Reason why a page was not built.
enum NotBuilt {
    NoMemory,
    Fault(Fault),
}

type Page = Arc<OnceCell<Encoded>>;

/// Pages of one process, the oldest first.
#[derive(Default)]
pub(super) struct SharedPages(Mutex<VecDeque<(Key, Page)>>);

impl SharedPages {
    /// Returns the page, which `build` makes if it does not exist.  Returns `None` if there is no memory for
    /// it, and calls nothing then.
    ///
    /// # Errors
    /// The error of `build`.  The next request tries again.
    pub(super) async fn get<F>(
        &self,
        key: Key,
        in_flight: &InFlight,
        build: impl FnOnce(Reserved) -> F,
    ) -> Result<Option<Encoded>, Fault>
    where
        F: Future<Output = Result<Encoded, Fault>>,
    {
        let page = self.page(&key);
        let built = page.get_or_try_init(|| async {
            let reserved = self.reserve(&key, in_flight).ok_or(NotBuilt::NoMemory)?;
            build(reserved).await.map_err(NotBuilt::Fault)
        });
        match built.await {
            Ok(encoded) => Ok(Some(encoded.clone())),
            Err(NotBuilt::NoMemory) => Ok(None),
            Err(NotBuilt::Fault(fault)) => Err(fault),
        }
    }

    fn page(&self, key: &Key) -> Page {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, page)) = pages.iter().find(|(known, _)| known == key) {
            return Arc::clone(page);
        }
        // No later request has the tag of an earlier state.
        pages.retain(|(known, _)| known.path != key.path || known.tag == key.tag);
        if pages.len() >= MANY {
            pages.pop_front();
        }
        let page = Page::default();
        pages.push_back((key.clone(), Arc::clone(&page)));
        page
    }

    /// Reserves memory for one more page, and drops old pages for it.
    fn reserve(&self, key: &Key, in_flight: &InFlight) -> Option<Reserved> {
        loop {
            if let Some(reserved) = in_flight.try_reserve(OWNER, PAGE) {
                return Some(reserved);
            }
            let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let is_other = |(known, page): &(Key, Page)| known != key && page.initialized();
            let oldest = pages.iter().position(is_other)?;
            pages.remove(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    fn key(query: &str, tag: &str) -> Key {
        let (root, path) = ("https://hub.example/beta".into(), "/beta/list".to_owned());
        Key { root, path, query: query.to_owned(), gzip: false, tag: tag.to_owned() }
    }

    /// Returns the page, and counts the builds.  A page has `size` bytes.
    async fn get(
        pages: &SharedPages,
        in_flight: &InFlight,
        key: Key,
        size: usize,
        builds: &AtomicUsize,
    ) -> Option<Encoded> {
        let build = |reserved: Reserved| async move {
            tokio::task::yield_now().await;
            builds.fetch_add(1, Ordering::Relaxed);
            let body = reserved.hold(vec![7; size].into());
            Ok(Encoded { body, is_compressed: false })
        };
        pages.get(key, in_flight, build).await.expect("built")
    }

    #[tokio::test]
    async fn concurrent_requests_build_a_page_once() {
        let (pages, in_flight) = (SharedPages::default(), InFlight::new());
        let builds = AtomicUsize::new(0);
        let all = (0..100).map(|_| get(&pages, &in_flight, key("", "1"), 1000, &builds));
        let bodies = join_all(all).await;
        assert!(bodies.iter().flatten().all(|page| page.body.len() == 1000));
        assert_eq!((bodies.iter().flatten().count(), builds.load(Ordering::Relaxed)), (100, 1));
        get(&pages, &in_flight, key("$skip=1", "1"), 1, &builds).await.expect("memory");
        get(&pages, &in_flight, Key { gzip: true, ..key("", "1") }, 1, &builds).await.expect("it");
        let root = "http://127.0.0.1/beta".into();
        get(&pages, &in_flight, Key { root, ..key("", "1") }, 1, &builds).await.expect("it");
        assert_eq!(builds.load(Ordering::Relaxed), 4);
        let page = get(&pages, &in_flight, key("", "2"), 1, &builds).await.expect("memory");
        assert_eq!((page.body.len(), builds.load(Ordering::Relaxed)), (1, 5), "a new state");
        assert_eq!(pages.0.lock().expect("not poisoned").len(), 1, "the earlier state is dropped");
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let (pages, in_flight) = (SharedPages::default(), InFlight::new());
        let fails = |_| async { Err(Fault::Precondition) };
        assert!(pages.get(key("", "1"), &in_flight, fails).await.is_err());
        let builds = AtomicUsize::new(0);
        assert!(get(&pages, &in_flight, key("", "1"), 1, &builds).await.is_some());
    }

    #[tokio::test]
    async fn pages_that_are_being_sent_count_and_old_ones_make_room() {
        let (pages, in_flight) = (SharedPages::default(), InFlight::new());
        let builds = AtomicUsize::new(0);
        let page = |n: u32| get(&pages, &in_flight, key(&n.to_string(), "1"), PAGE, &builds);
        for n in 0..10 {
            page(n).await.expect("old pages make room");
        }
        let sent = [page(20).await, page(21).await];
        assert!(page(22).await.is_none(), "both are still being sent");
        let others = in_flight.try_reserve("caller", PAGE);
        assert!(others.is_some(), "callers have memory of their own");
        drop(sent);
        assert!(page(22).await.is_some());
    }
}
