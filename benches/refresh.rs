//! How much does the refresh of a large revocation list delay devices, and how long does a gateway with
//! such a list take to start?
//!
//! The program runs as a separate process with a list of a million entries (with `ANCHORGATE_BENCH_10M=1`:
//! ten million, 400 MB) that this process serves over loopback.  Requests are sent at a fixed rate,
//! whether or not earlier ones were answered, and timed from their due time, so that a stall counts for
//! all requests due in it.  Quiet phases alternate with phases in which lists of increasing numbers are
//! fetched one after the other.  A handshake is a full one with its first response; a request is one on
//! an open connection.
//!
//! This process, the list's server and the gateway share the machine's processors.  With two processors
//! the refresh, its server and the load exceed the capacity.

mod support;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anchorgate::cli::quickstart::client::{Connection, Device};
use anchorgate::cli::quickstart::pki::Authority;
use anchorgate::cli::quickstart::serve_lists;
use anchorgate::cli::quickstart::world::{Domain, Ports, World};
use anchorgate::runtime::random::jitter;
use anchorgate::trust::subject::SubjectField;
use anchorgate::x509::time::Timestamp;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use support::crl_maker::{extension, many, number, sequence, time, tlv};
use tokio_util::sync::CancellationToken;

/// Lists prepared for one phase, at most 400 MB each.
const LISTS: usize = 8;
/// Full handshakes and requests per second; together about a fifth of a processor.
const HANDSHAKES: u32 = 50;
const REQUESTS: u32 = 200;
/// Open connections for the requests.
const OPEN: usize = 20;

struct Plan {
    entries: u64,
    phases: usize,
    phase: Duration,
}

fn main() {
    // `cargo test --benches` runs this as a test with small sizes.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let entries = match std::env::var_os("ANCHORGATE_BENCH_10M") {
        _ if !is_bench => 20_000,
        Some(_) => 10_000_000,
        None => 1_000_000,
    };
    // A phase is as long as a refresh of the largest list, so that each refresh is sampled whole.
    let (phases, seconds) = if is_bench { (4, 12) } else { (1, 1) };
    let plan = Plan { entries, phases, phase: Duration::from_secs(seconds) };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(&plan));
}

async fn run(plan: &Plan) {
    let folder = tempfile::tempdir().expect("a folder");
    let now = Timestamp::from(SystemTime::now());
    let world = World::create(&folder.path().join("world"), Ports::free().expect("ports"), now);
    let world = world.expect("a world");
    tokio::spawn(serve_lists(&world, CancellationToken::new()).expect("a port"));
    let file = world.dir.join("anchorgate.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    let text = text.replace("min_interval = \"1s\"\nmax_interval = \"2s\"", QUIET);
    assert!(text.contains(QUIET), "the quickstart's settings have changed");
    std::fs::write(&file, text).expect("written");

    let domain = world.domains.iter().find(|d| d.field == SubjectField::SanDns).expect("one");
    let mut list = List::new(&domain.issuer, plan.entries, now);
    *list.page.lock().expect("no panic") = list.renew();
    let hashing = Instant::now();
    let _ = digest(&SHA256, list.page.lock().expect("no panic").as_ref());
    let hashing = hashing.elapsed();
    let at = serve(Arc::clone(&list.page));

    let gateway = Gateway::start(&file);
    create(&world, domain, at).await;
    served(&world, domain).await;
    drop(gateway);
    // The directory and the list are on the gateway's disk, and the list's server is down.
    let served_list = std::mem::take(&mut *list.page.lock().expect("no panic"));
    let begin = Instant::now();
    let gateway = Gateway::start(&file);
    served(&world, domain).await;
    let start = begin.elapsed();
    *list.page.lock().expect("no panic") = served_list;
    println!(
        "{} entries: serves {start:.2?} after its start while the list's server is down; {:.1} x SHA-256 of \
         the list ({hashing:.2?})",
        plan.entries,
        start.as_secs_f64() / hashing.as_secs_f64()
    );

    let (mut quiet, mut busy) = (Samples::default(), Samples::default());
    let (mut refreshes, mut refreshing) = (0, Duration::ZERO);
    for _ in 0..plan.phases {
        quiet.take(drive(&world, domain, plan.phase).await, plan.phase);
        // Signed before the phase: signing is not part of the gateway's work.
        let lists: Vec<Arc<Vec<u8>>> = (0..LISTS).map(|_| list.renew()).collect();
        let fetch = async {
            let begin = Instant::now();
            for der in &lists {
                *list.page.lock().expect("no panic") = Arc::clone(der);
                refresh(&world, at).await;
                refreshes += 1;
                if begin.elapsed() > plan.phase {
                    break;
                }
            }
            begin.elapsed()
        };
        let (samples, fetching) = tokio::join!(drive(&world, domain, plan.phase), fetch);
        refreshing += fetching;
        drop(lists);
        busy.take(samples, fetching);
    }
    let each = refreshing / refreshes;
    println!(
        "{refreshes} refreshes, {each:.2?} each, {:.1} x SHA-256",
        each.as_secs_f64() / hashing.as_secs_f64()
    );
    quiet.compare(&busy);
    drop(gateway);
}

/// Settings with which lists are fetched only on request.
const QUIET: &str =
    "min_interval = \"1h\"\nmax_interval = \"1h\"\nmax_bytes = 1073741824\ntimeout = \"10m\"";

/// The running program; killed when dropped.
struct Gateway(Child);

impl Gateway {
    fn start(file: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
        command.arg("run").arg("--config").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("started"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself; the measurement has failed then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A large list that is signed again for each new number.
struct List {
    key: EcdsaKeyPair,
    tbs: Vec<u8>,
    /// Offset of the last bytes of cRLNumber.
    number: usize,
    issued: u32,
    page: Page,
}

type Page = Arc<Mutex<Arc<Vec<u8>>>>;

const ECDSA_SHA256: &[u8] = &[0x30, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

impl List {
    fn new(issuer: &Authority, entries: u64, now: Timestamp) -> Self {
        let key = PrivateKeyDer::from_pem_slice(issuer.key_pem().as_bytes()).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der());
        // A number of eight bytes, of which the last four are replaced.
        let first = number(1 << 56);
        let extensions = tlv(0xa0, &tlv(0x30, &extension(&[0x55, 0x1d, 20], false, &first)));
        let tbs = sequence(&[
            &number(1),
            ECDSA_SHA256,
            issuer.certificate.subject.der(),
            &time(Timestamp(now.0 - 60)),
            &time(Timestamp(now.0 + 30 * 86_400)),
            &tlv(0x30, &many(0, entries)),
            &extensions,
        ]);
        let number = tbs.len() - 4;
        Self { key: key.expect("P-256"), tbs, number, issued: 0, page: Page::default() }
    }

    /// Signs the list under the next number.
    fn renew(&mut self) -> Arc<Vec<u8>> {
        self.issued += 1;
        self.tbs[self.number..].copy_from_slice(&self.issued.to_be_bytes());
        let signature = self.key.sign(&SystemRandom::new(), &self.tbs).expect("a signature");
        let signature = tlv(0x03, &[&[0], signature.as_ref()].concat());
        Arc::new(sequence(&[&self.tbs, ECDSA_SHA256, &signature]))
    }
}

/// Serves one page from a separate thread.  While the page is empty, connections are closed.
fn serve(page: Page) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let page = Arc::clone(&page.lock().expect("no panic"));
            if page.is_empty() {
                continue;
            }
            // A gateway that stops while it fetches is not an error.
            let _ = stream.and_then(|stream| answer(stream, &page));
        }
    });
    address
}

fn answer(mut stream: TcpStream, page: &[u8]) -> io::Result<()> {
    let _ = stream.read(&mut [0; 4096])?;
    let length = page.len();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")?;
    page.chunks(PIECE).try_for_each(|piece| stream.write_all(piece))
}

/// Bytes per write; a large write would occupy a processor for long.
const PIECE: usize = 32 * 1024;

fn large_list(at: SocketAddr) -> String {
    format!("http://{at}/large.crl")
}

/// Creates the configuration of `domain` with the list of its issuer at `at`.
async fn create(world: &World, domain: &Domain, at: SocketAddr) {
    let mut configuration = world.configuration(domain);
    let issuer = configuration["certificateAuthorities"][1].as_object_mut().expect("an issuer");
    issuer.insert("certificateRevocationListUrl".into(), large_list(at).into());
    issuer.remove("deltaCertificateRevocationListUrl");
    let url = format!(
        "http://{}/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations",
        world.ports.directory_http
    );
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let begin = Instant::now();
    loop {
        let request = client.post(&url).bearer_auth(&world.directory_token).json(&configuration);
        match request.send().await {
            Ok(answer) => return assert_eq!(answer.status(), 201),
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const PATIENCE: Duration = Duration::from_secs(120);

/// Makes the gateway fetch the large list.
async fn refresh(world: &World, at: SocketAddr) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{}/crl/refresh", world.ports.admin);
    let body = json!({ "address": large_list(at) });
    let request = client.post(url).bearer_auth(&world.admin_token);
    let answer = request.json(&body).send().await.expect("an answer");
    let status: Value = answer.json().await.expect("JSON");
    assert_eq!(status[0]["lastError"], Value::Null, "{status}");
}

/// A device without sessions to resume.
fn device(world: &World, domain: &Domain) -> Device {
    let identity = &domain.devices[0].identity;
    let ca = world.server_root.certificate_pem();
    Device::new(&ca, &identity.chain_pem, &identity.key_pem).expect("a device")
}

async fn token(connection: &mut Connection, id: &str) -> bool {
    connection.token(id).await.is_ok_and(|answer| answer.status == 200)
}

/// Waits until a device is served.
async fn served(world: &World, domain: &Domain) {
    let begin = Instant::now();
    let id = &domain.devices[0].subject_id;
    loop {
        if let Ok(mut connection) = device(world, domain).connect(world.ports.token).await
            && token(&mut connection, id).await
        {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "not served");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// For each request: its due time from the start of the phase, and the time from then to its completion.
#[derive(Default)]
struct Samples {
    handshakes: Vec<(Duration, Duration)>,
    requests: Vec<(Duration, Duration)>,
}

impl Samples {
    /// Adds the samples that were due before `end`.
    fn take(&mut self, other: Self, end: Duration) {
        let early = |(due, _): &(Duration, Duration)| *due < end;
        self.handshakes.extend(other.handshakes.into_iter().filter(early));
        self.requests.extend(other.requests.into_iter().filter(early));
    }

    fn compare(&self, busy: &Self) {
        let busy_of = [&busy.handshakes, &busy.requests];
        let of = [&self.handshakes, &self.requests];
        for ((what, quiet), busy) in ["handshake", "request"].iter().zip(of).zip(busy_of) {
            let sorted = |samples: &[(Duration, Duration)]| {
                let mut took: Vec<Duration> = samples.iter().map(|(_, took)| *took).collect();
                took.sort_unstable();
                took
            };
            let (quiet, busy) = (sorted(quiet), sorted(busy));
            for percent in [50, 99] {
                let at = |samples: &[Duration]| samples[(samples.len() - 1) * percent / 100];
                let (quiet, busy) = (at(&quiet), at(&busy));
                println!(
                    "{what} p{percent}: {:.2} x quiet ({busy:.2?} / {quiet:.2?})",
                    busy.as_secs_f64() / quiet.as_secs_f64()
                );
            }
        }
    }
}

/// Sends handshakes and requests at their rates for `phase`.
async fn drive(world: &World, domain: &Domain, phase: Duration) -> Samples {
    let id: Arc<str> = (*domain.devices[0].subject_id).into();
    let address = world.ports.token;
    let mut open = Vec::new();
    for _ in 0..OPEN {
        let mut connection = device(world, domain).connect(address).await.expect("connected");
        assert!(token(&mut connection, &id).await, "served");
        open.push(Arc::new(tokio::sync::Mutex::new(connection)));
    }
    let mut handshakes = tokio::task::JoinSet::new();
    let mut requests = tokio::task::JoinSet::new();
    let begin = tokio::time::Instant::now();
    for n in 0..HANDSHAKES * phase.as_secs() as u32 {
        let (device, id) = (device(world, domain), Arc::clone(&id));
        let due = begin + Duration::from_secs(1) / HANDSHAKES * n + jitter(JITTER);
        handshakes.spawn(async move {
            tokio::time::sleep_until(due).await;
            let mut connection = device.connect(address).await.expect("connected");
            assert!(token(&mut connection, &id).await, "served");
            (due - begin, due.elapsed())
        });
    }
    for n in 0..REQUESTS * phase.as_secs() as u32 {
        let (connection, id) = (Arc::clone(&open[n as usize % OPEN]), Arc::clone(&id));
        let due = begin + Duration::from_secs(1) / REQUESTS * n + jitter(JITTER);
        requests.spawn(async move {
            tokio::time::sleep_until(due).await;
            assert!(token(&mut *connection.lock().await, &id).await, "served");
            (due - begin, due.elapsed())
        });
    }
    Samples { handshakes: handshakes.join_all().await, requests: requests.join_all().await }
}

/// Spreads requests that would otherwise be sent at the same instant.
const JITTER: Duration = Duration::from_millis(5);
