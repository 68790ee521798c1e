//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod verify;

/// Exit code for a command line that cannot be understood (`EX_USAGE`).
const USAGE: u8 = 64;

/// mTLS OAuth 2.0 token-endpoint gateway for IoT fleets.
#[derive(Debug, Parser)]
#[command(name = "anchorgate", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(verify::Args),
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Verify(args) => verify::run(&args),
    }
}
