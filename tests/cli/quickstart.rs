//! The commands that the quickstart prints.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::process::{anchorgate, text};

/// A quickstart; killed when dropped.
struct Quickstart(Child);

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a quickstart in `folder`, and returns its output once it only serves.
fn start(folder: &Path) -> (Quickstart, String) {
    let mut process = Command::new(env!("CARGO_BIN_EXE_anchorgate"))
        .args(["quickstart", "--data-dir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let mut output = BufReader::new(process.stdout.take().expect("its output"));
    let quickstart = Quickstart(process);
    let mut printed = String::new();
    while !printed.contains("Serving until Ctrl-C") {
        assert_ne!(output.read_line(&mut printed).expect("text"), 0, "it ended: {printed}");
    }
    (quickstart, printed)
}

/// The commands in the output, each on one line.
fn commands(printed: &str) -> Vec<String> {
    let joined = printed.replace("\\\n      ", "");
    joined.lines().filter_map(|line| Some(line.strip_prefix("   $ ")?.to_owned())).collect()
}

#[test]
fn the_printed_commands_are_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_quickstart, printed) = start(&folder.path().join("q"));
    let commands = commands(&printed);
    assert!(!printed.contains("FAILED"), "{printed}");
    let revoked = commands.iter().find(|command| command.contains("/dns-3-chain.pem"));
    let revoked = revoked.expect("a command for the revoked device");
    assert!(revoked.starts_with("curl ") && revoked.ends_with("/oauth2/token"), "{revoked}");

    for words in
        ["It fails with \"alert certificate revoked\"", "-H \"Authorization: Bearer $(cat "]
    {
        assert!(printed.contains(words), "{words} is not in {printed}");
    }

    let bin = Path::new(env!("CARGO_BIN_EXE_anchorgate")).parent().expect("a folder");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("a path"));
    let directory = commands.iter().filter(|c| c.starts_with("anchorgate directory "));
    let mut roots = Vec::new();
    for command in directory {
        let output = Command::new("bash").args(["-c", command]).env("PATH", &path).output();
        let output = output.expect("bash runs");
        assert!(output.status.success(), "{command}: {output:?}");
        roots.push(text(&output.stdout).contains("  root  "));
    }
    assert_eq!(roots, [false, true], "the anchor is removed, and added again: {commands:?}");
}

#[test]
fn a_directory_that_cannot_be_created_is_named() {
    let output = anchorgate(&["quickstart", "--check", "--data-dir", "/proc/x"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot create /proc/x/pki: ") && stderr.contains("os error"),
        "{stderr}"
    );
}
