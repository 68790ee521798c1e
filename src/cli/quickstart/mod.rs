//! `anchorgate quickstart`: a gateway with its PKI and directory in one process, without
//! configuration, and a demonstration.
//!
//! It creates a PKI and a directory and starts the real gateway on them.  After that it is only a
//! client: of the directory over HTTP, and of the gateway over TLS.
//!
//! # Use by tests
//! Tests and benches need the same environment as the demonstration, so these modules are public:
//!
//! | module | purpose |
//! |---|---|
//! | [`pki`] | authorities, and certificates with the names of each subject field |
//! | [`crl`] | signed base and delta revocation lists |
//! | [`world`] | trust domains on disk, with the configuration file of a gateway |
//! | [`client`] | a device: TLS connections with a client certificate, and token requests |
//!
//! They are part of the program and not of `tests/`, so that the program and its tests do not have
//! two implementations, and a change that breaks one is noticed by the other.  Nothing that serves
//! requests imports them.

pub mod client;
pub mod crl;
mod index;
pub mod pki;
mod settings;
mod steps;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use clap::Args;
use hyper::{Method, Request, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::cli::quickstart::pki::KeyKind;
use crate::cli::quickstart::steps::Steps;
use crate::cli::quickstart::world::{Ports, World};
use crate::config;
use crate::http::listen::{bind, serve_plain};
use crate::http::reply::{self, Reply};
use crate::http::serve::{Limits, RequestBody};
use crate::runtime::log;
use crate::tls::Resumption;

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
pub(super) struct QuickstartArgs {
    /// Directory for keys, lists, the directory's objects and the gateway's state.  It must be
    /// empty or contain an earlier quickstart, which is replaced
    #[arg(long, value_name = "DIR", default_value = "anchorgate-quickstart")]
    data_dir: PathBuf,
    /// Session tickets of the gateway, as `tls.resumption`. Without it, `1.2`, which works with every TLS
    /// library, also with wolfSSL as built by default, and `both` with `--pq`, which needs TLS 1.3
    #[arg(long, value_parser = Resumption::ALL.map(|(name, _)| name))]
    resumption: Option<String>,
    /// Stop after the demonstration: exit status 0 if every step passed, otherwise 1
    #[arg(long)]
    check: bool,
    /// Post-quantum: devices and their authorities have ML-DSA-44 keys
    #[arg(long)]
    pq: bool,
}

/// Warnings, except that of a limit on open files, which a demonstration does not reach.
const LOG_FILTER: &str = "warn,anchorgate::app::capacity=error";

/// Runs the quickstart.  Returns true if every step passed.
///
/// # Errors
/// The PKI cannot be created, or the gateway or a listener cannot be started.
pub(super) async fn run(args: &QuickstartArgs) -> anyhow::Result<bool> {
    let _ = log::start(LOG_FILTER, log::Format::Text, log::AuditWhenFull::Drop, None);
    let keys = if args.pq { KeyKind::MlDsa44 } else { KeyKind::P256 };
    let now = SystemTime::now().into();
    let world = World::create_with(keys, &args.data_dir, Ports::choose()?, now)?;
    let default = if args.pq { "both" } else { "1.2" };
    let resumption = args.resumption.as_deref().unwrap_or(default);
    world.write_settings(resumption)?;
    println!("anchorgate quickstart in {}\n", world.dir.display());

    let stop = CancellationToken::new();
    let crl_server = tokio::spawn(serve_lists(&world, stop.clone())?);
    let file = world.dir.join("anchorgate.toml");
    let config = config::load(&file)?;
    let app = App::start(config).await.context("the gateway did not start")?;

    let mut steps = Steps::new(&world, resumption)?;
    steps.all().await;
    let passed = steps.finish();
    world.write_index(steps.configuration_ids())?;
    if !args.check {
        println!("\nAs an operator:\n{}", world.operator_commands());
        println!(
            "\nServing until Ctrl-C.  {} has the addresses and files for clients.",
            world.dir.join(world::INDEX).display()
        );
        crate::cli::interrupted().await;
    }
    // The gateway fetches lists until it has stopped.
    app.stop().await;
    stop.cancel();
    let _ = crl_server.await;
    Ok(passed)
}

/// Serves the revocation lists of `world` over plain HTTP until `stop`.
///
/// # Errors
/// The address is in use.
pub fn serve_lists(
    world: &World,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let dir: Arc<Path> = world.dir.join("crl").into();
    let listener = bind(world.ports.crl)?;
    let handler = move |request: Request<RequestBody>| {
        let dir = Arc::clone(&dir);
        async move { serve_list(&dir, request.method(), request.uri().path()).await }
    };
    Ok(serve_plain(listener, Limits::default(), stop, handler))
}

/// Serves one file of the CRL directory.
async fn serve_list(dir: &Path, method: &Method, path: &str) -> Reply {
    if method != Method::GET {
        return reply::method_not_allowed("GET");
    }
    let name = path.trim_start_matches('/');
    // File names have only these characters.  Others could address a file outside the directory.
    let is_list_name = name.ends_with(".crl")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !name.contains("..");
    if !is_list_name {
        return reply::empty(StatusCode::NOT_FOUND);
    }
    match tokio::fs::read(dir.join(name)).await {
        Ok(list) => reply::typed(StatusCode::OK, "application/pkix-crl", list),
        Err(_) => reply::empty(StatusCode::NOT_FOUND),
    }
}
