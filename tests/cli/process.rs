//! The program as a process, and a running gateway.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anchorgate::cli::quickstart::world::{Ports, World};

/// Upper limit for waits; far above the expected time.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) fn anchorgate(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_anchorgate");
    Command::new(program).args(args).output().expect("the program runs")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a valid configuration, and the configuration's file.
pub(crate) fn world() -> (tempfile::TempDir, World, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let ports = Ports::free().expect("ports");
    let now = SystemTime::now().into();
    let world = World::create(&dir.path().join("world"), ports, now).expect("a world");
    let file = world.dir.join("anchorgate.toml");
    (dir, world, file)
}

/// Starts a server with one fixed response and returns its URL.
pub(crate) fn answers(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let _ = stream.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 {status}\r\nConnection: close");
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    at
}

/// A running gateway; killed when dropped.
pub(crate) struct Running {
    pub(crate) process: Child,
    admin: String,
}

impl Running {
    /// Starts the program and does not wait until it is ready.
    pub(crate) fn spawn(world: &World, file: &Path, stderr: Stdio) -> Self {
        let process = Command::new(env!("CARGO_BIN_EXE_anchorgate"))
            .args(["run", "--config", file.to_str().expect("UTF-8")])
            .stderr(stderr)
            .spawn()
            .expect("the program runs");
        Self { process, admin: world.ports.admin.to_string() }
    }

    pub(crate) fn start(world: &World, file: &Path) -> Self {
        let running = Self::spawn(world, file, Stdio::null());
        let start = Instant::now();
        while !running.get("/readyz").starts_with("HTTP/1.0 200") {
            assert!(start.elapsed() < SOON, "not ready: {}", running.get("/status.json"));
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }

    pub(crate) fn get(&self, path: &str) -> String {
        ask(&self.admin, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for the exit status.
    pub(crate) fn ends(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            match self.process.try_wait().expect("a child process") {
                Some(status) => return status.code(),
                None => assert!(start.elapsed() < SOON, "the gateway does not stop"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The response to one plain HTTP/1.0 request; empty if the connection fails.
fn ask(address: &str, request: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

/// Begins a request to the directory, which waits for its body.  It keeps a stopping gateway alive.
pub(crate) fn pending_request(world: &World) -> (TcpStream, BufReader<TcpStream>) {
    let mut open = TcpStream::connect(world.ports.directory_http).expect("connected");
    let head = format!(
        "POST /beta/directory/certificateAuthorities/mutualTlsOauthConfigurations HTTP/1.1\r\n\
         Host: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        world.directory_token
    );
    open.write_all(head.as_bytes()).expect("sent");
    let mut reader = BufReader::new(open.try_clone().expect("a socket"));
    let mut line = String::new();
    reader.read_line(&mut line).expect("an answer");
    assert!(line.starts_with("HTTP/1.1 100"), "the gateway waits for the body: {line}");
    (open, reader)
}
