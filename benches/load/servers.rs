//! The servers that the load benches compare, as processes with the same certificates.

#![allow(dead_code, reason = "each bench uses a part of the servers")]

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anchorgate::cli::quickstart::world::{Domain, World};
use tokio::time::sleep;

/// A process, stopped when dropped.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Returns a command for `program`, on the first processor only if `is_pinned`.
pub fn command(program: &str, is_pinned: bool) -> Command {
    let mut command = match is_pinned {
        true => Command::new("taskset"),
        false => Command::new(program),
    };
    if is_pinned {
        command.args(["-c", "0", program]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts the gateway of `world`: `ANCHORGATE_BENCH_PROGRAM`, to measure another build, or this one.
pub fn start_gateway(world: &World, is_pinned: bool) -> Server {
    let program = std::env::var("ANCHORGATE_BENCH_PROGRAM");
    let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_anchorgate").to_owned());
    let mut command = command(&program, is_pinned);
    command.args(["run", "--config"]).arg(world.dir.join("anchorgate.toml"));
    Server(command.spawn().expect("the program runs"))
}

/// Starts the gateway of `world`, with a configuration for `domain`.
pub async fn gateway(world: &World, domain: &Domain, is_pinned: bool) -> Server {
    let file = world.dir.join("anchorgate.toml");
    let text = fs::read_to_string(&file).expect("written");
    fs::write(&file, text + "\n[log]\nfilter = \"error\"\n").expect("written");
    let server = start_gateway(world, is_pinned);
    let url = format!(
        "http://{}/beta/directory/certificateAuthorities/mutualTlsOauthConfigurations",
        world.ports.directory_http
    );
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let create = || {
        client
            .post(&url)
            .bearer_auth(&world.directory_token)
            .json(&world.configuration(domain))
            .send()
    };
    while !create().await.is_ok_and(|answer| answer.status() == 201) {
        sleep(Duration::from_millis(50)).await;
    }
    server
}

/// Writes the files of another server with the certificates of `world`, and returns their folder.
fn folder(world: &World, domain: &Domain, name: &str) -> PathBuf {
    let folder = world.dir.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    for (file, text) in [
        ("server.pem", world.server.chain_pem.clone()),
        ("server.key", world.server.key_pem.clone()),
        ("all.pem", world.server.chain_pem.clone() + &world.server.key_pem),
        ("root.pem", domain.root.certificate_pem()),
    ] {
        fs::write(folder.join(file), text).expect("written");
    }
    folder
}

/// Starts nginx with a fixed response; `None` if it is not installed.
pub fn nginx(
    world: &World,
    domain: &Domain,
    address: SocketAddr,
    is_pinned: bool,
) -> Option<Server> {
    Command::new("nginx").arg("-v").stderr(Stdio::null()).status().ok()?;
    let folder = folder(world, domain, "nginx");
    let text = format!(
        "daemon off; master_process off; error_log stderr crit; pid {0}/pid; worker_rlimit_nofile 20000;\n\
         events {{ worker_connections 10000; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; server {{ listen {address} ssl backlog=4096;\n\
         ssl_certificate {0}/server.pem; ssl_certificate_key {0}/server.key;\n\
         ssl_client_certificate {0}/root.pem; ssl_verify_client on; ssl_verify_depth 3;\n\
         location / {{ default_type application/json; return 200 '{{}}'; }} }} }}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text).expect("written");
    let mut command = command("nginx", is_pinned);
    command.arg("-p").arg(&folder).arg("-c").arg(&file);
    command.spawn().ok().map(Server)
}

/// Starts HAProxy with a fixed response; `None` if it is not installed.
pub fn haproxy(
    world: &World,
    domain: &Domain,
    address: SocketAddr,
    is_pinned: bool,
) -> Option<Server> {
    Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().ok()?;
    let folder = folder(world, domain, "haproxy");
    let text = format!(
        "global\n nbthread 1\n maxconn 9000\ndefaults\n mode http\n timeout client 60s\n\
         \x20timeout connect 5s\n timeout server 60s\nfrontend token\n\
         \x20bind {address} ssl crt {0}/all.pem ca-file {0}/root.pem verify required\n\
         \x20http-request return status 200 content-type application/json string \"{{}}\"\n",
        folder.display()
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text).expect("written");
    let mut command = command("haproxy", is_pinned);
    command.arg("-db").arg("-f").arg(&file);
    command.spawn().ok().map(Server)
}

/// Starts the server of `plain.rs`: the present program with another first argument.
pub fn plain(world: &World, domain: &Domain, address: SocketAddr, is_pinned: bool) -> Server {
    let folder = folder(world, domain, "plain");
    let program = std::env::current_exe().expect("its path");
    let mut command = command(program.to_str().expect("a path in UTF-8"), is_pinned);
    command.arg("plain").arg(folder).arg(address.to_string());
    Server(command.spawn().expect("the program runs"))
}
