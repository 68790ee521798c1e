//! `anchorgate verify`: the judge that serves traffic, asked offline.

use std::path::PathBuf;
use std::process::ExitCode;

mod batch;
mod live;
mod request;

use crate::admin::answer::Answer;
use crate::cli::gateway::Gateway;
use request::Request;

/// Exit code for input that cannot be used.
const UNUSABLE: u8 = 2;

/// Judge a certificate chain as the gateway does: offline, or under what the running one has in force
///
/// Exit code 0: accepted.  1: refused.  2: the input cannot be used.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  anchorgate verify --directory configurations.json --chain device.pem --crl ca.crl --json

With --batch, every line of standard input is one JSON object
  {\"id\":…,\"directory\":{…},\"devices\":{…},\"chainPem\":\"…\",\"crlsBase64\":[…],\"at\":\"…\",\"crlPolicy\":\"…\"}
and gives one line of output, at once and in order:
  {\"id\":…,\"decision\":\"accept\"|\"reject\"|\"error\",\"configurationId\",\"subjectId\",\"reason\",\"detail\",\"path\",\"crls\"}")]
pub struct Args {
    /// The trust configurations: a Graph list answer, {"value":[…]}.  Without it the running gateway is
    /// asked, and judges under what it has in force
    #[arg(long, value_name = "FILE.json")]
    directory: Option<PathBuf>,
    /// The running gateway, where no directory is given
    #[command(flatten)]
    gateway: Gateway,
    /// The chain to judge as PEM, leaf first; `-` is standard input
    #[arg(long, value_name = "CHAIN.pem", required_unless_present = "batch")]
    chain: Option<PathBuf>,
    /// A revocation list, DER or PEM; matched to its authority by issuer and key
    #[arg(long, value_name = "FILE", requires = "directory")]
    crl: Vec<PathBuf>,
    /// The devices that are registered: a Graph list answer, {"value":[…]}, with physicalIds and
    /// accountEnabled.  With it a subject that is not among them, enabled, is refused; without it every
    /// certificate under the authorities is a device
    #[arg(long, value_name = "FILE.json", requires = "directory")]
    devices: Option<PathBuf>,
    /// The time to judge at, such as 2026-11-21T08:00:00Z [default: now]
    #[arg(long, value_name = "RFC3339")]
    at: Option<String>,
    /// What revocation lists are needed [default: require for an authority with an address, else off]
    #[arg(long, value_name = "POLICY", value_parser = ["require", "if-available", "off"], requires = "directory")]
    crl_policy: Option<String>,
    /// The configuration to judge under, where several accept the chain
    #[arg(long, value_name = "ID", requires = "directory")]
    configuration: Option<String>,
    /// Print JSON, with every path that was tried
    #[arg(long)]
    json: bool,
    /// Judge one JSON object a line from standard input
    #[arg(long, conflicts_with_all = ["directory", "devices", "chain", "crl", "at", "crl_policy", "configuration", "json"])]
    batch: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
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
            return ExitCode::from(UNUSABLE);
        }
    };
    if args.json {
        println!("{}", answer.to_json(None));
    } else {
        print!("{}", answer.to_text());
    }
    exit_code(&answer)
}

fn exit_code(answer: &Answer) -> ExitCode {
    if answer.is_accept() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
