//! Commands about the program itself: `version`, `completions`, `man`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;
use serde_json::{Value, json};

use crate::cli::Cli;

/// Arguments of `version`.
#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// Print JSON, with the commit, the platform and the crypto library
    #[arg(long)]
    json: bool,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Directory to write to: one page for the program, and one for each command
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Also write the completions of every shell
    #[arg(long)]
    completions: bool,
}

/// Runs `version`.
pub(super) fn version(args: &VersionArgs) -> ExitCode {
    match args.json {
        true => println!("{:#}", build()),
        false => println!("anchorgate {}", env!("CARGO_PKG_VERSION")),
    }
    ExitCode::SUCCESS
}

/// Facts about this build.
pub(super) fn build() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        // Set by the build of an image or a package; the source alone does not know its commit.
        "commit": option_env!("ANCHORGATE_COMMIT"),
        "platform": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "optimized": !cfg!(debug_assertions),
        "cryptoLibrary": "aws-lc-rs",
        "fips": aws_lc_rs::try_fips_mode().is_ok(),
        "minimumRust": env!("CARGO_PKG_RUST_VERSION"),
    })
}

/// Runs `completions`.
pub(super) fn completions(args: &CompletionsArgs) -> ExitCode {
    print!("{}", completions_of(args.shell));
    ExitCode::SUCCESS
}

fn completions_of(shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "anchorgate", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Runs `man`.
///
/// # Errors
/// The directory cannot be written.
pub(super) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let failed = |path: &Path| format!("cannot write {}", path.display());
    let directory = &args.directory;
    fs::create_dir_all(directory).with_context(|| failed(directory))?;
    clap_mangen::generate_to(Cli::command(), directory).with_context(|| failed(directory))?;
    if args.completions {
        for shell in Shell::value_variants() {
            let file = directory.join(format!("anchorgate.{shell}"));
            fs::write(&file, completions_of(*shell)).with_context(|| failed(&file))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(command: &clap::Command, path: &str, all: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path}-{}", sub.get_name());
            all.push(path.clone());
            commands(sub, &path, all);
        }
    }

    #[test]
    fn every_command_has_a_man_page_and_is_completed() {
        let dir = tempfile::tempdir().expect("a directory");
        let args = ManArgs { directory: dir.path().join("man"), completions: true };
        man(&args).expect("written");
        let mut all = vec!["anchorgate".to_owned()];
        commands(&Cli::command(), "anchorgate", &mut all);
        assert!(all.contains(&"anchorgate-keys-revoke".to_owned()), "{all:?}");
        for name in &all {
            let page = fs::read_to_string(args.directory.join(format!("{name}.1")));
            assert!(page.is_ok_and(|page| page.contains(".SH NAME")), "{name} has no page");
        }
        let bash = completions_of(Shell::Bash);
        assert!(bash.contains("anchorgate") && bash.contains("--allow-insecure-file-modes"));
        assert!(args.directory.join("anchorgate.zsh").exists());
    }

    #[test]
    fn the_version_names_the_build() {
        let build = build();
        assert_eq!(build["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(build["cryptoLibrary"], "aws-lc-rs");
        assert_eq!(build["optimized"], json!(!cfg!(debug_assertions)));
    }
}
