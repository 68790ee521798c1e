//! Overload: more full handshakes than the gateway can serve on a CPU quota, by clients that give up.
//!
//! Prints the goodput as a part of the capacity, the latency of the requests that were answered and the
//! time until the next client is served, for the gateway and, if it is installed, for nginx with a fixed
//! response on the same quota.  Then the latency beside silent connections, and the time in which
//! devices are served that all connect at once and have patience.  The quota needs root and a control group; without it, or without
//! `--bench`, the figures only show that the program works.

mod servers;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anchorgate::cli::quickstart::client::Device;
use anchorgate::cli::quickstart::serve_lists;
use anchorgate::cli::quickstart::world::{Domain, Ports, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use servers::{gateway, nginx};

/// Time after which a client gives up.
const PATIENCE: Duration = Duration::from_secs(2);
/// Offered load, as multiples of the capacity.
const LOADS: [f64; 4] = [0.7, 1.5, 3.0, 5.0];
/// Silent connections a second.
const SILENT: f64 = 120.0;
/// Devices that connect at once, and the time in which each tries.
const DEVICES: usize = 5_000;
const LONG_PATIENCE: Duration = Duration::from_secs(120);
/// Part of a processor for the server, in percent.
const QUOTA: u64 = 15;

/// A control group with a CPU quota, removed when dropped.
struct Quota(PathBuf);

impl Quota {
    /// `None` without the right to make one.
    fn new() -> Option<Self> {
        let name = format!("anchorgate-overload-{}", std::process::id());
        // A period of 20 ms, so that the pauses do not dominate the latency.
        let (period, share) = (20_000, 200 * QUOTA);
        for (root, files) in [
            (
                "/sys/fs/cgroup/cpu",
                vec![
                    ("cpu.cfs_period_us", period.to_string()),
                    ("cpu.cfs_quota_us", share.to_string()),
                ],
            ),
            ("/sys/fs/cgroup", vec![("cpu.max", format!("{share} {period}"))]),
        ] {
            let group = Path::new(root).join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            let group = Self(group);
            let written = files.iter().all(|(file, text)| {
                let file = group.0.join(file);
                file.exists() && fs::write(file, text).is_ok()
            });
            if written {
                return Some(group);
            }
        }
        None
    }

    fn add(&self, process: u32) {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).expect("moved");
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Makes requests, each with a full handshake.
struct Clients {
    address: SocketAddr,
    root: String,
    chain: String,
    key: String,
    id: String,
}

impl Clients {
    /// Returns the latency of a request that was answered in time.
    async fn request(&self) -> Option<Duration> {
        self.request_within(PATIENCE).await
    }

    async fn request_within(&self, patience: Duration) -> Option<Duration> {
        let start = Instant::now();
        let answered = timeout(patience, async {
            let device = Device::new(&self.root, &self.chain, &self.key).ok()?;
            let mut connection = device.connect(self.address).await.ok()?;
            connection.token(&self.id).await.ok().filter(|answer| answer.status == 200)
        });
        answered.await.ok()?.map(|_| start.elapsed())
    }

    /// Requests a second that a few patient clients get.
    async fn capacity(self: &Arc<Self>, time: Duration) -> f64 {
        let start = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..32 {
            let this = Arc::clone(self);
            clients.spawn(async move {
                let mut count = 0_u32;
                while start.elapsed() < time {
                    count += u32::from(this.request().await.is_some());
                }
                count
            });
        }
        let count: u32 = clients.join_all().await.into_iter().sum();
        f64::from(count) / start.elapsed().as_secs_f64()
    }

    /// Latencies of the answered requests of an open loop with `rate` requests a second.
    async fn load(self: &Arc<Self>, rate: f64, time: Duration) -> Vec<Duration> {
        let (start, mut requests) = (Instant::now(), JoinSet::new());
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate.max(1.0)));
        while start.elapsed() < time {
            ticks.tick().await;
            let this = Arc::clone(self);
            requests.spawn(async move { this.request().await });
        }
        let mut latencies: Vec<_> = requests.join_all().await.into_iter().flatten().collect();
        latencies.sort_unstable();
        latencies
    }

    /// Latencies beside [`SILENT`] connections a second, with `rate` requests a second.
    async fn beside_silent(self: &Arc<Self>, rate: f64, time: Duration) -> Vec<Duration> {
        let address = self.address;
        let silent = tokio::spawn(async move {
            let (mut open, mut ticks) =
                (Vec::new(), interval(Duration::from_secs_f64(1.0 / SILENT)));
            loop {
                ticks.tick().await;
                open.extend(TcpStream::connect(address).await);
            }
        });
        let latencies = self.load(rate, time).await;
        silent.abort();
        latencies
    }

    /// Latencies of `count` devices that all connect at once.
    async fn reconnect(self: &Arc<Self>, count: usize) -> Vec<Duration> {
        let mut requests = JoinSet::new();
        for _ in 0..count {
            let this = Arc::clone(self);
            requests.spawn(async move { this.request_within(LONG_PATIENCE).await });
        }
        let mut latencies: Vec<_> = requests.join_all().await.into_iter().flatten().collect();
        latencies.sort_unstable();
        latencies
    }

    /// Time until a client is served.
    async fn recovery(&self) -> Duration {
        let start = Instant::now();
        while self.request().await.is_none() {
            assert!(start.elapsed() < Duration::from_secs(120), "the server does not recover");
        }
        start.elapsed()
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or_default()
}

async fn measure(name: &str, clients: Clients, time: Duration) {
    let clients = Arc::new(clients);
    clients.recovery().await;
    let capacity = clients.capacity(time).await;
    println!("\n{name}: capacity {capacity:.0} full handshakes with a request a second");
    println!(
        "| offered ÷ capacity | goodput ÷ capacity | p50 | p99 | p99 ÷ quiet | next client served after |"
    );
    println!("|---|---|---|---|---|---|");
    let mut quiet = None;
    for load in LOADS {
        let latencies = clients.load(capacity * load, time).await;
        let recovery = clients.recovery().await;
        let goodput = latencies.len() as f64 / time.as_secs_f64() / capacity;
        let [p50, p99] = [50, 99].map(|percent| percentile(&latencies, percent));
        let ratio = p99.as_secs_f64() / quiet.get_or_insert(p99).as_secs_f64();
        println!("| {load} | {goodput:.2} | {p50:.0?} | {p99:.0?} | {ratio:.1} | {recovery:.1?} |");
        sleep(time / 4).await;
    }
    let latencies = clients.beside_silent(capacity * LOADS[0], time).await;
    let [p50, p99] = [50, 99].map(|percent| percentile(&latencies, percent));
    println!(
        "load {} beside {SILENT} silent connections a second: p50 {p50:.0?}, p99 {p99:.0?}",
        LOADS[0]
    );
    let devices = if time < Duration::from_secs(1) { 50 } else { DEVICES };
    let latencies = clients.reconnect(devices).await;
    let [half, all] = [50, 100].map(|percent| percentile(&latencies, percent));
    println!(
        "{devices} devices at once: {} served, half of them after {half:.1?}, all after {all:.1?}; at the \
         capacity {:.1} s",
        latencies.len(),
        devices as f64 / capacity
    );
}

fn device_of(world: &World, domain: &Domain, address: SocketAddr) -> Clients {
    let device = &domain.devices[0];
    Clients {
        address,
        root: world.server_root.certificate_pem(),
        chain: device.identity.chain_pem.clone(),
        key: device.identity.key_pem.clone(),
        id: device.subject_id.clone(),
    }
}

#[tokio::main]
async fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let seconds = std::env::var("ANCHORGATE_BENCH_SECONDS").ok().and_then(|text| text.parse().ok());
    let time = match is_bench {
        true => Duration::from_secs(seconds.unwrap_or(15)),
        false => Duration::from_millis(200),
    };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let folder = tempfile::tempdir().expect("a folder");
    let ports = Ports::free().expect("ports");
    let now = SystemTime::now().into();
    let world = World::create(&folder.path().join("world"), ports, now).expect("a world");
    let domain = &world.domains[0];
    tokio::spawn(serve_lists(&world, CancellationToken::new()).expect("a port"));
    let quota = if is_bench { Quota::new() } else { None };
    match &quota {
        Some(_) => println!("each server has {QUOTA} % of one processor"),
        None => println!("without a CPU quota: the figures are not comparable"),
    }
    {
        let server = gateway(&world, domain, false).await;
        if let Some(quota) = &quota {
            quota.add(server.0.id());
        }
        measure("anchorgate", device_of(&world, domain, ports.token), time).await;
    }
    if let Some(server) = nginx(&world, domain, ports.public, false) {
        if let Some(quota) = &quota {
            quota.add(server.0.id());
        }
        measure("nginx, fixed response", device_of(&world, domain, ports.public), time).await;
    }
}
