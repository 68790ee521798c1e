//! `anchorgate quickstart`: everything in one process with nothing to configure, and the whole job
//! shown from the outside.
//!
//! It makes a PKI and a directory, starts the real gateway on them, and then is nothing but a client:
//! of the directory over HTTP, of the gateway over TLS.

pub mod client;
pub mod crl;
pub mod pki;
mod steps;
pub mod world;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use clap::Args;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::cli::quickstart::steps::Steps;
use crate::cli::quickstart::world::{Ports, World};
use crate::config;
use crate::http::listen::{bind, serve_plain};
use crate::http::reply::{self, Reply};
use crate::http::serve::Limits;
use crate::runtime::log;

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// Where to put keys, lists, the directory and the gateway's state.  Must be empty or hold an
    /// earlier quickstart, which is then made anew
    #[arg(long, value_name = "DIR", default_value = "anchorgate-quickstart")]
    data_dir: PathBuf,
    /// Stop after the demonstration: exit status 0 if every step held, 1 otherwise
    #[arg(long)]
    check: bool,
}

/// Runs the quickstart.  True when every step held.
///
/// # Errors
/// The PKI, the gateway or a listener could not be made.
pub async fn run(args: &QuickstartArgs) -> anyhow::Result<bool> {
    let _ = log::start("warn", log::Format::Text);
    let world = World::create(&args.data_dir, Ports::choose()?, SystemTime::now().into())?;
    println!("anchorgate quickstart in {}\n", world.dir.display());

    let stop = CancellationToken::new();
    let crl_server = tokio::spawn(serve_lists(&world, stop.clone())?);
    let file = world.dir.join("anchorgate.toml");
    let config = config::load(&file).map_err(|e| anyhow::anyhow!("{e}"))?;
    let app = App::start(config).await.context("the gateway did not start")?;

    let mut steps = Steps::new(&world)?;
    steps.all().await;
    let held = steps.finish();
    world.write_index(steps.configuration_ids())?;
    if !args.check {
        println!(
            "\nServing until Ctrl-C.  {} tells clients where everything is.",
            world.dir.join(world::INDEX).display()
        );
        crate::cli::interrupted().await;
    }
    stop.cancel();
    app.stop().await;
    let _ = crl_server.await;
    Ok(held)
}

/// The CRL server of `world`: plain HTTP, as CRLs are fetched, until `stop`.
///
/// # Errors
/// Its address is taken.
pub fn serve_lists(
    world: &World,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let dir: Arc<Path> = world.dir.join("crl").into();
    let listener = bind(world.ports.crl)?;
    let handler = move |request: Request<Incoming>| {
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
    // Names are ours: anything that could leave the directory is not one of them.
    let is_ours = name.ends_with(".crl")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !name.contains("..");
    if !is_ours {
        return reply::empty(StatusCode::NOT_FOUND);
    }
    match tokio::fs::read(dir.join(name)).await {
        Ok(list) => reply::typed(StatusCode::OK, "application/pkix-crl", list),
        Err(_) => reply::empty(StatusCode::NOT_FOUND),
    }
}
