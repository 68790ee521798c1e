//! The `anchorgate` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    anchorgate::cli::main()
}
