//! The `anchorgate` program.

use std::process::ExitCode;

/// Returns memory to the system soon after it was freed, as after a storm of connections.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    anchorgate::cli::main()
}
