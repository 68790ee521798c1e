//! Rank 7: the commands.

/// As the standard one, but for a reader that goes away, as `| head` does: that ends the program without
/// a word, where the standard one panics.
macro_rules! println {
    ($($text:tt)*) => { $crate::cli::print(format_args!("{}\n", format_args!($($text)*))) };
}
/// As the standard one, with the same exception.
macro_rules! print {
    ($($text:tt)*) => { $crate::cli::print(format_args!($($text)*)) };
}

pub mod crl;
pub mod directory;
pub mod gateway;
pub mod operator;
pub mod quickstart;
pub mod verify;

use std::fmt;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::app::App;
use crate::cli::directory::DirectoryArgs;
use crate::cli::operator::{CrlCommand, ReadyArgs, TrustCommand};
use crate::cli::quickstart::QuickstartArgs;
use crate::config::{self, Config};
use crate::keyring;
use crate::runtime::log;
use crate::tls;

/// Exit codes, beside 0 and `verify`'s own (sysexits.h).
mod exit {
    pub(super) const FAILURE: u8 = 1;
    pub(super) const USAGE: u8 = 64;
    pub(super) const CONFIG: u8 = 78;
    /// As a shell tells of those that SIGPIPE has ended.
    pub(super) const NO_READER: u8 = 141;
}

/// mTLS OAuth 2.0 token-endpoint gateway for IoT fleets.
///
/// Devices authenticate with client certificates that chain to trust anchors synced from a Microsoft
/// Graph directory, and get short-lived access tokens bound to those certificates (RFC 8705).
#[derive(Debug, Parser)]
#[command(name = "anchorgate", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 done; 1 failed (verify: refused); 2 verify: unusable input; \
    64 wrong usage; 78 wrong configuration."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C, then finish the requests in flight
    ///
    /// SIGHUP makes it look at once at the files of its certificate and keys, which it otherwise does
    /// every few seconds.
    Run {
        /// The configuration file (TOML); README has the table of its keys
        #[arg(long, short, value_name = "FILE", env = "ANCHORGATE_CONFIG")]
        config: PathBuf,
    },
    /// Check a configuration file and tell every problem at once; then that its key files can be used
    CheckConfig {
        /// The configuration file (TOML)
        #[arg(long, short, value_name = "FILE", env = "ANCHORGATE_CONFIG")]
        config: PathBuf,
    },
    /// Start everything on this machine with nothing to configure, and show the whole job
    ///
    /// Makes a PKI, a directory and revocation lists, starts the real gateway on them, and then plays
    /// administrator and device: tokens for each way to name a device, a revocation that reaches an
    /// open connection, an anchor taken out and put back.
    Quickstart(QuickstartArgs),
    Verify(verify::Args),
    /// Ask whether the running gateway is ready: exit status 0 if it is
    Ready(ReadyArgs),
    /// See, refresh or approve the trust of the running gateway
    #[command(subcommand)]
    Trust(TrustCommand),
    /// See or refresh the revocation lists of the running gateway, or look into a list
    #[command(subcommand)]
    Crl(CrlCommand),
    Directory(Box<DirectoryArgs>),
    /// Print the version
    Version,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run { config } => with_config(&config, |config| block_on(serve(config))),
        Command::CheckConfig { config } => with_config(&config, |config| check_keys(&config)),
        Command::Quickstart(args) => block_on(async move {
            match quickstart::run(&args).await {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => exit::FAILURE.into(),
                Err(error) => failed(&error),
            }
        }),
        Command::Verify(args) => verify::run(&args),
        Command::Ready(args) => block_on(async move { exit_code(operator::ready(&args).await) }),
        Command::Trust(command) => {
            block_on(async move { exit_code(operator::trust(&command).await) })
        }
        Command::Crl(command) => block_on(async move { exit_code(operator::crl(&command).await) }),
        Command::Directory(args) => {
            block_on(async move { exit_code(directory::directory(&args).await) })
        }
        Command::Version => {
            println!("anchorgate {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}

fn with_config(path: &Path, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match config::load(path) {
        Ok(config) => then(config),
        Err(faults) => {
            eprintln!("{faults}");
            exit::CONFIG.into()
        }
    }
}

/// The last part of `check-config`: the key files can be used.  Nothing is made.
fn check_keys(config: &Config) -> ExitCode {
    let keyring = &config.keyring;
    let made_at_the_start = keyring.make_signing_key && !keyring.signing_key.exists();
    let used = keyring::identity(keyring, &tls::provider()).and_then(|_| match made_at_the_start {
        true => Ok(()),
        false => keyring::signing_keys(keyring).map(|_| ()),
    });
    match used {
        Ok(()) => {
            println!("no problem found");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            exit::CONFIG.into()
        }
    }
}

async fn serve(config: Config) -> ExitCode {
    if let Err(error) = log::start(&config.log_filter, config.log_format) {
        eprintln!("log.filter: {error}");
        return exit::CONFIG.into();
    }
    // Before anything runs: a hangup that nobody expects ends the process.
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => return failed(&error.into()),
    };
    match App::start(config).await {
        Ok(app) => {
            let mut interrupted = std::pin::pin!(interrupted());
            loop {
                tokio::select! {
                    () = interrupted.as_mut() => break,
                    () = app.failed() => break,
                    _ = hangups.recv() => app.reload(),
                }
            }
            info!("stopping: requests in flight are finished");
            if app.stop().await { ExitCode::SUCCESS } else { exit::FAILURE.into() }
        }
        Err(error) => {
            error!("{error:#}");
            failed(&error)
        }
    }
}

/// Waits for SIGTERM or Ctrl-C.
pub(crate) async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        },
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

pub(crate) fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => failed(&error.into()),
    }
}

/// Writes to the standard output.
fn print(text: fmt::Arguments<'_>) {
    let mut out = stdout().lock();
    if out.write_fmt(text).and_then(|()| out.flush()).is_err() {
        std::process::exit(exit::NO_READER.into());
    }
}

fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("anchorgate: {error:#}");
    if error.is::<directory::Usage>() { exit::USAGE.into() } else { exit::FAILURE.into() }
}
