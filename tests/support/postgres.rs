//! A PostgreSQL server started from the installed programs, on a Unix socket in its own folder.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anchorgate::store::Database;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, query};
use tempfile::TempDir;

/// User and group `nobody`.  PostgreSQL does not run as root, so it runs as this user if the tests do.
const NOBODY: u32 = 65_534;

/// A running server; it stops when dropped.
pub struct Cluster {
    programs: PathBuf,
    folder: TempDir,
    settings: String,
    databases: AtomicU32,
}

impl Cluster {
    /// The server that the tests of this process share; the last of them stops it.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start(""));
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    /// Starts a server with `settings` (`-c name=value …`) in addition to the minimum.
    pub fn start(settings: &str) -> Self {
        let cluster = Self::made(settings.to_owned());
        cluster.resume();
        cluster
    }

    /// Starts a server that also listens on `address`, a loopback address of its own.  It accepts only TLS
    /// there, with this certificate and key.
    pub fn start_over_tls(address: IpAddr, certificate_pem: &str, key_pem: &str) -> Self {
        let files = "-c ssl=on -c ssl_cert_file=server.pem -c ssl_key_file=server.key";
        let cluster = Self::made(format!("-c listen_addresses={address} {files}"));
        for (name, text) in [("server.pem", certificate_pem), ("server.key", key_pem)] {
            let path = cluster.data().join(name);
            fs::write(&path, text).expect("written");
            cluster.own(&path, 0o600);
        }
        let rules = cluster.data().join("pg_hba.conf");
        let only = "local all all trust\nhostssl all all 127.0.0.0/8 trust\n";
        fs::write(rules, only).expect("written");
        cluster.resume();
        cluster
    }

    fn made(settings: String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = Self { programs: programs(), folder, settings, databases: AtomicU32::new(0) };
        fs::create_dir(cluster.data()).expect("a folder");
        cluster.own(cluster.folder.path(), 0o700);
        cluster.own(&cluster.data(), 0o700);
        let data = cluster.data();
        let data = data.to_str().expect("UTF-8");
        let made = ["-D", data, "-U", "hub", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"];
        run(cluster.program("initdb").args(made));
        cluster
    }

    /// Makes the server's user the owner of a file.
    fn own(&self, path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
        if is_root() {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("its owner");
        }
    }

    /// Starts a stopped server and waits until it serves.
    pub fn resume(&self) {
        let folder = self.folder.path().display();
        let options = format!("-c listen_addresses='' -k {folder} {}", self.settings);
        let log = self.folder.path().join("log");
        run(self.control("start").args(["-o", &options, "-l"]).arg(log));
    }

    /// Restarts the server in recovery, as a standby is.
    pub fn restart_as_standby(&self) {
        run(self.control("stop").args(["-m", "fast"]));
        fs::write(self.data().join("standby.signal"), "").expect("written");
        self.resume();
    }

    /// Stops at once and without a checkpoint, like a crash.
    pub fn crash(&self) {
        run(self.control("stop").args(["-m", "immediate"]));
    }

    /// Creates a database and returns its URL.
    pub async fn database(&self) -> String {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let options: PgConnectOptions = self.url("postgres").parse().expect("a URL");
        let mut connection = options.connect().await.expect("a connection");
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        query(create).execute(&mut connection).await.expect("a database");
        connection.close().await.expect("closed");
        self.url(&name)
    }

    /// Runs statements in a database of [`Cluster::database`].
    pub async fn execute(url: &str, statements: &[&str]) {
        let options: PgConnectOptions = url.parse().expect("a URL");
        let mut connection = options.connect().await.expect("a connection");
        for statement in statements {
            let statement = AssertSqlSafe((*statement).to_owned());
            query(statement).execute(&mut connection).await.expect("executed");
        }
        connection.close().await.expect("closed");
    }

    /// Starts PgBouncer in front of this server, in `mode`, and returns its process and the URL of the
    /// database there.
    pub fn pooler(&self, url: &str, mode: &str) -> (Pooler, String) {
        let folder = self.folder.path();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("bound").port();
        drop(socket);
        let settings = format!(
            "[databases]\n* = host={0} user=hub\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             logfile = {0}/pooler.log\nmax_client_conn = 50\ndefault_pool_size = 20\n\
             ignore_startup_parameters = extra_float_digits,IntervalStyle\n",
            folder.display()
        );
        let file = folder.join(format!("pooler-{mode}.ini"));
        fs::write(&file, settings).expect("written");
        self.own(&file, 0o600);
        let mut command = Command::new("pgbouncer");
        command.current_dir(folder).arg("-q").arg(&file);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let process =
            command.spawn().expect("PgBouncer (package pgbouncer) is needed by this test");
        let pooler = Pooler(process);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let name = url.trim_start_matches("postgres:///").split('?').next().expect("a name");
        (pooler, format!("postgres://hub@127.0.0.1:{port}/{name}"))
    }

    fn url(&self, name: &str) -> String {
        format!("postgres:///{name}?user=hub&host={}", self.folder.path().display())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn control(&self, action: &str) -> Command {
        let mut command = self.program("pg_ctl");
        command.arg(action).args(["-w", "-s", "-t", "60", "-D"]).arg(self.data());
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

/// A running PgBouncer; killed when dropped.
pub struct Pooler(std::process::Child);

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.control("stop").args(["-m", "immediate"]).output();
    }
}

pub fn database(url: &str) -> Database {
    Database::parse(url).expect("a database")
}

fn run(command: &mut Command) {
    // The output goes to files or nowhere: the server keeps inherited descriptors open.
    let status = command.stdout(std::process::Stdio::null()).status().expect("it runs");
    assert!(status.success(), "{command:?}: {status}");
}

/// The folder of PostgreSQL's programs: Debian keeps them out of the path.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    std::env::split_paths(&path)
        .chain(debian.map(|version| version.path().join("bin")))
        .find(|folder| ["initdb", "pg_ctl", "postgres"].iter().all(|p| folder.join(p).is_file()))
        .expect("PostgreSQL's server (package postgresql) is needed by this test")
}

fn is_root() -> bool {
    fs::metadata(Path::new("/proc/self")).expect("Linux's /proc").uid() == 0
}
