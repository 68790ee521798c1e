//! `directory backup` and `directory restore`: copies of a gateway's own directory.

use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::gateway::Gateway;
use crate::cli::output::Output;
use crate::cli::terminal::text;
use crate::config::load;
use crate::runtime::lock_file::DirectoryLock;
use crate::store::{Store, USE_PG_DUMP};

/// Arguments of `directory backup`.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// File to write; it must not exist. A running gateway writes it, so that it needs the right to
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `directory restore`.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    /// The backup. A running gateway reads it, so that it needs the right to
    file: PathBuf,
    /// Replace the directory also by the backup of another one
    #[arg(long)]
    accept_other_directory: bool,
    #[command(flatten)]
    place: Place,
}

/// The directory: that of a running gateway, or of one that is stopped.
#[derive(Debug, Args)]
struct Place {
    /// The gateway is stopped: use the directory of this configuration file
    #[arg(long, value_name = "CONFIG")]
    offline: Option<PathBuf>,
    #[command(flatten)]
    gateway: Gateway,
}

/// Runs `directory backup`.
///
/// # Errors
/// The gateway does not respond, or the file cannot be written.
pub(super) async fn back_up(args: &BackupArgs, output: Output) -> anyhow::Result<ExitCode> {
    let file = absolute(&args.file)?;
    let done = match &args.place.offline {
        Some(config) => {
            let (store, _lock) = stopped(config)?;
            json!(Store::open_existing(&store).await?.backup(file).await?)
        }
        None => ask(&args.place.gateway, "directory/backup", json!({ "file": file })).await?,
    };
    show("backed up", &done, output);
    Ok(ExitCode::SUCCESS)
}

/// Runs `directory restore`.
///
/// # Errors
/// The gateway does not respond, or the backup is not valid.
pub(super) async fn restore(args: &RestoreArgs, output: Output) -> anyhow::Result<ExitCode> {
    let file = absolute(&args.file)?;
    let done = match &args.place.offline {
        Some(config) => {
            let (store, _lock) = stopped(config)?;
            json!(Store::restore_file(&store, file, args.accept_other_directory).await?)
        }
        None => {
            let accept = args.accept_other_directory;
            let body = json!({ "file": file, "acceptOtherDirectory": accept });
            ask(&args.place.gateway, "directory/restore", body).await?
        }
    };
    show("restored", &done, output);
    Ok(ExitCode::SUCCESS)
}

/// Starts the work, and waits for its end.
async fn ask(gateway: &Gateway, path: &str, body: Value) -> anyhow::Result<Value> {
    let mut done = gateway.request(Method::POST, path, Some(body)).await?;
    while done["running"] == json!(true) {
        let body = json!({ "id": done["id"] });
        done = gateway.request(Method::POST, "directory/wait", Some(body)).await?;
    }
    Ok(done)
}

/// Returns the file of the store of a gateway that does not run, and keeps it from starting meanwhile.
fn stopped(config: &Path) -> anyhow::Result<(PathBuf, DirectoryLock)> {
    let config = load(config)?;
    let Some(part) = &config.directory else {
        bail!("the configuration has no `[directory]`: this gateway has no directory of its own");
    };
    if part.database.is_some() {
        bail!(USE_PG_DUMP);
    }
    let lock = DirectoryLock::acquire(&config.data_dir)
        .context("data_dir; leave --offline out to ask the running gateway")?;
    Ok((config.data_dir.join("directory.redb"), lock))
}

fn show(done: &str, backup: &Value, output: Output) {
    if output.print(backup) {
        return;
    }
    println!(
        "{done}: {} objects, version {}, created {}\nsha256 {}",
        backup["objects"],
        backup["version"],
        text(&backup["created"]),
        text(&backup["sha256"])
    );
}
