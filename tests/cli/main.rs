//! The program as a process: commands, output, exit codes and signals.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod crl;
mod exit_status;
mod offline;
mod process;
mod quickstart;
mod verify;
