//! Commands for the configuration of a running gateway: `config diff|reload`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::input::read_input;
use crate::cli::operator::{AdminArgs, request};
use crate::cli::terminal::text;

/// Limit in bytes on a configuration file.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Actions on the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show what a configuration file would change, and what needs a restart
    ///
    /// The running gateway compares the file with its configuration in force, and checks it.  Exit
    /// status 1 if the file has a problem.  Relative paths in it are relative to the folder of the gateway's
    /// own file, as if the file replaced it.
    Diff {
        /// The file, or `-` for standard input; the gateway's own file if absent
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Apply the gateway's configuration file, except for what needs a restart
    Reload(AdminArgs),
}

/// Runs `config …`.
///
/// # Errors
/// The gateway does not respond, or the file has a problem.
pub(super) async fn config(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    let (args, report) = match command {
        ConfigCommand::Diff { file, admin } => {
            let name = file.as_ref().map(|file| file.display().to_string());
            let toml = match file {
                Some(file) => {
                    let bytes = read_input(file, MAX_FILE)?;
                    let name = file.display().to_string();
                    Some(String::from_utf8(bytes).with_context(|| format!("{name}: not UTF-8"))?)
                }
                None => None,
            };
            let body = json!({ "toml": toml, "name": name });
            (admin, request(admin, Method::POST, "config/diff", Some(body)).await?)
        }
        ConfigCommand::Reload(args) => {
            (args, request(args, Method::POST, "config/reload", None).await?)
        }
    };
    if args.output().print(&report) {
        return Ok(ExitCode::SUCCESS);
    }
    let changes = report["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    changes.iter().for_each(show);
    if changes.is_empty() {
        println!("no change");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(change: &Value) {
    let needs_restart = change["needsRestart"] == json!(true);
    println!(
        "{}: {} -> {}{}",
        text(&change["key"]),
        text(&change["before"]),
        text(&change["after"]),
        if needs_restart { "  (needs a restart)" } else { "" }
    );
}
