//! A small web server for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// The response for a path: further header lines and the body.
#[derive(Clone, Default)]
pub struct Page {
    pub status: u16,
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

/// A web server that serves the pages it is given and records the requests.
#[derive(Clone)]
pub struct Web {
    origin: String,
    pub pages: Arc<Mutex<HashMap<String, Page>>>,
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let origin = format!("http://{}", listener.local_addr().expect("an address"));
        let web = Self { origin, pages: Arc::default(), asked: Arc::default() };
        let server = web.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().answer(stream));
            }
        });
        web
    }

    async fn answer(self, mut stream: tokio::net::TcpStream) -> Option<()> {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let head = String::from_utf8(head).ok()?;
            let path = head.split(' ').nth(1)?.to_owned();
            self.asked.lock().expect("no panic").push(head.to_ascii_lowercase());
            let page = self.pages.lock().expect("no panic").get(&path).cloned();
            let page = page.unwrap_or(Page { status: 404, ..Page::default() });
            let etag = page.headers.iter().find_map(|line| line.strip_prefix("ETag: "));
            let fresh = etag.is_some_and(|etag| {
                head.to_ascii_lowercase().contains(&format!("if-none-match: {etag}"))
            });
            let (status, body) = if fresh { (304, &[][..]) } else { (page.status, &page.body[..]) };
            let lines: String = page.headers.iter().map(|line| format!("{line}\r\n")).collect();
            let length = if status == 304 {
                String::new()
            } else {
                format!("Content-Length: {}\r\n", body.len())
            };
            let head = format!("HTTP/1.1 {status} X\r\n{length}{lines}\r\n");
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(body).await.ok()?;
        }
    }

    pub fn put(&self, path: &str, body: Vec<u8>) {
        self.put_page(path, Page { status: 200, headers: Vec::new(), body });
    }

    pub fn put_page(&self, path: &str, page: Page) {
        self.pages.lock().expect("no panic").insert(path.to_owned(), page);
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    pub fn asked(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }
}
