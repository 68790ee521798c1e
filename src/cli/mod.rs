//! The commands.

#[macro_use]
mod terminal;

mod about;
mod arguments;
mod audit;
mod check;
mod config;
mod crl;
mod directory;
mod doctor;
mod gateway;
mod input;
mod keys;
mod operator;
mod output;
pub mod quickstart;
mod run;
mod support;
mod trust_actions;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::about::{CompletionsArgs, ManArgs, VersionArgs};
use crate::cli::audit::AuditCommand;
use crate::cli::config::ConfigCommand;
use crate::cli::directory::DirectoryArgs;
use crate::cli::doctor::DoctorArgs;
use crate::cli::keys::KeysCommand;
use crate::cli::operator::{CrlCommand, ReadyArgs, TrustCommand};
use crate::cli::quickstart::QuickstartArgs;
use crate::cli::support::SupportArgs;
use crate::cli::terminal::one_line;
use crate::config::reference::{self, Entry};
use crate::config::{Config, closest, load};
use crate::runtime::audit::SCHEMA;
use crate::runtime::secret_files::FileModes;

/// Exit codes besides 0 (sysexits.h).  The README has the table.
mod exit {
    pub(super) const FAILURE: u8 = 1;
    /// Input of `verify` or `crl inspect` is not usable.
    pub(super) const UNUSABLE: u8 = 2;
    pub(super) const USAGE: u8 = 64;
    pub(super) const CONFIG: u8 = 78;
    /// The code that a shell reports for a process that `signal` ended.
    pub(super) fn signalled(signal: tokio::signal::unix::SignalKind) -> u8 {
        128_u8.saturating_add(u8::try_from(signal.as_raw_value()).unwrap_or(u8::MAX))
    }
    /// The code that a shell reports for a process that SIGPIPE ended.
    pub(super) const NO_READER: u8 = 141;
}

/// mTLS OAuth 2.0 token-endpoint gateway for IoT fleets.
///
/// Devices authenticate with client certificates that chain to trust anchors synced from a
/// Microsoft Graph directory, and obtain short-lived access tokens bound to those certificates (RFC
/// 8705).
#[derive(Debug, Parser)]
#[command(name = "anchorgate", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit status: 0 done; 1 failed (verify: refused); 2 verify, crl inspect: unusable input; \
    64 wrong usage; 78 wrong configuration; 130, 143 run: ended at once by a second Ctrl-C or SIGTERM; \
    141 the reader of the output has gone."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C, then finish the requests in progress
    ///
    /// A second SIGTERM or Ctrl-C ends it at once.  On SIGHUP it reads the configuration and the files
    /// of its certificate and keys at once, instead of at the next interval of a few seconds.
    /// `config diff` shows what a file would change, and what needs a restart.
    Run {
        /// Configuration file (TOML); `config-reference` prints its keys
        #[arg(long, short, value_name = "FILE", env = "ANCHORGATE_CONFIG")]
        config: PathBuf,
        /// Accept files with keys and secrets that other users can read or write, for mounts that
        /// cannot change modes
        #[arg(long)]
        allow_insecure_file_modes: bool,
    },
    /// Check a configuration file and its key files; report every problem at once
    CheckConfig {
        /// Configuration file (TOML)
        #[arg(long, short, value_name = "FILE", env = "ANCHORGATE_CONFIG")]
        config: PathBuf,
        /// Accept files with keys and secrets that other users can read or write, for mounts that
        /// cannot change modes
        #[arg(long)]
        allow_insecure_file_modes: bool,
    },
    /// Print the reference of configuration keys: type, default and meaning
    ConfigReference {
        /// A key such as `graph.every`, or a table such as `graph`; all keys if absent
        key: Option<String>,
    },
    /// Run everything on this machine without configuration, and demonstrate it
    ///
    /// Creates a PKI, a directory and revocation lists, starts the real gateway on them, and then
    /// acts as administrator and device: tokens for each subject field, a revocation that takes
    /// effect on an open connection, an anchor that is removed and added again.
    Quickstart(QuickstartArgs),
    #[command(visible_alias = "explain")]
    Verify(verify::Args),
    /// Check whether the running gateway is ready: exit status 0 if it is
    Ready(ReadyArgs),
    /// Show, sync, compare or approve the trust of the running gateway
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Show or refresh the revocation lists of the running gateway, or inspect a list
    #[command(subcommand)]
    Crl(CrlCommand),
    /// Compare or apply the configuration of the running gateway
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show, rotate or revoke the signing keys of the running gateway
    #[command(subcommand)]
    Keys(KeysCommand),
    Directory(Box<DirectoryArgs>),
    /// Verify files of audit records
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print the JSON Schema of audit records, as the JSON log format writes them
    AuditSchema,
    /// Check what a gateway needs: clock, directories and permissions, lists, keys, ports, limits
    Doctor(DoctorArgs),
    /// Write status, metrics and configuration of the running gateway to one file, without secrets
    SupportBundle(SupportArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Write the manual pages
    Man(ManArgs),
    /// Print the version
    Version(VersionArgs),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let cli = match arguments::parse(&words) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Run { config, allow_insecure_file_modes } => {
            with_config(&config, allow_insecure_file_modes, |config| block_on(run::run(config)))
        }
        Command::CheckConfig { config, allow_insecure_file_modes } => {
            check::check(&config, allow_insecure_file_modes)
        }
        Command::ConfigReference { key } => config_reference(key.as_deref()),
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
        Command::Config(command) => {
            block_on(async move { exit_code(config::config(&command).await) })
        }
        Command::Keys(command) => block_on(async move { exit_code(keys::keys(&command).await) }),
        Command::Directory(args) => {
            block_on(async move { exit_code(directory::directory(&args).await) })
        }
        Command::Audit(command) => exit_code(audit::audit(&command)),
        Command::AuditSchema => {
            print!("{}", SCHEMA);
            ExitCode::SUCCESS
        }
        Command::Doctor(args) => block_on(async move { doctor::doctor(&args).await }),
        Command::SupportBundle(args) => {
            block_on(async move { exit_code(support::bundle(&args).await) })
        }
        Command::Completions(args) => about::completions(&args),
        Command::Man(args) => exit_code(about::man(&args)),
        Command::Version(args) => about::version(&args),
    }
}

fn with_config(
    path: &Path,
    allow_insecure_file_modes: bool,
    then: impl FnOnce(Config) -> ExitCode,
) -> ExitCode {
    match load(path) {
        Ok(mut config) => {
            if allow_insecure_file_modes {
                config.keyring.file_modes = FileModes::Unchecked;
            }
            then(config)
        }
        Err(error) => {
            eprintln!("{error}");
            exit::CONFIG.into()
        }
    }
}

/// Prints the whole reference, or the rows of one key or table.
fn config_reference(key: Option<&str>) -> ExitCode {
    let Some(key) = key else {
        print!("{}", reference::TEXT);
        return ExitCode::SUCCESS;
    };
    let key = key.trim_matches(['[', ']']);
    let found = reference::find(key);
    if found.is_empty() {
        let hint = match closest(key, reference::entries().map(|entry| entry.key)) {
            Some(known) => format!("did you mean `{known}`?"),
            None => "`anchorgate config-reference` prints all".to_owned(),
        };
        eprintln!("anchorgate: `{key}` is not a configuration key; {hint}");
        return exit::USAGE.into();
    }
    for Entry { key, kind, default, meaning } in found {
        println!("{key}\n  type     {kind}\n  default  {default}\n  {meaning}\n");
    }
    ExitCode::SUCCESS
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

/// Time at the end of the process for threads that are blocked: a silent name server can hold one for
/// many seconds.
const BLOCKED: Duration = Duration::from_millis(100);

pub(crate) fn block_on(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(work);
            runtime.shutdown_timeout(BLOCKED);
            code
        }
        Err(error) => failed(&error.into()),
    }
}

fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<gateway::Refused>() {
        Some(refused) => eprintln!("anchorgate: {refused}"),
        None => eprintln!("anchorgate: {}", one_line(error)),
    }
    if error.is::<directory::UsageError>() { exit::USAGE.into() } else { exit::FAILURE.into() }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A name is looked up on a thread that waits for the name server.
    #[test]
    fn a_silent_name_server_does_not_delay_the_end() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
        // Only so that the test ends if the process waits for the thread.
        client.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&has_ended);
        let address = server.local_addr().expect("bound");
        block_on(async move {
            let lookup = tokio::task::spawn_blocking(move || {
                client.send_to(b"question", address).expect("sent");
                let _ = client.recv(&mut [0; 8]);
                ended.store(true, Ordering::Relaxed);
            });
            // The server has the question and does not answer it.
            let asked = tokio::task::spawn_blocking(move || {
                server.recv(&mut [0; 8]).expect("asked");
                server
            });
            let _server = asked.await.expect("no panic");
            drop(lookup);
            ExitCode::SUCCESS
        });
        assert!(!has_ended.load(Ordering::Relaxed), "the end waited for the name server");
    }
}
