//! Logs that cannot be written, silent operators' connections, and the exit statuses.

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anchorgate::cli::quickstart::world::Ports;
use tokio::time::sleep;

use super::IN_FORCE;
use super::restart::{Instance, hub};

/// A log on a full disk, a pipe without a reader, and a pipe that is not read stop nothing.
#[tokio::test(flavor = "multi_thread")]
async fn logs_that_cannot_be_written_stop_nothing() {
    let hub = hub().await;
    for log in ["full disk", "closed pipe", "unread pipe"] {
        let keys = "drain_delay = \"0s\"";
        let mut instance = Instance::new(&hub.world, "log", Ports::free().expect("ports"), keys);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = instance.command();
        command.env("ANCHORGATE__LOG__FILTER", "debug");
        match log {
            "full disk" => {
                let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
                command.stderr(full)
            }
            _ => command.stderr(writer),
        };
        instance.process = Some(command.spawn().expect("the program runs"));
        // The command has the other copy of the writing end.
        drop(command);
        let reader = (log == "unread pipe").then_some(reader);
        instance.until_ready(true).await;
        let start = Instant::now();
        let dropped = |text: &str| {
            text.contains("anchorgate_log_dropped_lines_total{kind=\"log\"}")
                && !text.contains("anchorgate_log_dropped_lines_total{kind=\"log\"} 0")
        };
        while reader.is_none() && !dropped(&hub.metrics_of(&instance).await) {
            assert!(start.elapsed() < IN_FORCE, "{log}: lost lines are not counted");
            sleep(Duration::from_millis(50)).await;
        }
        instance.until_ready(true).await;
        instance.stop().await;
    }
}

/// Exit statuses of `run` besides those of signals, which `restart` tests.
#[tokio::test(flavor = "multi_thread")]
async fn each_reason_not_to_start_has_its_exit_status() {
    let hub = hub().await;
    let instance = |name: &str, keys: &str| {
        Instance::new(&hub.world, name, Ports::free().expect("ports"), keys)
    };
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let ports = Ports { token: busy.local_addr().expect("bound"), ..Ports::free().expect("ports") };
    let wrong = instance("wrong", "no_such_key = 1");
    let taken = Instance::new(&hub.world, "taken", ports, "");
    let locked = instance("data", "");
    let program = || Command::new(env!("CARGO_BIN_EXE_anchorgate"));
    let with = |words: &[&str]| {
        let mut command = program();
        command.args(words);
        command
    };
    for (case, mut command, status) in [
        ("an unknown option", with(&["run", "--no-such-option"]), 64),
        ("no configuration file", with(&["run"]), 64),
        ("a file that is missing", with(&["run", "--config", "/nonexistent.toml"]), 78),
        ("an unknown key", wrong.command(), 78),
        ("an address in use", taken.command(), 1),
        // The directory of the hub, which is running.
        ("a data directory in use", locked.command(), 1),
        ("help", with(&["run", "--help"]), 0),
    ] {
        command.env_remove("ANCHORGATE_CONFIG").stdout(Stdio::null()).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.expect("no panic").expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{case}: {text}");
    }
}
