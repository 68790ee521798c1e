//! The command line, with the values of environment variables.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};

use crate::cli::Cli;

/// Parses the words of a command line.  A variable without a value counts as not set.
pub(super) fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let has_no_value = |arg: &Arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        value.is_some_and(|value| value.is_empty())
    };
    let command = without_variables(Cli::command(), &has_no_value);
    let error = match command.try_get_matches_from(words).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    // A usage line would list optional arguments that a variable sets, as if they were needed.
    let command = without_variables(Cli::command(), &|arg| !arg.is_required_set());
    let other = command.try_get_matches_from(words).err();
    Err(other.filter(|other| other.kind() == error.kind()).unwrap_or(error))
}

/// Ignores the variables of the arguments that `is_ignored` selects.
fn without_variables(command: Command, is_ignored: &dyn Fn(&Arg) -> bool) -> Command {
    command
        .mut_args(|arg| if is_ignored(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(|command| without_variables(command, is_ignored))
}
