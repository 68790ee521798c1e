//! `anchorgate verify`: offline use of the judge that serves traffic.

use std::path::PathBuf;
use std::process::ExitCode;

mod batch;
mod live;
mod request;

use crate::admin::answer::Answer;
use crate::cli::exit;
use crate::cli::gateway::Gateway;
use crate::cli::terminal::json_text;
use request::Request;

/// Judge a certificate chain as the gateway does, offline or under the trust of the running one
///
/// Exit status 0: accepted.  1: refused.  2: unusable input.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  anchorgate directory list --output json > configurations.json
  anchorgate verify --directory configurations.json --chain device.pem --crl ca.crl --json

With --batch, each line of standard input is a JSON object
  {\"id\":…,\"directory\":{…},\"devices\":{…},\"chainPem\":\"…\",\"crlsBase64\":[…],\"at\":\"…\",\"crlPolicy\":\"…\"}
and results in one line of output, at once and in order:
  {\"id\":…,\"decision\":\"accept\"|\"reject\"|\"error\",\"configurationId\",\"subjectId\",\"reason\",\"detail\",\"path\",\"crls\"}")]
pub(super) struct Args {
    /// Trust configurations: the output of `directory list --output json`, or a Graph list response,
    /// {"value":[…]}.  Without it, the running gateway judges under its trust in force
    #[arg(long, value_name = "FILE.json")]
    directory: Option<PathBuf>,
    #[command(flatten)]
    gateway: Gateway,
    /// Chain to judge, PEM, leaf first; `-` is standard input
    #[arg(long, value_name = "CHAIN.pem", required_unless_present = "batch")]
    chain: Option<PathBuf>,
    /// Revocation list, DER or PEM, matched to its authority by issuer and key; repeatable
    #[arg(long, value_name = "FILE", requires = "directory")]
    crl: Vec<PathBuf>,
    /// Registered devices: the output of `directory device list --output json`, or a Graph list response,
    /// {"value":[…]}, with physicalIds and accountEnabled.  With it, a subject ID that is not registered and enabled is refused.
    /// Without it, every certificate of the authorities is a device
    #[arg(long, value_name = "FILE.json", requires = "directory")]
    devices: Option<PathBuf>,
    /// Time of the decision, such as 2026-11-21T08:00:00Z [default: now]
    #[arg(long, value_name = "RFC3339")]
    at: Option<String>,
    /// Use of revocation lists [default: require for an authority with an address, else off]
    #[arg(long, value_name = "POLICY", value_parser = ["require", "if-available", "off"], requires = "directory")]
    crl_policy: Option<String>,
    /// Configuration to judge under, if several accept the chain
    #[arg(long, value_name = "ID", requires = "directory")]
    configuration: Option<String>,
    /// Print JSON, including every path that was tried
    #[arg(long)]
    json: bool,
    /// Judge one JSON object per line of standard input
    #[arg(long, conflicts_with_all = ["directory", "devices", "chain", "crl", "at", "crl_policy", "configuration", "json"])]
    batch: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> ExitCode {
    if args.batch {
        return batch::run(std::io::stdin().lock(), std::io::stdout().lock());
    }
    if args.directory.is_none() {
        return live::run(args);
    }
    let answer = match Request::from_files(args).and_then(|request| request.judge(None, true)) {
        Ok(answer) => answer,
        Err(unusable) => {
            eprintln!("anchorgate verify: {unusable}");
            return exit::UNUSABLE.into();
        }
    };
    if args.json {
        println!("{}", json_text(&answer.to_json(None).to_string()));
    } else {
        print!("{}", answer.to_text());
    }
    exit_code(&answer)
}

fn exit_code(answer: &Answer) -> ExitCode {
    if answer.is_accept() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
