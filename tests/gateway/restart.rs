//! Restarts under load: processes that share a port, that receive their sockets, and behind a balancer.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::client::Device;
use anchorgate::cli::quickstart::world::{Ports, World};
use anchorgate::trust::subject::SubjectField;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::hub::following;
use super::{Gateway, IN_FORCE};

/// The gateway as a process; killed when dropped.
pub(super) struct Instance {
    file: PathBuf,
    pub(super) admin: SocketAddr,
    pub(super) process: Option<Child>,
}

impl Instance {
    /// Writes the configuration of a gateway that follows `hub` and listens on the addresses of `ports`.
    pub(super) fn new(hub: &World, name: &str, ports: Ports, keys: &str) -> Self {
        let text = std::fs::read_to_string(hub.dir.join("anchorgate.toml")).expect("written");
        let url = format!("http://{}", hub.ports.directory_http);
        let text = following(&text, &[("hub", &url, &hub.directory_token, "every = \"1s\"")]);
        let data = format!("{keys}\ndata_dir = \"{name}\"\n#");
        let text = text
            .replacen("data_dir", &data, 1)
            .replace(&hub.ports.token.to_string(), &ports.token.to_string())
            .replace(&hub.ports.public.to_string(), &ports.public.to_string())
            .replace(&hub.ports.admin.to_string(), &ports.admin.to_string());
        let file = hub.dir.join(format!("{name}.toml"));
        std::fs::write(&file, text).expect("written");
        Self { file, admin: ports.admin, process: None }
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        command.args(["run", "--config"]).arg(&self.file).stderr(Stdio::null());
        command
    }

    pub(super) async fn start(&mut self) {
        self.process = Some(self.command().spawn().expect("the program runs"));
        self.until_ready(true).await;
    }

    /// Starts a process that takes the socket of its token listener from this one.
    async fn start_with(&mut self, socket: &std::net::TcpListener) {
        // The service manager sets LISTEN_PID to the process that the command becomes.
        let script = format!(
            "exec 3<&{}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=token exec \"$0\" \"$@\"",
            socket.as_raw_fd()
        );
        let gateway = self.command();
        let mut command = Command::new("bash");
        command.args(["-c", &script]).arg(gateway.get_program()).args(gateway.get_args());
        self.process = Some(command.stderr(Stdio::null()).spawn().expect("the program runs"));
        self.until_ready(true).await;
    }

    async fn is_ready(&self) -> bool {
        let admin = self.admin;
        let asked = tokio::task::spawn_blocking(move || {
            let mut answer = String::new();
            let mut stream = std::net::TcpStream::connect(admin)?;
            stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer.starts_with("HTTP/1.0 200"))
        });
        asked.await.expect("no panic").unwrap_or(false)
    }

    pub(super) async fn until_ready(&self, expected: bool) {
        let start = Instant::now();
        while self.is_ready().await != expected {
            assert!(start.elapsed() < IN_FORCE, "{}: ready is not {expected}", self.file.display());
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().expect("started").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for the exit status.
    async fn ends(&mut self) -> Option<i32> {
        let start = Instant::now();
        let process = self.process.as_mut().expect("started");
        loop {
            if let Some(status) = process.try_wait().expect("a child process") {
                return status.code();
            }
            assert!(start.elapsed() < IN_FORCE, "the gateway does not stop");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) async fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.ends().await, Some(0), "the stop was not clean");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Ways in which a client uses connections.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Full,
    Resumed,
    KeptOpen,
}

/// Clients that request tokens until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(gateway: &Gateway, address: SocketAddr) -> Self {
        let domain = gateway.domain(SubjectField::SanDns);
        let id = domain.devices[0].subject_id.clone();
        let mut load = Self {
            stop: Arc::default(),
            requests: Arc::default(),
            failures: Arc::default(),
            clients: JoinSet::new(),
        };
        for mode in [Mode::Full, Mode::Resumed, Mode::KeptOpen, Mode::KeptOpen] {
            let id = id.clone();
            let new_device = {
                let ca = gateway.world.server_root.certificate_pem();
                let identity = &domain.devices[0].identity;
                let (chain, key) = (identity.chain_pem.clone(), identity.key_pem.clone());
                move || Device::new(&ca, &chain, &key).expect("a device")
            };
            let (stop, requests) = (Arc::clone(&load.stop), Arc::clone(&load.requests));
            let failures = Arc::clone(&load.failures);
            load.clients.spawn(async move {
                let mut device = new_device();
                let mut open = None;
                while !stop.load(Ordering::Relaxed) {
                    if mode == Mode::Full {
                        device = new_device();
                    }
                    let asked = async {
                        let mut connection = match open.take() {
                            Some(connection) => connection,
                            None => device.connect(address).await?,
                        };
                        let answer = connection.token(&id).await?;
                        anyhow::ensure!(answer.status == 200, "{answer:?}");
                        Ok::<_, anyhow::Error>(connection)
                    };
                    match asked.await {
                        Ok(connection) => {
                            requests.fetch_add(1, Ordering::Relaxed);
                            sleep(Duration::from_millis(10)).await;
                            // A client sees that the server closed the connection before it uses it.
                            open = (mode == Mode::KeptOpen && !connection.is_closed())
                                .then_some(connection);
                        }
                        Err(error) => {
                            failures.lock().expect("whole").push(format!("{mode:?}: {error:#}"));
                            sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            });
        }
        load
    }

    /// Waits until this many further requests were answered.
    async fn run(&self, count: usize) {
        let (start, end) = (Instant::now(), self.requests.load(Ordering::Relaxed) + count);
        while self.requests.load(Ordering::Relaxed) < end {
            assert!(start.elapsed() < IN_FORCE, "{:?}", self.failures.lock().expect("whole"));
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
        let failures = self.failures.lock().expect("whole");
        let requests = self.requests.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {requests} failed: {failures:#?}", failures.len());
    }
}

/// A gateway with the directory and the lists that the instances use.
pub(super) async fn hub() -> Gateway {
    let hub = Gateway::start(&[SubjectField::SanDns], |text| text).await;
    hub.until_ready().await;
    hub
}

/// Long enough for each client to make a request, on a busy machine too.
const DELAY: &str = "drain_delay = \"1s\"";

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_processes_that_share_a_port_are_restarted() {
    let hub = hub().await;
    let shared = Ports::free().expect("ports");
    let keys = format!("reuse_port = true\n{DELAY}");
    let mut instances = ["one", "other"].map(|name| {
        let ports = Ports { admin: Ports::free().expect("ports").admin, ..shared };
        Instance::new(&hub.world, name, ports, &keys)
    });
    for instance in &mut instances {
        instance.start().await;
    }
    let load = Load::start(&hub, shared.token);
    load.run(20).await;
    for round in 0..4 {
        instances[round % 2].stop().await;
        load.run(20).await;
        instances[round % 2].start().await;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_process_hands_its_socket_to_the_next() {
    let hub = hub().await;
    let ports = Ports::free().expect("ports");
    let socket = std::net::TcpListener::bind(ports.token).expect("a free port");
    let clone = inheritable(&socket);
    let mut instance = Instance::new(&hub.world, "passed", ports, DELAY);
    instance.start_with(&clone).await;
    let load = Load::start(&hub, ports.token);
    load.run(20).await;
    for _ in 0..3 {
        instance.stop().await;
        instance.start_with(&clone).await;
        load.run(20).await;
    }
    load.end().await;
}

/// Returns a handle that child processes inherit: std sets close-on-exec on its own.
fn inheritable(socket: &std::net::TcpListener) -> std::net::TcpListener {
    let clone = socket2::Socket::from(socket.try_clone().expect("a descriptor"));
    clone.set_cloexec(false).expect("set");
    clone.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_gateways_behind_a_balancer_are_restarted() {
    let hub = hub().await;
    let ports = [0; 2].map(|_| Ports::free().expect("ports"));
    let mut instances = ["left", "right"].into_iter().zip(ports);
    let mut instances: [Instance; 2] = std::array::from_fn(|_| {
        let (name, ports) = instances.next().expect("two");
        Instance::new(&hub.world, name, ports, DELAY)
    });
    for instance in &mut instances {
        instance.start().await;
    }
    let ready = Arc::new([true, true].map(AtomicBool::new));
    let balancer = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = balancer.local_addr().expect("bound");
    let targets = ports.map(|ports| ports.token);
    tokio::spawn(balance(balancer, targets, Arc::clone(&ready)));
    let load = Load::start(&hub, address);
    load.run(20).await;
    for round in 0..4 {
        let restarted = round % 2;
        instances[restarted].signal("TERM");
        // The balancer's probe fails before the process stops accepting.
        instances[restarted].until_ready(false).await;
        ready[restarted].store(false, Ordering::Relaxed);
        assert_eq!(instances[restarted].ends().await, Some(0));
        load.run(20).await;
        instances[restarted].start().await;
        ready[restarted].store(true, Ordering::Relaxed);
    }
    load.end().await;
}

/// Copies the bytes of each connection to and from a target that is ready.
async fn balance(listener: TcpListener, to: [SocketAddr; 2], ready: Arc<[AtomicBool; 2]>) {
    let mut next = 0;
    while let Ok((mut near, _)) = listener.accept().await {
        next += 1;
        let target = match ready[next % 2].load(Ordering::Relaxed) {
            true => to[next % 2],
            false => to[(next + 1) % 2],
        };
        tokio::spawn(async move {
            if let Ok(mut far) = TcpStream::connect(target).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_process_at_once() {
    let hub = hub().await;
    for (signal, status) in [("TERM", 143), ("INT", 130)] {
        let ports = Ports::free().expect("ports");
        let keys = "drain_delay = \"10m\"";
        let mut instance = Instance::new(&hub.world, "twice", ports, keys);
        instance.start().await;
        instance.signal("TERM");
        instance.until_ready(false).await;
        instance.signal(signal);
        assert_eq!(instance.ends().await, Some(status));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_of_start_watchdog_and_stop() {
    let hub = hub().await;
    let mut instance = Instance::new(
        &hub.world,
        "notified",
        Ports::free().expect("ports"),
        "drain_delay = \"0s\"",
    );
    let path = hub.world.dir.join("notify.sock");
    let socket = tokio::net::UnixDatagram::bind(&path).expect("a socket");
    let mut command = instance.command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    instance.process = Some(command.spawn().expect("the program runs"));
    let next = async || {
        let mut buffer = [0; 256];
        let received = tokio::time::timeout(IN_FORCE, socket.recv(&mut buffer)).await;
        let length = received.expect("in time").expect("a message");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    assert_eq!(next().await, "READY=1");
    for _ in 0..3 {
        assert_eq!(next().await, "WATCHDOG=1");
    }
    instance.signal("TERM");
    while next().await != "STOPPING=1" {}
    assert_eq!(instance.ends().await, Some(0));
}
