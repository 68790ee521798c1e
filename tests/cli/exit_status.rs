//! The table of exit statuses in the README, row by row.

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::process::{Running, SOON, anchorgate, pending_request, text, world};

/// The statuses that the table of the README has.
fn statuses_of_the_readme() -> BTreeSet<i32> {
    let readme = include_str!("../../README.md");
    let table = readme.split("| exit status | meaning |").nth(1).expect("the table");
    let rows = table.trim_start().lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split(',')).map(|n| n.trim().parse().expect("a number")).collect()
}

/// Runs the program with these arguments; it must end with `status` and name `words`.
fn ends_with(status: i32, words: &str, args: &[&str]) -> Output {
    let output = anchorgate(args);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
    let all = text(&output.stdout) + &text(&output.stderr);
    assert!(all.contains(words), "{args:?}: {all} has no `{words}`");
    output
}

/// A command for each status that ends at once.
fn run_commands(folder: &str, config: &str) -> [i32; 5] {
    let absent = &*format!("{folder}/absent");
    ends_with(0, "no problem found", &["check-config", "--config", config]);
    ends_with(1, "no response", &["ready", "--admin", &format!("unix:{absent}")]);
    ends_with(1, absent, &["audit", "verify", absent]);
    for args in [
        &["verify", "--directory", absent, "--chain", config][..],
        &["verify", "--directory", config, "--chain", absent],
        &["verify", "--directory", config, "--chain", config, "--crl", absent],
        &["verify", "--directory", config, "--chain", config, "--devices", absent],
        &["verify", "--chain", absent],
        &["crl", "inspect", absent],
        &["crl", "inspect", config, "--signer", absent],
    ] {
        ends_with(2, &format!("{absent}: "), args);
    }
    // A directory cannot be read like a file, although it can be opened.
    ends_with(2, folder, &["crl", "inspect", folder]);
    ends_with(2, folder, &["verify", "--directory", config, "--chain", config, "--crl", folder]);
    ends_with(2, "--at: `soon`", &["crl", "inspect", config, "--at", "soon"]);
    ends_with(64, "--help", &["fly"]);
    ends_with(78, absent, &["check-config", "--config", absent]);
    ends_with(78, absent, &["run", "--config", absent]);
    ends_with(78, absent, &["doctor", "--config", absent]);
    [0, 1, 2, 64, 78]
}

/// The status of a command whose reader has gone.
fn without_a_reader() -> i32 {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_anchorgate"));
    let status = command.arg("version").stdout(writer).stderr(Stdio::null()).status();
    status.expect("it runs").code().expect("a status")
}

/// The status of a gateway that gets this signal twice while a request is in progress.
fn cut_by(signal: &str) -> i32 {
    let (_dir, world, file) = world();
    let mut gateway = Running::start(&world, &file);
    let _pending = pending_request(&world);
    gateway.signal(signal);
    // The second signal must not arrive before the first one was handled.
    let start = Instant::now();
    while std::net::TcpStream::connect(world.ports.admin).is_ok() {
        assert!(start.elapsed() < SOON, "the gateway still listens");
    }
    gateway.signal(signal);
    gateway.ends().expect("a status")
}

#[test]
fn every_exit_status_of_the_readme_occurs() {
    let (dir, _world, config) = world();
    let folder = dir.path().to_str().expect("UTF-8");
    let mut seen = BTreeSet::from(run_commands(folder, config.to_str().expect("UTF-8")));
    seen.extend([without_a_reader(), cut_by("INT"), cut_by("TERM")]);
    assert_eq!(seen, statuses_of_the_readme());
    let help = text(&anchorgate(&["--help"]).stdout);
    let help = help.split("Exit status:").nth(1).expect("the statuses in --help");
    let words: Vec<&str> = help.split(|c: char| !c.is_ascii_digit()).collect();
    let missing: Vec<_> = seen.iter().filter(|n| !words.contains(&&*n.to_string())).collect();
    assert!(missing.is_empty(), "{missing:?} are not in --help");
}
