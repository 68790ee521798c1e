//! Paging: the links from page to page, within the limits.

use std::collections::HashSet;

use url::Url;

use crate::graph::client::error::FetchError;
use crate::graph::client::settings::Limits;

/// The pages of one list.
pub(super) struct Pages {
    /// Link to the next page; `None` after the last.
    pub(super) next: Option<Url>,
    fetched: HashSet<Url>,
    bytes: usize,
}

impl Pages {
    pub(super) fn starting_at(first: Url) -> Self {
        Self { next: Some(first), fetched: HashSet::new(), bytes: 0 }
    }

    /// Returns the URL of the next page, or `None` after the last.
    pub(super) fn advance(&mut self, limits: &Limits) -> Result<Option<Url>, FetchError> {
        let Some(url) = self.next.take() else { return Ok(None) };
        if self.fetched.len() >= limits.pages {
            return Err(FetchError::TooManyPages { limit: limits.pages });
        }
        match self.fetched.insert(url.clone()) {
            true => Ok(Some(url)),
            false => Err(FetchError::Circle),
        }
    }

    /// True while the first page is fetched.
    pub(super) fn is_first(&self) -> bool {
        self.fetched.len() == 1
    }

    /// Counts the bytes of a page.
    pub(super) fn add_bytes(&mut self, bytes: usize, limits: &Limits) -> Result<(), FetchError> {
        self.bytes += bytes;
        match self.bytes > limits.total_bytes {
            true => Err(FetchError::TooLarge { limit: limits.total_bytes }),
            false => Ok(()),
        }
    }
}
