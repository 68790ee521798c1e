//! A server whose responses a script determines byte by byte, including invalid HTTP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// One received request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Path and query.
    pub target: String,
    /// The whole head, in lower case.
    pub head: String,
    /// The body, if the request has a Content-Length.
    pub body: String,
}

/// A scripted response.
#[derive(Clone)]
pub enum Reply {
    /// Status, further header lines, and a body with its true length.
    Plain(u16, &'static str, Vec<u8>),
    /// These bytes; then the connection is closed.
    Bytes(Vec<u8>),
    /// These bytes; then silence for an hour, or until [`Misbehaving::hang_up`].
    Stall(Vec<u8>),
}

impl Reply {
    pub fn json(body: &serde_json::Value) -> Self {
        Self::Plain(200, "content-type: application/json\r\n", body.to_string().into_bytes())
    }

    pub fn status(status: u16) -> Self {
        Self::Plain(status, "", b"{\"error\":{\"code\":\"X\",\"message\":\"y\"}}".to_vec())
    }
}

type Script = Box<dyn Fn(&Seen, usize) -> Reply + Send + Sync>;

struct Inner {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    hang_up: Notify,
}

/// The scripted server.
#[derive(Clone)]
pub struct Misbehaving {
    pub url: String,
    inner: Arc<Inner>,
}

impl Misbehaving {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let script: Script = Box::new(|_, _| Reply::status(500));
        let inner = Arc::new(Inner {
            script: Mutex::new(script),
            seen: Mutex::default(),
            hang_up: Notify::new(),
        });
        let serving = Arc::clone(&inner);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&serving)));
            }
        });
        Self { url, inner }
    }

    /// Replaces the script.  It gets each request and the number of earlier requests to this script.
    pub fn answer(&self, script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) {
        *self.inner.script.lock().expect("whole") = Box::new(script);
        self.inner.seen.lock().expect("whole").clear();
    }

    /// Closes the connections that stall.
    pub fn hang_up(&self) {
        self.inner.hang_up.notify_waiters();
    }

    /// Requests since the script was set.
    pub fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().expect("whole").clone()
    }
}

async fn serve(mut stream: TcpStream, inner: Arc<Inner>) {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8_lossy(&bytes).into_owned();
            bytes = rest;
            break head;
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    };
    let lower = head.to_ascii_lowercase();
    let length =
        lower.split("content-length: ").nth(1).and_then(|r| r.split('\r').next()?.parse().ok());
    while bytes.len() < length.unwrap_or(0) {
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let request = Seen { target, head: lower, body: String::from_utf8_lossy(&bytes).into_owned() };
    let number = {
        let mut seen = inner.seen.lock().expect("whole");
        seen.push(request.clone());
        seen.len() - 1
    };
    let reply = (inner.script.lock().expect("whole"))(&request, number);
    let (bytes, stall) = match reply {
        Reply::Plain(status, headers, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n"
            );
            ([head.into_bytes(), body].concat(), false)
        }
        Reply::Bytes(bytes) => (bytes, false),
        Reply::Stall(bytes) => (bytes, true),
    };
    let _ = stream.write_all(&bytes).await;
    if stall {
        let patience = tokio::time::sleep(Duration::from_secs(3600));
        tokio::select! {
            () = patience => {}
            () = inner.hang_up.notified() => {}
        }
    }
    let _ = stream.shutdown().await;
}
