//! Limits of a client, and options of a fetch.

use std::time::Duration;

/// Limits of one fetch and of its requests.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Pages of a list.
    pub pages: usize,
    /// Bytes of a page, after decompression.
    pub page_bytes: usize,
    /// Bytes of all pages.
    pub total_bytes: usize,
    /// Objects that are fetched one by one because the list shortens them.
    pub single_gets: usize,
    /// Retries of a throttled request (429, 503, 504).
    pub retries: u32,
    /// Longest pause before a retry.  If the directory demands a longer one, the fetch fails.
    pub longest_pause: Duration,
    /// Time limit for connecting.
    pub connect: Duration,
    /// Time limit between two pieces of a response.
    pub read: Duration,
    /// Time limit of one request and its response.
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

/// Options of a fetch.
#[derive(Debug, Clone, Default)]
pub struct FetchOptions {
    /// ETag of the state that the caller has: the list is returned only if it differs.
    pub etag: Option<String>,
    /// Time that the directory may delay the response until there is a change (long poll).
    pub wait: Option<Duration>,
}
