//! `support-bundle`: one document with everything that a colleague needs to look at a problem.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::about;
use crate::cli::gateway::Gateway;
use crate::cli::terminal::json_text;
use crate::config;
use crate::x509::time::Timestamp;

/// Arguments of `support-bundle`.
#[derive(Debug, Args)]
pub(super) struct SupportArgs {
    /// File to write; it must not exist
    #[arg(value_name = "FILE.json")]
    file: PathBuf,
    /// Configuration file, whose secrets are left out
    #[arg(long, short, value_name = "FILE", env = "ANCHORGATE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    gateway: Gateway,
}

/// Runs the command.  A part that cannot be had is replaced by the reason.
///
/// # Errors
/// The file cannot be written.
pub(super) async fn bundle(args: &SupportArgs) -> anyhow::Result<ExitCode> {
    let mut parts = Map::new();
    parts.insert("created".into(), Timestamp::from(SystemTime::now()).to_string().into());
    parts.insert("build".into(), about::build());
    if let Some(path) = &args.config {
        let shown = config::redacted(path).map(|values| json!(values));
        parts.insert("configuration".into(), shown.unwrap_or_else(|error| reason(&error)));
    }
    for (name, path) in [("ready", "readyz"), ("status", "status.json")] {
        let part = args.gateway.request(Method::GET, path, None).await;
        parts.insert(name.into(), part.unwrap_or_else(|error| reason(&format!("{error:#}"))));
    }
    let metrics = args.gateway.text("metrics").await.map(Value::from);
    parts.insert("metrics".into(), metrics.unwrap_or_else(|error| reason(&format!("{error:#}"))));

    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&args.file);
    let name = args.file.display();
    let mut file = file.with_context(|| format!("cannot create {name}"))?;
    // A colleague may print the file.
    let text = format!("{:#}", Value::Object(parts));
    let written = file.write_all(json_text(&text).as_bytes());
    written.with_context(|| format!("cannot write {name}"))?;
    println!(
        "written: {name}. It contains names of devices' authorities and addresses, no secrets"
    );
    Ok(ExitCode::SUCCESS)
}

fn reason(error: &impl ToString) -> Value {
    json!({ "missing": error.to_string() })
}
