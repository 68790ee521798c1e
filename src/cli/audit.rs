//! `audit verify`: the chain of hashes of audit files.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

use crate::runtime::audit_sink::Verification;
use crate::x509::certificate::Fingerprint;

/// Commands for audit files.
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Verify that no record was changed, removed, added or moved (`audit.hash_chain`)
    ///
    /// Prints the number of records and the hashes of both ends.  The exit status is 1 if the chain has a
    /// fault.  The end of a file can be cut without a trace, and a whole chain can be computed again: keep
    /// the last hash elsewhere, and pass it with `--last` or compare it with `previous` of the next file.
    Verify {
        /// Files, oldest first
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Hash that the last record must have
        #[arg(long, value_name = "SHA-256")]
        last: Option<String>,
    },
}

/// Runs `audit …`.
///
/// # Errors
/// A file cannot be read.
pub(super) fn audit(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    let AuditCommand::Verify { files, last } = command;
    let mut verification = Verification::default();
    for path in files {
        let context = || path.display().to_string();
        let file = File::open(path).with_context(context)?;
        if let Err(fault) = verification.read(BufReader::new(file)).with_context(context)? {
            println!("FAULT  {}: {fault}", path.display());
            return Ok(ExitCode::FAILURE);
        }
    }
    let Some(chained) = verification.finish() else {
        println!("FAULT  the files have no record");
        return Ok(ExitCode::FAILURE);
    };
    if let Some(expected) = last.as_ref().filter(|last| **last != chained.last) {
        println!(
            "FAULT  the last record has the hash {}, not {expected}: records after it are missing, \
             or the chain is another one",
            chained.last
        );
        return Ok(ExitCode::FAILURE);
    }
    let start = Fingerprint([0; 32]).to_string();
    let before = if chained.before == start { "the start of the chain" } else { &chained.before };
    println!("ok  {} records\n  follows  {before}\n  last     {}", chained.lines, chained.last);
    Ok(ExitCode::SUCCESS)
}
