//! Bounds of one conversation with a directory.

use std::time::Duration;

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
