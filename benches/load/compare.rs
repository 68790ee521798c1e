//! Work of the gateway and of other servers with the same certificates, as ratios to the bare cryptography.
//!
//! `compare.sh` runs this.  The figures are processor time of the server, from `/proc`, for each request.
//! The servers share the first processor and are measured one after the other in several rounds; the
//! result is the median.  Without `--bench` the figures only show that the program works.

mod plain;
mod servers;

use std::fs;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anchorgate::cli::quickstart::client::{Connection, Device};
use anchorgate::cli::quickstart::pki::Subject;
use anchorgate::cli::quickstart::serve_lists;
use anchorgate::cli::quickstart::world::{Domain, Ports, World};
use anchorgate::trust::subject::SubjectField;
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, ParsedPublicKey,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use servers::Server;

/// Connections at a time.
const CLIENTS: usize = 8;
/// Duration of a tick of `/proc/PID/stat`.
const TICK: Duration = Duration::from_millis(10);

/// Kinds of work that are measured for each server.
const WORK: [(Work, &str); 4] = [
    (Work::New, "full handshake of a new device, and a request"),
    (Work::Known, "full handshake of a device that returns, and a request"),
    (Work::Resumed, "resumed handshake, and a request"),
    (Work::Open, "request on an open connection"),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    New,
    Known,
    Resumed,
    Open,
}

/// Amount of work of a run.
#[derive(Clone, Copy)]
struct Extent {
    rounds: usize,
    time: Duration,
    idle: usize,
    /// Time after which an idle connection has given back what it can.
    rest: Duration,
    new_devices: usize,
}

/// A certificate that makes requests.
struct Client {
    root: String,
    chain: String,
    key: String,
    id: String,
}

impl Client {
    fn create(world: &World, domain: &Domain, name: String) -> Self {
        let subject =
            Subject { common_name: name.clone(), dns: vec![name.clone()], ..Subject::default() };
        let identity = domain.issuer.client(&subject, SystemTime::now().into()).expect("issued");
        let root = world.server_root.certificate_pem();
        Self { root, chain: identity.chain_pem, key: identity.key_pem, id: name }
    }

    /// A device without sessions that it could resume.
    fn device(&self) -> Device {
        Device::new(&self.root, &self.chain, &self.key).expect("a device")
    }

    async fn request(&self, connection: &mut Connection) {
        let answer = connection.token(&self.id).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// A server that is measured.
struct Measured {
    name: &'static str,
    address: SocketAddr,
    server: Server,
    /// Its results by work, in microseconds.
    results: [Vec<f64>; WORK.len()],
    start: Duration,
    /// Resident memory in bytes.
    at_rest: u64,
    idle_connection: u64,
}

impl Measured {
    /// Starts a server, waits for its first response and measures its memory.  Returns `None` if it is
    /// not installed.
    async fn start(
        name: &'static str,
        address: SocketAddr,
        start: impl FnOnce() -> Option<Server>,
        clients: &[Client],
        extent: Extent,
    ) -> Option<Self> {
        let (began, server) = (Instant::now(), start()?);
        first_response(address, &clients[0]).await;
        let start = began.elapsed();
        sleep(extent.rest).await;
        let at_rest = resident(server.0.id());
        let mut open = Vec::new();
        for client in &clients[..extent.idle] {
            let mut connection = client.device().connect(address).await.expect("connected");
            client.request(&mut connection).await;
            open.push(connection);
        }
        sleep(extent.rest).await;
        let more = resident(server.0.id()).saturating_sub(at_rest);
        let idle_connection = more / open.len() as u64;
        let results = Default::default();
        Some(Self { name, address, server, results, start, at_rest, idle_connection })
    }

    /// Returns the server's processor time for each request, in microseconds.
    async fn measure(
        &self,
        work: Work,
        clients: &Arc<Vec<Client>>,
        round: usize,
        extent: Extent,
    ) -> f64 {
        let first = CLIENTS + round * extent.new_devices;
        let (next, end) = (Arc::new(AtomicUsize::new(first)), first + extent.new_devices);
        let mut open = Vec::new();
        for client in &clients[..CLIENTS] {
            let device = client.device();
            let mut connection = device.connect(self.address).await.expect("connected");
            // The request also leaves a session that can be resumed.
            client.request(&mut connection).await;
            open.push((device, connection));
        }
        let before = processor_time(self.server.0.id());
        let (start, address, mut tasks) = (Instant::now(), self.address, JoinSet::new());
        for (number, (device, mut open)) in open.into_iter().enumerate() {
            let (clients, next) = (Arc::clone(clients), Arc::clone(&next));
            tasks.spawn(async move {
                let mut count = 0_u32;
                while start.elapsed() < extent.time {
                    let client = match work {
                        Work::New => clients[..end].get(next.fetch_add(1, Ordering::Relaxed)),
                        _ => Some(&clients[number]),
                    };
                    let Some(client) = client else { break };
                    if work == Work::Open {
                        client.request(&mut open).await;
                    } else {
                        let resumes = work == Work::Resumed;
                        let device = if resumes { device.clone() } else { client.device() };
                        let mut connection = device.connect(address).await.expect("connected");
                        assert_eq!(connection.resumed, resumes);
                        client.request(&mut connection).await;
                    }
                    count += 1;
                }
                count
            });
        }
        let count: u32 = tasks.join_all().await.into_iter().sum();
        let took = processor_time(self.server.0.id()) - before;
        took.as_secs_f64() * 1e6 / f64::from(count.max(1))
    }

    fn result(&self, work: usize) -> f64 {
        median(self.results[work].clone())
    }
}

/// Waits until the server answers a request.
async fn first_response(address: SocketAddr, client: &Client) {
    let start = Instant::now();
    loop {
        if let Ok(mut connection) = client.device().connect(address).await
            && connection.token(&client.id).await.is_ok_and(|answer| answer.status == 200)
        {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "no response from {address}");
        sleep(Duration::from_millis(1)).await;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Processor time of a process, of the system's part too.
fn processor_time(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    // The name in parentheses may contain spaces.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks =
        fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u32>().expect("a number"));
    TICK * ticks.sum()
}

/// Resident memory of a process in bytes.
fn resident(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
}

/// Durations of the operations that the work needs at least, in microseconds.
struct Floor {
    verify: f64,
    sign: f64,
    agree: f64,
    /// Key schedule of TLS 1.3 and hashes of the messages.
    schedule: f64,
}

impl Floor {
    fn measure(time: Duration) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
        let message = [7u8; 512];
        let signature = key.sign(&random, &message).expect("signed");
        let peer = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
        let peer = UnparsedPublicKey::new(&X25519, peer.compute_public_key().expect("a key"));
        let repeat = |operation: &dyn Fn()| {
            let (start, mut batches) = (Instant::now(), Vec::new());
            while batches.is_empty() || start.elapsed() < time {
                let batch = Instant::now();
                (0..50).for_each(|_| operation());
                batches.push(batch.elapsed().as_secs_f64() * 1e6 / 50.0);
            }
            median(batches)
        };
        Self {
            verify: repeat(&|| {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref())
                    .expect("a key")
                    .verify_sig(black_box(&message), signature.as_ref())
                    .expect("good");
            }),
            sign: repeat(&|| {
                black_box(key.sign(&random, black_box(&message)).expect("signed"));
            }),
            agree: repeat(&|| {
                let own = EphemeralPrivateKey::generate(&X25519, &random).expect("a key");
                black_box(own.compute_public_key().expect("a key"));
                agree_ephemeral(own, black_box(&peer), (), |secret| Ok(secret.len()))
                    .expect("agreed");
            }),
            schedule: repeat(&|| {
                for _ in 0..25 {
                    let key = hmac::Key::new(hmac::HMAC_SHA256, &message[..32]);
                    black_box(hmac::sign(&key, &message[..64]));
                }
                for _ in 0..8 {
                    black_box(digest(&SHA256, black_box(&message)));
                }
            }),
        }
    }

    /// The handshake with leaf and issuer, and the signature of the token.
    fn of(&self, work: Work) -> f64 {
        match work {
            Work::New | Work::Known => {
                3.0 * self.verify + 2.0 * self.sign + self.agree + self.schedule
            }
            Work::Resumed => self.agree + self.sign + self.schedule,
            Work::Open => self.sign,
        }
    }
}

fn print(servers: &[Measured], floor: &Floor) {
    let Floor { verify, sign, agree, schedule } = floor;
    println!(
        "\nP-256 verify {verify:.1} µs, sign {sign:.1} µs; X25519 generate and agree {agree:.1} µs; key \
         schedule {schedule:.1} µs"
    );
    let row = |work: &str, cell: &dyn Fn(&Measured) -> String| {
        let cells: Vec<_> = servers.iter().map(cell).collect();
        println!("| {work} | {} |", cells.join(" | "));
    };
    row("processor time in µs (× the operations)", &|server| server.name.to_owned());
    row("---", &|_| "---".to_owned());
    for (at, (work, text)) in WORK.into_iter().enumerate() {
        row(text, &|server| {
            let result = server.result(at);
            format!("{result:.0} ({:.2} ×)", result / floor.of(work))
        });
    }
    let open = WORK.len() - 1;
    if let Some(nginx) = servers.iter().find(|server| server.name == "nginx") {
        let least = nginx.result(open) + sign;
        row("open connection ÷ (nginx's fixed response + a signature)", &|server| {
            format!("{:.2}", server.result(open) / least)
        });
    }
    row("memory of an idle connection, KiB", &|server| {
        format!("{:.1}", server.idle_connection as f64 / 1024.0)
    });
    row("start to first response, ms", &|server| server.start.as_millis().to_string());
    row("resident memory at rest, MB", &|server| format!("{:.1}", server.at_rest as f64 / 1e6));
}

/// Removes the gateway's state, but not the directory that it follows.
fn forget(data: &Path) {
    for entry in fs::read_dir(data).expect("a folder") {
        let path = entry.expect("an entry").path();
        let is_directory = path.file_stem().is_some_and(|name| name == "directory");
        match path.is_dir() {
            true => fs::remove_dir_all(path).expect("removed"),
            false if !is_directory => fs::remove_file(path).expect("removed"),
            false => {}
        }
    }
}

/// The domain whose devices are named by a dNSName.
fn domain(world: &World) -> &Domain {
    let mut domains = world.domains.iter();
    domains.find(|domain| domain.field == SubjectField::SanDns).expect("a domain")
}

async fn start_all(
    world: &World,
    clients: &[Client],
    extent: Extent,
    is_pinned: bool,
) -> Vec<Measured> {
    let domain = domain(world);
    let first = servers::gateway(world, domain, is_pinned).await;
    first_response(world.ports.token, &clients[0]).await;
    drop(first);
    forget(&world.dir.join("data"));
    let other = Ports::free().expect("ports");
    let starts: [(_, _, &dyn Fn() -> Option<Server>); 4] = [
        ("anchorgate", world.ports.token, &|| Some(servers::start_gateway(world, is_pinned))),
        ("rustls + hyper", other.token, &|| {
            Some(servers::plain(world, domain, other.token, is_pinned))
        }),
        ("nginx", other.public, &|| servers::nginx(world, domain, other.public, is_pinned)),
        ("HAProxy", other.directory, &|| {
            servers::haproxy(world, domain, other.directory, is_pinned)
        }),
    ];
    let mut servers = Vec::new();
    for (name, address, start) in starts {
        servers.extend(Measured::start(name, address, start, clients, extent).await);
    }
    servers
}

async fn compare(is_bench: bool) {
    let (rest, short) = (Duration::from_secs(13), Duration::from_millis(20));
    let extent = match is_bench {
        true => {
            Extent { rounds: 3, time: Duration::from_secs(3), idle: 400, rest, new_devices: 1_000 }
        }
        false => Extent { rounds: 1, time: short, idle: 2, rest: short, new_devices: 4 },
    };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let is_pinned = is_bench && Command::new("taskset").arg("-V").output().is_ok();
    let folder = tempfile::tempdir().expect("a folder");
    let now = SystemTime::now().into();
    let ports = Ports::free().expect("ports");
    let world = World::create(&folder.path().join("world"), ports, now).expect("a world");
    tokio::spawn(serve_lists(&world, CancellationToken::new()).expect("a port"));
    let domain = domain(&world);
    let count = extent.idle.max(CLIENTS + extent.rounds * extent.new_devices);
    let client = |n| Client::create(&world, domain, format!("d{n}.devices.example"));
    let clients: Arc<Vec<_>> = Arc::new((0..count).map(client).collect());
    let mut servers = start_all(&world, &clients, extent, is_pinned).await;
    for round in 0..extent.rounds {
        for (at, (work, _)) in WORK.into_iter().enumerate() {
            for server in &mut servers {
                let result = server.measure(work, &clients, round, extent).await;
                server.results[at].push(result);
            }
        }
    }
    print(&servers, &Floor::measure(extent.time));
}

#[tokio::main]
async fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    match &arguments[1..] {
        [mode, folder, address] if mode == "plain" => {
            plain::serve(Path::new(folder), address.parse().expect("an address")).await;
        }
        _ => compare(arguments.iter().any(|argument| argument == "--bench")).await,
    }
}
